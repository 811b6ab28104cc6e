"""What is counted is what traced programs call; prices are recovered. Nothing here depends on how long anything takes.

Notation: U units, S steps of a pattern.
"""

from __future__ import annotations

import math
import random
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern
from tests.workers.adaptation.any_networks import build, episode
from workers.adaptation import latency_model
from workers.adaptation.candidate_program import candidate_program, statistics_units
from workers.adaptation.cost import multiply_adds
from workers.adaptation.inner_loop import Adaptation, NormStatistics, classification_loss
from workers.adaptation.latency_model import (
    FEWEST_CANDIDATES,
    KINDS,
    MOST_CALIBRATING,
    MOST_FOLDS,
    MOST_PRICES,
    LatencyModel,
    ModelError,
    calibration_candidates,
    counts,
    fit,
    prediction_error,
    rescaled,
)

Make = Callable[..., Adaptation]
MakeEpisodes = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]

UNITS = 5
SHOTS = 3
"""So that the 9 examples are as many as no layer is wide, and a matrix product's shapes say what it is."""
CONVOLVED = {16: 0, 8: 1, 4: 2, 2: 3}
"""Side of a conv4's image or map -> the unit that convolves it."""
LINEAR = {"max": {(4, 3): 4}, "mlp": {(6, 5): 0, (5, 4): 1, (4, 3): 2}}
"""Numbers in and out -> unit."""
REAL = [1.8, 1.0, 0.25, 0.14, 0.1, 0.9, 0.6, 0.2, 0.1, 0.1, 0.0, 0.95, 0.3, 0.12, 0.05, 0.5, 0.3, 0.2, 0.1, 0.05]
"""Prices like those of a conv4 on a processor, in milliseconds, in the order of ``KINDS``."""


def patterns(units: int, most_steps: int = 3) -> st.SearchStrategy[LambdaPattern]:
    rows = st.lists(st.tuples(*[st.booleans()] * units).filter(any), min_size=1, max_size=most_steps)
    return rows.map(lambda rows: LambdaPattern(units=units, rows=tuple(rows)))


def candidates_of(units: int, most_steps: int = 3) -> st.SearchStrategy[Candidate]:
    return st.tuples(patterns(units, most_steps), st.booleans()).map(lambda drawn: lowered_or_not(*drawn))


def lowered_or_not(pattern: LambdaPattern, is_lowered: bool = True) -> Candidate:
    freezes = bool(pattern.lowest_active_unit)
    return Candidate(pattern, precision=Precision.BFLOAT16 if is_lowered and freezes else Precision.FLOAT32)


def some_candidates(units: int, most_steps: int, lowered: bool, number: int, seed: int = 0) -> list[Candidate]:
    """Rows drawn at random, sparse and dense, low and high."""
    draw = random.Random(seed)
    drawn = []
    for _ in range(number):
        density, first = draw.random(), draw.randrange(units)
        rows = [
            tuple(unit >= first and (draw.random() < density or unit == units - 1) for unit in range(units))
            for _ in range(draw.randint(1, most_steps))
        ]
        drawn.append(lowered_or_not(LambdaPattern(units, tuple(rows)), lowered and draw.random() < 0.5))
    return drawn


def priced(candidates: list[Candidate], prices: list[float], below: int) -> list[float]:
    return [float(value) for value in counts(candidates, below) @ np.array([*prices, 0.2]) * 1e-3]


def columns(candidate: Candidate, below: int) -> dict[str, list[int]]:
    (counted,) = counts([candidate], below)
    parts = np.split(counted[:-1], len(KINDS))
    return {kind: [int(value) for value in part] for kind, part in zip(KINDS, parts, strict=True)}


def called(module: fx.GraphModule, kind: str, examples: int) -> dict[str, list[int]]:
    """Convolutions and matrix products of a program by what they are for and whose: what ``counts`` should say."""
    units = UNITS if kind == "max" else 3
    found = {name: [0] * units for name in KINDS}
    for node in module.graph.nodes:
        values = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in node.args]
        forward = "forward" if node.op != "call_function" or _dtype(node) != torch.bfloat16 else "lowered"
        match str(node.target):
            case "aten.convolution.default":
                found[forward][CONVOLVED[values[0].shape[-1]]] += 1
            case "aten.convolution_backward.default":
                unit, (to_input, to_weight, _) = CONVOLVED[values[1].shape[-1]], values[-1]
                found["back"][unit] += to_input
                found["own"][unit] += to_weight
            case "aten.mm.default" | "aten.addmm.default":
                (rows, inner), (_, out) = values[-2].shape, values[-1].shape
                linear = LINEAR[kind]
                if inner == examples:
                    found["own"][linear.get((out, rows), linear.get((rows, out), -1))] += 1
                elif (inner, out) in linear:
                    found[forward][linear[inner, out]] += 1
                else:
                    found["back"][linear[out, inner]] += 1
    return found


def _dtype(node: fx.Node) -> Any:
    return getattr(node.meta["val"], "dtype", None)


@pytest.mark.parametrize(
    ("kind", "norm_statistics", "below"), [("max", "support", 4), ("max", "query", 0), ("mlp", "support", 0)]
)
def test_counts_are_the_calls_of_traced_programs(
    kind: str, norm_statistics: str, below: int, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, torch.float32, norm_statistics=norm_statistics)
    x, y, _, _ = (part[0] for part in make_episodes(kind, 1, torch.float32, shots=SHOTS))
    parameters = adaptation.parameters()
    assert statistics_units(adaptation, parameters, x) == below

    # Shrinking a failure would trace hundreds of programs.
    @settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
    @given(candidate=candidates_of(len(adaptation.units)))
    def check(candidate: Candidate) -> None:
        module = candidate_program(adaptation, parameters, candidate, x, y).module
        assert columns(candidate, below) == called(module, kind, len(x))

    check()


@pytest.mark.parametrize(
    ("text", "below", "expected"),
    [
        # A step that moved only the last unit leaves the pass below it as it was, whatever moved before.
        ("10000/00001/01000", 4, {"forward": [2, 3, 3, 3, 3], "back": [0, 1, 2, 2, 2], "own": [1, 1, 0, 0, 1]}),
        ("10000/00001/01000", 0, {"forward": [2, 2, 2, 2, 3], "back": [0, 1, 2, 2, 2], "own": [1, 1, 0, 0, 1]}),
        ("00011@2", 4, {"forward": [1, 1, 1, 3, 2], "back": [0, 0, 0, 0, 2], "own": [0, 0, 0, 2, 2]}),
        ("00011@2:bfloat16", 4, {"forward": [0, 0, 0, 3, 2], "lowered": [1, 1, 1, 0, 0]}),
        # The prefix is what no step moves: the second unit is passed in float32, though the first step leaves it.
        ("00001/01000:bfloat16", 4, {"forward": [0, 2, 2, 2, 2], "lowered": [1, 0, 0, 0, 0]}),
        ("00000", 4, {"forward": [1, 1, 1, 1, 0]}),
    ],
)
def test_counts_by_hand(text: str, below: int, expected: dict[str, list[int]]) -> None:
    found = columns(Candidate.parse(text), below)
    assert {kind: found[kind] for kind in expected} == expected
    assert counts([Candidate.parse(text)], below)[0, -1] == 1


def test_candidates_are_counted_together_as_one_by_one() -> None:
    candidates = some_candidates(UNITS, 4, True, 40)
    together = counts(candidates, 4)
    assert together.shape == (40, len(KINDS) * UNITS + 1)
    assert np.array_equal(together, np.concatenate([counts([candidate], 4) for candidate in candidates]))
    assert counts([], 4).shape[0] == 0


def test_different_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="different numbers of units"):
        counts([Candidate.parse("01"), Candidate.parse("001")], 0)
    model = fit(calibration_candidates(2, 3, False), [1.0] * len(calibration_candidates(2, 3, False)), 0)
    with pytest.raises(ValueError, match="2 units"):
        model.predict_s(Candidate.parse("001"))


@pytest.mark.parametrize(
    ("name", "norm_statistics", "below"),
    [
        ("normalised mlp", "support", 3),  # batch normalisation in the first and the third of four units
        ("normalised mlp", "query", 0),
        ("normalised mlp", "running", 0),
        ("attention", "support", 0),  # nothing normalises over examples
    ],
)
def test_the_pass_for_statistics_ends_at_the_last_unit_that_normalises(
    name: str, norm_statistics: NormStatistics, below: int
) -> None:
    adaptation = Adaptation.of(build(name), classification_loss, 0.1, norm_statistics)
    assert statistics_units(adaptation, adaptation.parameters(), episode(name)[0]) == below


@pytest.mark.parametrize(
    ("name", "below"),
    [("normalised mlp", 3), ("shared parameters", 0)],  # of which one unit is at work at two depths
)
def test_work_of_any_network_is_predicted_from_few_candidates(name: str, below: int) -> None:
    adaptation = Adaptation.of(build(name), classification_loss, 0.1)
    x, y, _ = episode(name)
    parameters, units = adaptation.parameters(), len(adaptation.units)

    def work(candidate: Candidate) -> float:
        return float(multiply_adds(candidate_program(adaptation, parameters, candidate, x, y).module))

    calibrating = calibration_candidates(units, 2, False)
    model = fit(calibrating, [work(candidate) for candidate in calibrating], below)
    others = [Candidate.parse(text) for text in ("1010/0010/0100", "0001/0100/1111", "0110@2/0001")]
    assert model.predict_many(others) == pytest.approx([work(candidate) for candidate in others], rel=2e-3)


CASES = [(1, 5, False), (2, 1, True), (3, 2, False), (5, 1, True), (5, 2, False), (5, 5, False), (5, 5, True)]


@pytest.mark.parametrize(("units", "max_steps", "lowered"), [*CASES, (9, 64, True), (12, 5, True)])
@pytest.mark.parametrize("has_statistics", [False, True])
def test_calibration_tells_apart_what_candidates_differ_in(
    units: int, max_steps: int, lowered: bool, has_statistics: bool
) -> None:
    below = units - 1 if has_statistics else 0
    calibrating = counts(calibration_candidates(units, max_steps, lowered), below)
    others = counts(some_candidates(units, max_steps, lowered, 200), below)
    rank = np.linalg.matrix_rank(calibrating)
    assert np.linalg.matrix_rank(np.concatenate([calibrating, others])) == rank


@pytest.mark.parametrize(
    ("units", "max_steps", "lowered"), [*CASES, (12, 5, True), (18, 5, True), (64, 64, False), (512, 64, True)]
)
def test_calibration_candidates_are_few_distinct_and_allowed(units: int, max_steps: int, lowered: bool) -> None:
    candidates = calibration_candidates(units, max_steps, lowered)
    assert candidates == calibration_candidates(units, max_steps, lowered)
    assert len(set(candidates)) == len(candidates) <= min(MOST_CALIBRATING, 5 * units + 3)
    assert {candidate.pattern.units for candidate in candidates} == {units}
    assert max(candidate.pattern.steps for candidate in candidates) == max_steps
    assert {Candidate(LambdaPattern.full(units, steps)) for steps in (1, max_steps)} <= set(candidates)
    assert any(candidate.precision != Precision.FLOAT32 for candidate in candidates) == (lowered and units > 1)
    assert any(not candidate.pattern.is_constant for candidate in candidates) == (max_steps > 1 and units > 1)


@pytest.mark.parametrize(("units", "max_steps"), [(1, 1), (1, 2), (2, 1)])
def test_the_smallest_spaces_have_a_model(units: int, max_steps: int) -> None:
    calibrating = calibration_candidates(units, max_steps, True)
    model = fit(calibrating, [0.1 + candidate.pattern.steps for candidate in calibrating], 0)
    assert model.predict_s(Candidate(LambdaPattern.full(units, 1))) == pytest.approx(1.1, rel=0.01)


def test_calibration_of_a_conv4_is_two_dozen() -> None:
    assert len(calibration_candidates(5, 5, True)) == 24
    assert len(calibration_candidates(5, 5, False)) == 20


@pytest.mark.parametrize("below", [0, 4])
@pytest.mark.parametrize("lowered", [False, True])
def test_prices_are_recovered(below: int, lowered: bool) -> None:
    calibrating, others = calibration_candidates(UNITS, 5, lowered), some_candidates(UNITS, 5, lowered, 200)
    model = fit(calibrating, priced(calibrating, REAL, below), below)
    measured_s = priced(others, REAL, below)
    predicted_s = model.predict_many(others)
    assert predicted_s == pytest.approx(measured_s, rel=0.01)  # not exactly: prices are drawn together a little
    assert prediction_error(predicted_s, measured_s).median < 1e-3
    faster = np.less.outer(1.01 * np.array(measured_s), measured_s)
    assert np.less.outer(predicted_s, predicted_s)[faster].all()  # in order


@given(st.lists(st.floats(0.01, 10), min_size=4 * UNITS, max_size=4 * UNITS), st.integers(0, 4))
@settings(deadline=None)
def test_any_prices_are_followed(prices: list[float], below: int) -> None:
    calibrating, others = calibration_candidates(UNITS, 5, True), some_candidates(UNITS, 5, True, 50)
    model = fit(calibrating, priced(calibrating, prices, below), below)
    assert model.predict_many(others) == pytest.approx(priced(others, prices, below), rel=0.1)
    assert min(model.constant_s, *model.forward_s, *model.lowered_s, *model.back_s, *model.own_s) >= 0


def test_noise_is_not_followed_far() -> None:
    calibrating, others = calibration_candidates(UNITS, 5, True), some_candidates(UNITS, 5, True, 300)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(calibrating)))
    model = fit(calibrating, list(noise * priced(calibrating, REAL, 4)), 4)
    error = prediction_error(model.predict_many(others), priced(others, REAL, 4))
    assert error.median < 0.01
    assert error.largest < 0.05
    assert error.rank_correlation > 0.999
    assert error.median < model.error.median < 0.03  # what is reported errs on the safe side


def test_a_clock_in_other_units_changes_nothing() -> None:
    calibrating = calibration_candidates(UNITS, 2, True)
    latencies_s = [latency_s * 1.1 ** (number % 3) for number, latency_s in enumerate(priced(calibrating, REAL, 4))]
    model = fit(calibrating, latencies_s, 4)
    slower = fit(calibrating, [1e6 * latency_s for latency_s in latencies_s], 4)
    assert slower.predict_many(calibrating) == pytest.approx(1e6 * model.predict_many(calibrating))
    assert slower.error.median == pytest.approx(model.error.median)


def test_what_no_timing_tells_is_like_its_neighbours() -> None:
    # Nothing ever stops at the third unit, and nothing is lowered: its prices and those of bfloat16 are anyone's guess.
    seen = [
        candidate
        for candidate in calibration_candidates(UNITS, 5, False)
        if not any(row[2] and not all(row) for row in candidate.pattern.rows)
    ]
    alike = [1.0] * (4 * UNITS)
    model = fit(seen, priced(seen, alike, 4), 4)
    others = [Candidate.parse(text) for text in ("00100@3", "00111/00100", "00010:bfloat16", "01100@2:bfloat16")]
    assert model.predict_many(others) == pytest.approx(priced(others, alike, 4), rel=1e-3)


def test_predictions_are_the_same_alone_and_among_others(eager: LatencyModel) -> None:
    draw = random.Random(0)
    prices = {f"{kind}_s": tuple(draw.random() for _ in range(UNITS)) for kind in KINDS}  # whose every bit counts
    model = LatencyModel(**{**asdict(eager), **prices, "error": eager.error})
    others = some_candidates(UNITS, 5, True, 300)
    assert [model.predict_s(candidate) for candidate in others] == list(model.predict_many(others))


def test_rate_factors_cost_nothing() -> None:
    plain, factored = Candidate.parse("00111/00010@2"), Candidate.parse("00111*2/00010*0.5/00010")
    assert np.array_equal(counts([plain], 4), counts([factored], 4))


def test_the_work_of_a_prediction_grows_with_units_times_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    units, steps = 512, 64
    row = tuple(unit > units // 2 for unit in range(units))
    longest = Candidate(LambdaPattern.constant(row, steps), precision=Precision.BFLOAT16)
    calibrating = calibration_candidates(units, steps, True)
    model = fit(calibrating, [1.0 + number for number in range(len(calibrating))], units - 1)
    assert lines_run(lambda: model.predict_s(longest)) < 100  # all else is done to whole arrays, and they are small:
    assert peak_bytes_of(lambda: model.predict_s(longest)) < units**2
    many = [longest] * 100
    assert lines_run(lambda: model.predict_many(many)) < 12 * len(many)
    together = peak_bytes_of(lambda: model.predict_many(many))
    monkeypatch.setattr(latency_model, "VALUES_AT_ONCE", 10 * units * steps)
    assert peak_bytes_of(lambda: model.predict_many(many)) < together / 5


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of Python a call runs."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(previous)
    return lines


def peak_bytes_of(function: Callable[[], object]) -> int:
    """Most memory that a call holds at a time."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_units_share_prices_and_are_followed() -> None:
    units = 200
    prices = [*(2.0 - unit / units for unit in range(units - 1)), 8.0]  # the head is like no other
    calibrating, others = calibration_candidates(units, 4, False), some_candidates(units, 4, False, 60)
    model = fit(calibrating, priced(calibrating, prices * 4, units - 1), units - 1)
    assert model.predict_many(others) == pytest.approx(priced(others, prices * 4, units - 1), rel=0.03)
    assert len({*model.back_s}) <= MOST_PRICES
    assert model.back_s[-1] == pytest.approx(8.0e-3, rel=0.1)


def test_the_reported_error_is_that_of_candidates_left_out() -> None:
    candidates = calibration_candidates(3, 2, False)
    plain_s = priced(candidates, [1.0] * 12, 2)
    latencies_s = [latency_s * (1 + 0.1 * math.sin(7 * number)) for number, latency_s in enumerate(plain_s)]
    left_out = [
        fit(candidates[:one] + candidates[one + 1 :], latencies_s[:one] + latencies_s[one + 1 :], 2).predict_s(
            candidates[one]
        )
        for one in range(len(candidates))
    ]
    assert_equal(fit(candidates, latencies_s, 2).error, prediction_error(left_out, latencies_s))


def test_of_many_candidates_several_are_left_out_at_once() -> None:
    candidates = some_candidates(3, 4, False, MOST_FOLDS + 6)
    latencies_s = [1.0 + number % 7 for number in range(len(candidates))]
    predicted = np.empty(len(candidates))
    for fold in range(MOST_FOLDS):
        kept = [number for number in range(len(candidates)) if number % MOST_FOLDS != fold]
        model = fit([candidates[number] for number in kept], [latencies_s[number] for number in kept], 0)
        predicted[fold::MOST_FOLDS] = model.predict_many(candidates[fold::MOST_FOLDS])
    assert_equal(fit(candidates, latencies_s, 0).error, prediction_error(predicted, latencies_s))


def assert_equal(error: ModelError, expected: ModelError) -> None:
    assert error.candidates == expected.candidates
    assert (error.median, error.largest) == pytest.approx((expected.median, expected.largest))
    assert error.rank_correlation == pytest.approx(expected.rank_correlation)


def test_errors_are_relative_and_ranks_are_spearmans() -> None:
    error = prediction_error([1.1, 1.0, 4.0, 8.0], [1.0, 2.0, 5.0, 8.0])
    assert error.candidates == 4
    assert (error.median, error.largest) == pytest.approx(((0.1 + 0.2) / 2, 0.5))
    assert error.rank_correlation == pytest.approx(1 - 6 * 2 / (4 * 15))  # two neighbours changed places
    assert prediction_error([2.0, 2.0], [1.0, 2.0]).rank_correlation == 0


@pytest.fixture
def eager() -> LatencyModel:
    calibrating = calibration_candidates(UNITS, 5, True)
    return fit(calibrating, priced(calibrating, REAL, 4), 4)


FEW = [Candidate.parse(text) for text in ("00001", "00010@2", "00100:bfloat16", "00111", "01000@3", "11111@5")]


@pytest.mark.parametrize(("constant_s", "multiple"), [(0.0, 0.4), (0.5e-3, 0.3), (2e-3, 0.0)])
def test_another_runtime_is_a_constant_and_a_multiple(eager: LatencyModel, constant_s: float, multiple: float) -> None:
    latencies_s = list(constant_s + multiple * eager.predict_many(FEW))
    compiled = rescaled(eager, FEW, latencies_s)
    others = some_candidates(UNITS, 5, True, 50)
    assert compiled.predict_many(others) == pytest.approx(constant_s + multiple * eager.predict_many(others))
    assert compiled.error.largest == pytest.approx(0, abs=1e-9)
    assert compiled.statistics_units == eager.statistics_units


def test_neither_constant_nor_multiple_is_negative(eager: LatencyModel) -> None:
    falling = rescaled(eager, FEW, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    assert np.ptp(falling.predict_many(FEW)) == pytest.approx(0)
    steeper = rescaled(eager, FEW, list(eager.predict_many(FEW) - 0.9 * min(eager.predict_many(FEW))))
    assert steeper.constant_s / steeper.forward_s[0] == pytest.approx(eager.constant_s / eager.forward_s[0])


def test_the_error_of_another_runtime_is_that_of_candidates_left_out(eager: LatencyModel) -> None:
    latencies_s = [1.0, 1.4, 1.7, 2.0, 4.0, 11.0]
    left_out = [
        rescaled(eager, FEW[:one] + FEW[one + 1 :], latencies_s[:one] + latencies_s[one + 1 :]).predict_s(FEW[one])
        for one in range(len(FEW))
    ]
    assert_equal(rescaled(eager, FEW, latencies_s).error, prediction_error(left_out, latencies_s))


@pytest.mark.parametrize(
    "latencies_s", [[1.0, 2.0], [1.0, 2.0, 3.0, 0.0], [1.0, 2.0, math.nan], [1.0, math.inf, 3.0], [1.0]]
)
def test_too_few_or_useless_latencies_are_refused(latencies_s: list[float], eager: LatencyModel) -> None:
    candidates = FEW[: max(len(latencies_s), FEWEST_CANDIDATES - 1)]
    for attempt in (lambda: fit(candidates, latencies_s, 4), lambda: rescaled(eager, candidates, latencies_s)):
        with pytest.raises(ValueError, match=f"at least {FEWEST_CANDIDATES}"):
            attempt()


def test_a_model_is_plain_numbers(eager: LatencyModel) -> None:
    figures: Mapping[str, Any] = asdict(eager)
    error = ModelError(**figures["error"])
    assert LatencyModel(**{**figures, "error": error}) == eager
    assert all(type(value) is float for kind in KINDS for value in figures[f"{kind}_s"])
