"""Judging many candidates at once gives what adapting and predicting one by one gives, within a memory limit."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import DIVERGED_QUALITY
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns
from workers.adaptation import plans
from workers.adaptation.inner_loop import Adaptation, Parameters, adapt, predict
from workers.adaptation.judging import Judge, accuracy, negative_mse
from workers.adaptation.lanes import WAVE, Lanes
from workers.adaptation.layout import Layout
from workers.adaptation.memory import MemoryLimitTooSmall
from workers.adaptation.shared_runs import Metric

Make = Callable[..., Adaptation]
Episodes = tuple[Tensor, Tensor, Tensor, Tensor]
MakeEpisodes = Callable[..., Episodes]
EPISODES = 3


def negative_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """A quality that shows every difference, where accuracy shows few."""
    return -torch.nn.functional.cross_entropy(outputs, y)


def candidates(*texts: str) -> list[Candidate]:
    return [Candidate.parse(text) for text in texts]


def one_by_one(
    adaptation: Adaptation, metric: Metric, parameters: Parameters, candidate: Candidate, episodes: Episodes
) -> Tensor:
    """`B x max(S, 1)` qualities: every episode, every truncation of the candidate on its own, pruned."""
    rows = []
    for x, y, qx, qy in zip(*episodes, strict=True):
        row = []
        for steps in range(min(candidate.steps, 1), candidate.steps + 1):
            first = candidate.first_steps(steps)
            state = adapt(adaptation, parameters, first.pattern, x, y, first.factors)
            row.append(metric(predict(adaptation, state, qx), qy))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize(
    ("kind", "norm_statistics", "at_once", "layout"),
    [
        ("max", "support", 1, "channels_last"),
        ("max", "support", 2, "contiguous"),
        ("stride", "query", 1, "contiguous"),
        ("stride", "query", 2, "channels_last"),
        ("regression", "support", 1, "contiguous"),
        ("regression", "support", 2, "contiguous"),
    ],
)
def test_qualities_at_every_step(
    kind: str, norm_statistics: str, at_once: int, layout: Layout, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, norm_statistics=norm_statistics)
    episodes = make_episodes(kind, EPISODES)  # of three: of two at once, the second call repeats an episode
    metric = negative_mse if kind == "regression" else negative_loss
    judge = Judge(adaptation, metric, adaptation.parameters(), layout=layout, episodes_at_once=at_once)
    units = len(adaptation.units)
    wanted = candidates("1" * units + "@2", "1" + "0" * (units - 1), "0" * (units - 2) + "10@2", "0" * units)

    judged = judge.qualities(wanted, *episodes)
    assert list(judged) == [candidate.text for candidate in wanted]
    for candidate in wanted:
        qualities = judged[candidate.text]
        assert qualities.shape == (EPISODES, max(candidate.pattern.steps, 1))
        expected = one_by_one(adaptation, metric, adaptation.parameters(), candidate, episodes)
        torch.testing.assert_close(qualities, expected, rtol=1e-10, atol=1e-10)
        assert len(set(qualities.flatten().tolist())) == qualities.numel()


@pytest.mark.parametrize("at_once", [1, 2])
def test_any_patterns_together(at_once: int, make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("mlp")
    episodes = make_episodes("mlp", 3)
    judge = Judge(adaptation, negative_loss, adaptation.parameters(), episodes_at_once=at_once)
    row = st.tuples(*[st.booleans()] * 3).filter(any)
    step = st.tuples(row, st.sampled_from([1.0, 2.0, 0.25]))
    candidate = st.lists(step, max_size=3).map(
        lambda steps: Candidate(
            LambdaPattern(units=3, rows=tuple(row for row, _ in steps)), tuple(factor for _, factor in steps)
        )
    )

    @settings(max_examples=10, deadline=None)
    @given(st.lists(candidate, min_size=1, max_size=5))
    def check(wanted: list[Candidate]) -> None:
        judged = judge.qualities(wanted, *episodes)
        for candidate in wanted:
            expected = one_by_one(adaptation, negative_loss, adaptation.parameters(), candidate, episodes)
            torch.testing.assert_close(judged[candidate.text], expected, rtol=1e-10, atol=1e-10)

    check()


def test_all_constant_rows_together_are_bit_equal_to_each_alone(
    make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation("max", torch.float32)
    episodes = make_episodes("max", 1, torch.float32)
    judge = Judge(adaptation, negative_loss, adaptation.parameters(), layout="contiguous")
    every = [*map(Candidate, constant_row_patterns(5, 2)), *candidates("00111*2/00010*0.5", "00111*4")]
    judged = judge.qualities(every, *episodes)
    for candidate in [*every[::7], *every[-2:]]:
        expected = one_by_one(adaptation, negative_loss, adaptation.parameters(), candidate, episodes)
        assert torch.equal(judged[candidate.text], expected), candidate.text


def test_what_patterns_share_is_computed_once(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("stride", torch.float32)
    episodes = make_episodes("stride", 1, torch.float32)
    judge = Judge(adaptation, accuracy, adaptation.parameters(), layout="contiguous")

    def multiply_adds(*texts: str) -> int:
        judge.qualities(candidates(*texts), *episodes)  # traces
        with FlopCounterMode(display=False) as counter:
            judge.qualities(candidates(*texts), *episodes)
        return int(counter.get_total_flops()) // 2

    five = multiply_adds("00111@5")
    assert multiply_adds("00111@5", "00111@2", "00111") == five  # first steps come with the last
    # After one step these two differ in the head alone: six queries, four features, three classes.
    assert multiply_adds("00100", "00101") == multiply_adds("00100") + 6 * 4 * 3


def test_one_program_for_all_patterns_with_the_same_lowest_units(
    make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation("mlp")
    episodes = make_episodes("mlp", 1)
    judge = Judge(adaptation, accuracy, adaptation.parameters())
    for texts, programs in ((["011@2"], 1), (["010"], 1), (["001/010@3", "011"], 1), (["001"], 2), (["001", "010"], 3)):
        judge.qualities(candidates(*texts), *episodes)
        assert len(judge._programs) == programs, texts


def test_a_prefix_in_bfloat16_is_its_own_candidate(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("stride", torch.float32)
    episodes = make_episodes("stride", 2, torch.float32)
    texts = ("00011", "00011:bfloat16")
    single, together = (
        Judge(adaptation, negative_loss, adaptation.parameters(), episodes_at_once=at_once).qualities(
            candidates(*texts), *episodes
        )
        for at_once in (1, 2)
    )
    for judged in (single, together):
        assert not torch.equal(*(judged[text] for text in texts))
        torch.testing.assert_close(*(judged[text] for text in texts), rtol=0.1, atol=0.1)
    torch.testing.assert_close(single[texts[1]], together[texts[1]], rtol=0.01, atol=0.01)


def test_accuracy_and_negative_mse_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0], [0.0, 1.0], [5.0, 4.0], [1.0, 2.0]])
    assert float(accuracy(logits, torch.tensor([0, 1, 1, 0]))) == 0.5
    assert float(negative_mse(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [5.0]]))) == -2.5


def test_accuracy_is_judged_alike_one_by_one_and_together(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("mlp", torch.float32)
    episodes = make_episodes("mlp", EPISODES, torch.float32, queries=4)
    single, together = (
        Judge(adaptation, accuracy, adaptation.parameters(), episodes_at_once=at_once).qualities(
            candidates("011@3"), *episodes
        )["011@3"]
        for at_once in (1, EPISODES)
    )
    assert torch.equal(single, together)
    assert 0 < float(single.mean()) < 1


def test_what_diverges_has_the_worst_quality(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("regression", rate=1e200)
    judge = Judge(adaptation, negative_mse, adaptation.parameters())
    judged = judge.qualities(candidates("111@3", "000"), *make_episodes("regression", 2))
    assert judged["111@3"][:, -1].tolist() == [DIVERGED_QUALITY] * 2
    assert float(judged["000"].min()) > DIVERGED_QUALITY


def test_whatever_plan_is_measured_the_qualities_are_the_same(
    make_adaptation: Make,
    make_episodes: MakeEpisodes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(plans, "PAYS_AFTER", 0.0)  # try whatever there is, on however little work
    adaptation = make_adaptation("max")
    episodes = make_episodes("max", 40)
    judge = Judge(adaptation, negative_loss, adaptation.parameters(), Lanes(2))
    expected = one_by_one(adaptation, negative_loss, adaptation.parameters(), Candidate.parse("00011"), episodes)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            judged = judge.qualities(candidates("00011"), *episodes)["00011"]
            torch.testing.assert_close(judged, expected, rtol=1e-10, atol=1e-10)
    (tuning,) = judge._tunings.values()
    tried = set(tuning.seconds)
    assert {plan.episodes for plan in tried} >= {1, 5}
    assert {plan.layout for plan in tried} == {"contiguous", "channels_last"}
    assert {plan.lanes for plan in tried} == {1, 2}
    assert "is fastest" in caplog.text


def test_pause_is_called_before_every_wave_and_may_stop(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("mlp")
    judge = Judge(adaptation, accuracy, adaptation.parameters(), episodes_at_once=2)
    calls: list[None] = []
    judge.qualities(candidates("111"), *make_episodes("mlp", 2 * WAVE + 1), pause=lambda: calls.append(None))
    assert len(calls) == 2  # one lane: a wave of WAVE calls of two episodes, and one episode more

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        judge.qualities(candidates("111"), *make_episodes("mlp", 5), pause=stop)


def test_judging_leaves_the_checkpoint_as_it_was(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("max")
    parameters = {name: value.clone() for name, value in adaptation.parameters().items()}
    judge = Judge(adaptation, negative_loss, parameters)
    before = copy.deepcopy(parameters)
    episodes = make_episodes("max", 2)
    first = judge.qualities(candidates("11111@2"), *episodes)["11111@2"]
    assert torch.equal(judge.qualities(candidates("11111@2"), *episodes)["11111@2"], first)
    assert all(torch.equal(parameters[name], value) for name, value in before.items())


def measured_peak_bytes(run: Callable[[], object]) -> int:
    """Most bytes that PyTorch's allocator had handed out at once during `run`, beside those from before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    assert profile.profiler is not None
    results = profile.profiler.kineto_results
    assert results is not None
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    peak = present = 0
    for _, change in changes:
        present += change
        peak = max(peak, present)
    return peak


@pytest.mark.parametrize(("layout", "lanes"), [("contiguous", 1), ("channels_last", 2)])
def test_judging_stays_under_its_memory_limit(
    layout: Layout, lanes: int, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation("max", torch.float32)
    episodes = make_episodes("max", 12, torch.float32, queries=20)
    wanted = candidates("01000@2", "01111", "01100@2")

    def peak_bytes(limit_bytes: int | None) -> int:
        judge = Judge(adaptation, accuracy, adaptation.parameters(), Lanes(lanes), limit_bytes, layout, 12)
        return measured_peak_bytes(lambda: judge.qualities(wanted, *episodes))

    unlimited = peak_bytes(None)
    limit_bytes = unlimited // 2
    assert peak_bytes(limit_bytes) < limit_bytes


def test_a_limit_that_does_not_hold_one_episode_is_an_error(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("max", torch.float32)
    judge = Judge(adaptation, accuracy, adaptation.parameters(), memory_limit_bytes=10_000)
    with pytest.raises(MemoryLimitTooSmall, match=r"one episode needs about .* MB, the limit is 0\.0 MB"):
        judge.qualities(candidates("11111"), *make_episodes("max", 1, torch.float32))
