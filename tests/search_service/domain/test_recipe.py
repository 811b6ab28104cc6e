"""A recipe's identity is everything that it says, and nothing else."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from search_service.domain import recipe as recipe_module
from search_service.domain.evaluation import ENGINE_VERSION
from search_service.domain.recipe import Recipe, Retraining
from search_service.domain.search import MetaTraining, NetworkSpec, SearchSpec, TaskFamily
from search_service.storage.codec import recipe_from_json

CONV4 = Recipe(
    tasks=TaskFamily(family="glyphs", ways=5, shots=1, queries=15),
    model=NetworkSpec(network="conv4", filters=8, pooling="max"),
    meta_training=MetaTraining(),
    norm_statistics="support",
)
MLP = Recipe(
    tasks=TaskFamily(family="sinusoid", shots=10, queries=15),
    model=NetworkSpec(network="mlp", hidden=(40, 40)),
    meta_training=MetaTraining(),
    norm_statistics="support",
)

CHANGES: list[tuple[Recipe, str, str, Any]] = [
    (CONV4, "tasks", "family", "omniglot"),
    (CONV4, "tasks", "ways", 4),
    (CONV4, "tasks", "shots", 2),
    (CONV4, "tasks", "queries", 14),
    (CONV4, "model", "filters", 9),
    (CONV4, "model", "pooling", "stride"),
    (MLP, "model", "hidden", (40, 41)),
    (CONV4, "meta_training", "order", "second"),
    (CONV4, "meta_training", "outer_loss", "every_step"),
    (CONV4, "meta_training", "inner_steps", 4),
    (CONV4, "meta_training", "inner_rate", 0.2),
    (CONV4, "meta_training", "outer_rate", 0.002),
    (CONV4, "meta_training", "schedule", "constant"),
    (CONV4, "meta_training", "meta_batch", 5),
    (CONV4, "meta_training", "iterations", 2001),
    (CONV4, "meta_training", "seed", 1),
]


@pytest.mark.parametrize(("base", "part", "field", "value"), CHANGES)
def test_every_field_changes_the_key(base: Recipe, part: str, field: str, value: Any) -> None:
    changed = replace(base, **{part: replace(getattr(base, part), **{field: value})})
    assert changed.key != base.key


def test_no_field_is_forgotten_above() -> None:
    for part in ("tasks", "model", "meta_training"):
        named = {field for _, changed, field, _ in CHANGES if changed == part}
        every = {field.name for field in fields(getattr(CONV4, part))}
        assert every - named <= {"network"}  # conv4 and mlp share no field, so replacing it alone is refused
    assert {field.name for field in fields(Recipe)} == {
        "tasks",
        "model",
        "meta_training",
        "norm_statistics",
        "retraining",
    }


def test_network_statistics_and_engine_change_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {CONV4.key, MLP.key, replace(CONV4, norm_statistics="query").key}
    keys.add(replace(CONV4, model=NetworkSpec(network="mlp")).key)
    monkeypatch.setattr(recipe_module, "ENGINE_VERSION", ENGINE_VERSION + 1)
    keys.add(CONV4.key)
    assert len(keys) == 5


RETRAINING = Retraining(
    checkpoint="ab" * 32, uri="checkpoints/ab", candidate="00010@2", units=tuple(CONV4.model.units.items())
)


@pytest.mark.parametrize("recipe", [CONV4, MLP, CONV4.retrained(RETRAINING, 0.1)], ids=["conv4", "mlp", "retrained"])
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    again = recipe_from_json(json.loads(json.dumps(recipe.config)))
    assert again == recipe
    assert again.key == recipe.key


def test_a_retraining_is_short_and_under_its_candidate() -> None:
    recipe = CONV4.retrained(RETRAINING, rate=0.2)
    training = recipe.meta_training
    assert (training.inner_steps, training.inner_rate, training.iterations) == (2, 0.2, 400)
    assert training.seed != CONV4.meta_training.seed
    others = [
        replace(RETRAINING, candidate="00010*2@2"),
        replace(RETRAINING, checkpoint="cd" * 32),
        replace(RETRAINING, units=(("all", ("conv1.convolution.weight",)),)),
    ]
    keys = {CONV4.retrained(each, 0.2).key for each in (RETRAINING, *others)}
    assert len({CONV4.key, *keys}) == 5


def test_what_is_not_training_is_not_in_it() -> None:
    spec = SearchSpec(tasks=CONV4.tasks, model=CONV4.model, meta_training=CONV4.meta_training, max_degradation=0.01)
    assert Recipe.of(spec) == CONV4
    assert Recipe.of(replace(spec, max_degradation=0.5, name="other", seed=3)).key == CONV4.key
    assert Recipe.of(replace(spec, norm_statistics="query")).key != CONV4.key


def test_a_spec_with_a_checkpoint_has_no_recipe() -> None:
    spec = SearchSpec(tasks=CONV4.tasks, model=CONV4.model, checkpoint="ab" * 32, max_degradation=0.01)
    with pytest.raises(ValueError, match="has no recipe"):
        Recipe.of(spec)
