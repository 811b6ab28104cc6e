"""Judging many patterns by masked programs gives what adapting and predicting one by one gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import Adaptation, Parameters, adapt, predict
from workers.adaptation.judging import Judge, Metric, accuracy, negative_mse
from workers.adaptation.lanes import WAVE

Make = Callable[..., Adaptation]
Episodes = tuple[Tensor, Tensor, Tensor, Tensor]
MakeEpisodes = Callable[..., Episodes]
EPISODES = 3


def negative_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """A quality that shows every difference, where accuracy shows few."""
    return -torch.nn.functional.cross_entropy(outputs, y)


def one_by_one(
    adaptation: Adaptation, metric: Metric, parameters: Parameters, pattern: LambdaPattern, episodes: Episodes
) -> Tensor:
    """`B x max(S, 1)` qualities: every episode, every truncation of the pattern on its own, pruned."""
    rows = []
    for x, y, qx, qy in zip(*episodes, strict=True):
        row = []
        for steps in range(min(pattern.steps, 1), pattern.steps + 1):
            state = adapt(adaptation, parameters, pattern.first_steps(steps), x, y)
            row.append(metric(predict(adaptation, state, qx), qy))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kind", "norm_statistics"), [("max", "support"), ("stride", "query"), ("regression", "support")]
)
@pytest.mark.parametrize("at_once", [1, 2])  # of three: the last chunk of two is a single episode
def test_qualities_at_every_step(
    kind: str, norm_statistics: str, at_once: int, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, norm_statistics=norm_statistics)
    episodes = make_episodes(kind, EPISODES)
    metric = negative_mse if kind == "regression" else negative_loss
    judge = Judge(adaptation, metric, adaptation.parameters(), at_once)
    units = len(adaptation.units)

    for text in ("1" * units, "0" * (units - 2) + "10@2", "0" * units):
        pattern = LambdaPattern.parse(text)
        qualities = judge.qualities(pattern, *episodes)
        assert qualities.shape == (EPISODES, max(pattern.steps, 1))
        expected = one_by_one(adaptation, metric, adaptation.parameters(), pattern, episodes)
        torch.testing.assert_close(qualities, expected, rtol=1e-10, atol=1e-10)
        assert len(set(qualities.flatten().tolist())) == qualities.numel()


@pytest.mark.parametrize("at_once", [1, 2])
def test_one_judge_judges_any_pattern(at_once: int, make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("mlp")
    episodes = make_episodes("mlp", 3)
    judge = Judge(adaptation, negative_loss, adaptation.parameters(), at_once)
    row = st.tuples(*[st.booleans()] * 3)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(row, max_size=2).map(lambda rows: LambdaPattern(units=3, rows=tuple(rows))))
    def check(pattern: LambdaPattern) -> None:
        expected = one_by_one(adaptation, negative_loss, adaptation.parameters(), pattern, episodes)
        torch.testing.assert_close(judge.qualities(pattern, *episodes), expected, rtol=1e-10, atol=1e-10)

    check()


def test_patterns_with_one_lowest_unit_and_step_count_share_a_program(
    make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation("mlp")
    episodes = make_episodes("mlp", 3)
    judge = Judge(adaptation, accuracy, adaptation.parameters())
    for text, programs in (("011@2", 1), ("010@2", 1), ("001/010", 1), ("001@2", 2), ("010", 3), ("011@2", 3)):
        judge.qualities(LambdaPattern.parse(text), *episodes)
        assert len(judge._programs) == programs, text


def test_accuracy_and_negative_mse_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0], [0.0, 1.0], [5.0, 4.0], [1.0, 2.0]])
    assert float(accuracy(logits, torch.tensor([0, 1, 1, 0]))) == 0.5
    assert float(negative_mse(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [5.0]]))) == -2.5


def test_accuracy_is_judged_alike_one_by_one_and_together(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("mlp", torch.float32)
    episodes = make_episodes("mlp", EPISODES, torch.float32, queries=4)
    pattern = LambdaPattern.parse("011@3")
    single, together = (
        Judge(adaptation, accuracy, adaptation.parameters(), at_once).qualities(pattern, *episodes)
        for at_once in (1, EPISODES)
    )
    assert torch.equal(single, together)
    assert 0 < float(single.mean()) < 1


def test_pause_is_called_before_every_wave_and_may_stop(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("mlp")
    judge = Judge(adaptation, accuracy, adaptation.parameters(), 2)
    calls: list[None] = []
    judge.qualities(LambdaPattern.full(3, 1), *make_episodes("mlp", 2 * WAVE + 1), pause=lambda: calls.append(None))
    assert len(calls) == 2  # one lane: a wave of WAVE calls of two episodes, and one episode more

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        judge.qualities(LambdaPattern.full(3, 1), *make_episodes("mlp", 5), pause=stop)


def test_judging_leaves_the_checkpoint_as_it_was(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("max")
    parameters = {name: value.clone() for name, value in adaptation.parameters().items()}
    judge = Judge(adaptation, negative_loss, parameters)
    before = {name: value.clone() for name, value in parameters.items()}
    episodes = make_episodes("max", 2)
    first = judge.qualities(LambdaPattern.full(5, 2), *episodes)
    assert torch.equal(judge.qualities(LambdaPattern.full(5, 2), *episodes), first)
    assert all(torch.equal(parameters[name], value) for name, value in before.items())
    assert all(torch.equal(judge.parameters[name], value) for name, value in before.items())
