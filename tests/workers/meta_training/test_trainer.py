"""Training in slices is training; states and checkpoints say whose they are; a loss that is no number stops it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from search_service.domain.evaluation import Split
from search_service.domain.recipe import Recipe, Retraining
from search_service.domain.search import MetaTraining, NetworkSpec, TaskFamily
from search_service.storage.codec import recipe_from_json
from workers.adaptation.episodes import EpisodeBatch, Episodes, open_task_family
from workers.adaptation.model import batch_tensors
from workers.meta_training import trainer as trainer_module
from workers.meta_training.execution import Execution
from workers.meta_training.trainer import DivergedTraining, MetaTrainer, read_checkpoint

CPU = torch.device("cpu")
SINUSOID = Recipe(
    tasks=TaskFamily(family="sinusoid", shots=5, queries=10),
    model=NetworkSpec(network="mlp", hidden=(20, 20)),
    meta_training=MetaTraining(inner_steps=2, inner_rate=0.01, outer_rate=0.01, iterations=3, meta_batch=3),
    norm_statistics="support",
)
GLYPHS = Recipe(
    tasks=TaskFamily(family="glyphs", ways=3, shots=1, queries=2),
    model=NetworkSpec(network="conv4", filters=4),
    meta_training=MetaTraining(inner_steps=1, iterations=2, meta_batch=2),
    norm_statistics="support",
)


def trainer_of(recipe: Recipe) -> MetaTrainer:
    return MetaTrainer(recipe, open_task_family(recipe.tasks, None), CPU)


def varied(recipe: Recipe, **fields: Any) -> Recipe:
    return replace(recipe, meta_training=replace(recipe.meta_training, **fields))


def copied(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in parameters.items()}


def assert_bit_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    "recipe",
    [
        SINUSOID,
        varied(SINUSOID, schedule="constant", order="second"),
        varied(SINUSOID, outer_loss="every_step"),
        GLYPHS,
    ],
)
def test_slices_in_new_trainers_give_the_unbroken_parameters(recipe: Recipe) -> None:
    unbroken = trainer_of(recipe)
    initial = copied(unbroken.parameters)
    unbroken.run(seconds=600)
    assert unbroken.is_finished
    assert unbroken.iteration == recipe.meta_training.iterations
    assert all(not torch.equal(unbroken.parameters[name], initial[name]) for name in initial if "weight" in name)

    state = trainer_of(recipe).state()  # before the first iteration
    for iteration in range(recipe.meta_training.iterations):
        trainer = trainer_of(recipe)
        trainer.restore(state)
        assert trainer.iteration == iteration
        trainer.run(seconds=0)  # at least one, and here exactly one
        assert trainer.iteration == iteration + 1
        state = trainer.state()
    assert_bit_equal(trainer.parameters, unbroken.parameters)
    assert trainer.mean_loss == unbroken.mean_loss
    assert trainer.checkpoint() == unbroken.checkpoint()
    trainer.run(seconds=600)  # finished: nothing happens
    assert_bit_equal(trainer.parameters, unbroken.parameters)


def test_a_retraining_goes_on_from_its_checkpoint_under_its_candidate() -> None:
    units = tuple((name, tuple(names)) for name, names in SINUSOID.model.units.items())
    retraining = Retraining(checkpoint="ab", uri="ab", candidate="001*2", units=units)
    before = varied(SINUSOID, iterations=15)
    recipe = before.retrained(retraining, rate=0.01)
    assert recipe.meta_training.iterations == 3
    begin = copied(trainer_of(varied(SINUSOID, seed=7)).parameters)

    def begun(recipe: Recipe) -> MetaTrainer:
        return MetaTrainer(recipe, open_task_family(recipe.tasks, None), CPU, begin=copied(begin))

    trainer = begun(recipe)
    assert trainer.candidate.text == "001*2"
    assert_bit_equal(trainer.parameters, begin)
    trainer.run(seconds=600)
    # All parameters learn, whatever the inner loop moves.
    assert all(not torch.equal(trainer.parameters[name], begin[name]) for name in begin)
    other = begun(before.retrained(replace(retraining, candidate="001"), rate=0.01))
    other.run(seconds=600)
    assert not torch.equal(trainer.parameters["head.weight"], other.parameters["head.weight"])
    for wrong, given in ((recipe, None), (SINUSOID, begin)):
        with pytest.raises(ValueError, match="a retraining, and nothing else"):
            MetaTrainer(wrong, open_task_family(wrong.tasks, None), CPU, begin=given)


def test_a_trainer_may_be_taken_back_to_any_earlier_state() -> None:
    trainer = trainer_of(SINUSOID)
    states = [trainer.state()]
    while not trainer.is_finished:
        trainer.run(seconds=0)
        states.append(trainer.state())
    final = copied(trainer.parameters)
    for state in (states[0], states[2]):
        trainer.restore(state)
        trainer.run(seconds=600)
        assert_bit_equal(trainer.parameters, final)


def test_a_training_is_a_function_of_its_recipe() -> None:
    torch.manual_seed(1)
    first = trainer_of(SINUSOID)
    first.run(seconds=600)
    torch.manual_seed(2)
    second = trainer_of(SINUSOID)
    second.run(seconds=600)
    other = trainer_of(varied(SINUSOID, seed=1))
    other.run(seconds=600)
    assert_bit_equal(first.parameters, second.parameters)
    assert not torch.equal(first.parameters["head.weight"], other.parameters["head.weight"])


def test_the_state_of_another_recipe_is_refused_and_changes_nothing() -> None:
    donor = trainer_of(varied(SINUSOID, inner_rate=0.02))
    donor.run(seconds=0)
    trainer = trainer_of(SINUSOID)
    before = copied(trainer.parameters)
    with pytest.raises(ValueError, match=f"{donor.recipe.key[:12]}, expected {SINUSOID.key[:12]}"):
        trainer.restore(donor.state())
    assert trainer.iteration == 0
    assert_bit_equal(trainer.parameters, before)


@pytest.mark.parametrize("recipe", [SINUSOID, GLYPHS])
def test_a_checkpoint_is_its_parameters_and_its_recipe(recipe: Recipe) -> None:
    trainer = trainer_of(recipe)
    parameters, config = read_checkpoint(trainer.checkpoint(), CPU)
    assert_bit_equal(parameters, trainer.parameters)
    assert recipe_from_json(config) == recipe
    trainer.adaptation.network.load_state_dict(parameters)  # of the same network


def test_progress_is_told_every_iteration_and_may_stop() -> None:
    trainer = trainer_of(SINUSOID)
    told: list[tuple[int, float]] = []
    trainer.run(600, lambda iteration, loss: told.append((iteration, loss)))
    assert [iteration for iteration, _ in told] == [1, 2, 3]
    assert told[-1][1] == trainer.mean_loss
    assert all(math.isfinite(loss) for _, loss in told)

    def stop(_iterations: int, _loss: float) -> None:
        raise InterruptedError

    interrupted = trainer_of(SINUSOID)
    with pytest.raises(InterruptedError):
        interrupted.run(600, stop)
    assert interrupted.iteration == 1


def test_the_cosine_lowers_the_outer_rate_to_nothing() -> None:
    cosine, constant = (
        trainer_of(varied(SINUSOID, schedule=schedule, iterations=6)) for schedule in ("cosine", "constant")
    )
    last: dict[str, Tensor] = {}
    for trainer in (cosine, constant):
        trainer.run(0)
    assert_bit_equal(cosine.parameters, constant.parameters)  # the first step is at the full rate
    moved = []
    for trainer in (cosine, constant):
        while not trainer.is_finished:
            last = copied(trainer.parameters)
            trainer.run(0)
        moved.append(float((trainer.parameters["head.weight"] - last["head.weight"]).abs().max()))
    assert 0 < moved[0] < 0.15 * moved[1]


def test_the_outer_loss_falls() -> None:
    trainer = trainer_of(varied(SINUSOID, inner_steps=1, iterations=100, meta_batch=4))
    unseen = batch_tensors(trainer.episodes.draw(Split.VALIDATION, 0, 0, 60), CPU)
    before = trainer._outer_gradient(trainer.parameters, *unseen)[1]
    trainer.run(seconds=600)
    assert trainer._outer_gradient(trainer.parameters, *unseen)[1] < 0.9 * before


def test_a_divergence_stops_training_with_advice() -> None:
    trainer = trainer_of(varied(SINUSOID, inner_rate=100.0, inner_steps=6, iterations=50))
    with pytest.raises(DivergedTraining, match=r"lower meta_training\.inner_rate \(now 100\.0\)"):
        trainer.run(seconds=600)
    assert not trainer.is_finished


def test_the_losses_of_all_steps_count_until_their_weights_are_gone() -> None:
    of_all, of_the_last = (
        trainer_of(varied(SINUSOID, outer_loss=outer_loss, iterations=15)) for outer_loss in ("every_step", "last_step")
    )
    for trainer in (of_all, of_the_last):
        trainer.run(0)
        trainer.run(0)
    assert not torch.equal(of_all.parameters["head.weight"], of_the_last.parameters["head.weight"])
    for name, value in of_the_last.parameters.items():  # and from iteration 2 of 15 on, the last loss alone
        of_all.parameters[name].copy_(value)
    unseen = batch_tensors(of_all.episodes.draw(Split.VALIDATION, 0, 0, 3), CPU)
    left, right = (trainer._gradient(unseen) for trainer in (of_all, of_the_last))
    assert_bit_equal(left[0], right[0])
    assert left[1] == right[1]


def test_with_one_step_all_losses_are_the_last() -> None:
    every, last = (
        trainer_of(varied(SINUSOID, inner_steps=1, outer_loss=outer_loss)) for outer_loss in ("every_step", "last_step")
    )
    for trainer in (every, last):
        trainer.run(seconds=600)
    assert_bit_equal(every.parameters, last.parameters)


@pytest.fixture
def choosing(monkeypatch: pytest.MonkeyPatch) -> Execution:
    """Trainings try executions at once, however short they are, and this one is the fastest."""
    fastest = Execution(1)

    def choose(usual: Execution, options: list[Execution], seconds_left: Any, device: torch.device) -> Execution:
        assert all(seconds > 0 for seconds in seconds_left([*options, fastest]).values())
        return fastest

    monkeypatch.setattr(trainer_module, "choose", choose)
    monkeypatch.setattr(trainer_module, "ITERATIONS_BEFORE_CHOOSING", 2)
    monkeypatch.setattr(trainer_module, "WORTH_CHOOSING_S", 0.0)
    return fastest


def test_a_chosen_execution_changes_roundings_at_most_and_goes_with_the_state(choosing: Execution) -> None:
    recipe = varied(SINUSOID, iterations=6, meta_batch=5)
    trainer = trainer_of(recipe)
    for _ in range(4):
        trainer.run(0)
    assert trainer._outer_gradient.execution == choosing
    resumed = trainer_of(recipe)
    resumed.restore(trainer.state())
    assert resumed._outer_gradient.execution == choosing
    for each in (trainer, resumed):
        each.run(seconds=600)
    assert_bit_equal(trainer.parameters, resumed.parameters)

    usual = trainer_of(recipe)
    usual._has_chosen = True
    usual.run(seconds=600)
    assert usual._outer_gradient.execution != choosing
    for name, value in usual.parameters.items():
        torch.testing.assert_close(trainer.parameters[name], value, rtol=1e-3, atol=1e-5)


def test_a_short_training_tries_nothing(choosing: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "WORTH_CHOOSING_S", math.inf)
    trainer = trainer_of(varied(SINUSOID, iterations=4))
    trainer.run(seconds=600)
    assert trainer._outer_gradient.execution == trainer._usual


class Poisoned:
    """Episodes of which one task's support set is not a number."""

    def __init__(self, episodes: Episodes, spoil: Callable[[EpisodeBatch], None]) -> None:
        self.task = episodes.task
        self.input_shape = episodes.input_shape
        self._episodes = episodes
        self._spoil = spoil

    def class_count(self, split: Split) -> int | None:
        return self._episodes.class_count(split)

    def draw(self, split: Split, seed: int, start: int, count: int) -> EpisodeBatch:
        batch = self._episodes.draw(split, seed, start, count)
        if start >= 2 * count:
            self._spoil(batch)
        return batch


def test_the_parameters_before_a_divergence_are_kept_whole() -> None:
    def spoil(batch: EpisodeBatch) -> None:
        batch.query_y[:] = np.nan

    trainer = MetaTrainer(SINUSOID, Poisoned(open_task_family(SINUSOID.tasks, None), spoil), CPU)
    with pytest.raises(DivergedTraining, match="at iteration 2"):
        trainer.run(seconds=600)
    assert trainer.iteration == 2
    assert all(bool(value.isfinite().all()) for value in trainer.parameters.values())
    good = trainer_of(SINUSOID)
    good.run(0)
    good.run(0)
    assert_bit_equal(trainer.parameters, good.parameters)


def test_a_gradient_that_is_no_number_stops_training_though_the_loss_is_one() -> None:
    trainer = trainer_of(varied(SINUSOID, iterations=1))  # the last iteration: no later loss would show it
    outer_gradient = trainer._outer_gradient

    def infinite(*arguments: Any) -> tuple[dict[str, Tensor], float]:
        gradient, loss = outer_gradient(*arguments)
        gradient["head.bias"] = torch.full_like(gradient["head.bias"], math.inf)
        return gradient, loss

    trainer._outer_gradient = infinite  # type: ignore[assignment]
    with pytest.raises(DivergedTraining):
        trainer.run(seconds=600)
    assert not trainer.is_finished
    assert all(bool(value.isfinite().all()) for value in trainer.parameters.values())
