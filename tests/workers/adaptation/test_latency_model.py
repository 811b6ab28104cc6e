"""Operations timed once, programs as sums of them, and the fit. Nothing here depends on how long anything takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.nn import functional

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.cost import calls, computing
from workers.adaptation.inner_loop import Adaptation, adapt
from workers.adaptation.latency_model import (
    FEWEST_PROGRAMS,
    ProgramSeconds,
    calibrating,
    fit,
    measure_operations,
    missing_operations,
    prediction_error,
    program_seconds,
    signature,
)
from workers.adaptation.layout import channels_last
from workers.adaptation.program import trace

Make = Callable[..., Adaptation]
MakeEpisodes = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]

CPU = torch.device("cpu")
SPREAD = [(1.0, 1.0), (8.0, 1.0), (1.0, 9.0), (5.0, 8.0), (20.0, 9.0), (3.0, 30.0)]  # milliseconds

seconds_lists = st.lists(st.tuples(st.floats(0.01, 50), st.floats(0.01, 50)), min_size=FEWEST_PROGRAMS, max_size=9)


def programs_of(milliseconds: list[tuple[float, float]]) -> list[ProgramSeconds]:
    return [ProgramSeconds(contractions_s=1e-3 * c, others_s=1e-3 * o) for c, o in milliseconds]


def program_of(
    adaptation: Adaptation, text: str, x: Tensor, y: Tensor, layout: Callable[[Tensor], Tensor] = lambda tensor: tensor
) -> tuple[fx.GraphModule, list[Tensor]]:
    pattern = LambdaPattern.parse(text, len(adaptation.units))
    names = {name for row in pattern.rows for name in adaptation.names_of(row)}
    parameters = {name: layout(parameter) for name, parameter in adaptation.parameters().items()}

    def adapted(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
        state = adapt(adaptation, parameters, pattern, x, y)
        return {name: state.parameters[name] for name in sorted(names)}

    examples = [*parameters.values(), layout(x), y]
    return trace(adapted, parameters, layout(x), y), examples


def only_signature(function: Callable[..., Tensor], *examples: Tensor) -> str:
    (node,) = computing(trace(function, *examples))
    return signature(node)


def test_a_signature_tells_shapes_types_strides_and_arguments_apart() -> None:
    image = torch.randn(2, 3, 4, 4)
    different = [
        only_signature(torch.relu, image),
        only_signature(torch.sin, image),
        only_signature(torch.relu, image[:1]),
        only_signature(torch.relu, image.double()),
        only_signature(torch.relu, channels_last(image)),
        only_signature(lambda x: functional.avg_pool2d(x, 2), image),
        only_signature(lambda x: functional.avg_pool2d(x, 2, ceil_mode=True), image),
        only_signature(lambda x: torch.sub(x, x, alpha=2), image),
        only_signature(lambda x: torch.sub(x, x, alpha=3), image),
    ]
    assert len(set(different)) == len(different)


def test_a_signature_does_not_depend_on_where_in_a_program_an_operation_is() -> None:
    program = trace(lambda x: torch.sin(torch.cos(torch.sin(x))), torch.randn(5))
    assert [name.split()[0] for name in missing_operations(program, {})] == ["aten.sin.default", "aten.cos.default"]


@pytest.mark.parametrize("kind", ["max", "stride", "mlp", "regression"])
def test_every_operation_of_an_adaptation_can_be_timed(
    kind: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    x, y, _, _ = (part[0] for part in make_episodes(kind, 1))
    adaptation = make_adaptation(kind)
    program, examples = program_of(adaptation, "1" * len(adaptation.units) + "@2", x, y)
    known = measure_operations(program, examples, {}, CPU)
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in known.values())
    assert not missing_operations(program, known)
    assert len(known) < calls(program)


def test_layouts_and_precisions_are_operations_of_their_own(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    known: dict[str, float] = {}
    for dtype, layout in (
        (torch.float32, torch.Tensor.contiguous),
        (torch.float32, channels_last),
        (torch.bfloat16, channels_last),
    ):
        x, y, _, _ = (part[0] for part in make_episodes("stride", 1, dtype))
        program, examples = program_of(make_adaptation("stride", dtype), "00111", x, y, layout)
        convolutions = [name for name in missing_operations(program, known) if "convolution" in name]
        assert convolutions
        known = measure_operations(program, examples, known, CPU)


def test_known_operations_are_not_run_again(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    x, y, _, _ = (part[0] for part in make_episodes("mlp", 1))
    adaptation = make_adaptation("mlp")
    known = measure_operations(*program_of(adaptation, "111@3", x, y), {}, CPU)
    longer, _ = program_of(adaptation, "111@4", x, y)
    no_examples: list[Tensor] = []  # so that it cannot run
    assert measure_operations(longer, no_examples, known, CPU) == known


def test_what_is_known_is_kept_and_what_is_missing_is_added() -> None:
    x = torch.randn(5)
    first, second = trace(torch.sin, x), trace(lambda x: torch.cos(torch.sin(x)), x)
    known = dict.fromkeys(missing_operations(first, {}), 123.0)
    both = measure_operations(second, [x], known, CPU)
    assert set(both) == set(missing_operations(second, {}))
    assert both.items() >= known.items()


def test_seconds_of_a_program_are_those_of_its_operations() -> None:
    def function(a: Tensor, b: Tensor) -> Tensor:
        return torch.sin(a @ b) @ b.t() @ b

    program = trace(function, torch.randn(3, 4), torch.randn(4, 5))
    known = {name: (0.5 if ".mm" in name else 0.125) for name in missing_operations(program, {})}
    assert program_seconds(program, known) == ProgramSeconds(contractions_s=3 * 0.5, others_s=0.125)
    with pytest.raises(KeyError):
        program_seconds(program, {})


@given(seconds_lists, st.floats(0.1, 10))
def test_one_multiple_is_recovered(milliseconds: list[tuple[float, float]], multiple: float) -> None:
    programs = programs_of(milliseconds)
    latencies_s = [multiple * (program.contractions_s + program.others_s) for program in programs]
    model = fit(programs, latencies_s)
    assert [model.predict(program) for program in programs] == pytest.approx(latencies_s, rel=1e-6)
    assert model.error.largest == pytest.approx(0, abs=1e-6)


@given(seconds_lists, st.data())
def test_weights_are_not_negative_and_follow_the_clock(
    milliseconds: list[tuple[float, float]], data: st.DataObject
) -> None:
    programs = programs_of(milliseconds)
    latencies_s = [data.draw(st.floats(1e-3, 1.0)) for _ in programs]
    model = fit(programs, latencies_s)
    slower = fit(programs, [8 * latency_s for latency_s in latencies_s])
    assert min(model.constant_s, model.contractions, model.others) >= 0
    for program in programs:
        assert slower.predict(program) == pytest.approx(8 * model.predict(program), rel=1e-6)


@pytest.mark.parametrize(
    ("constant_ms", "contractions", "others"), [(0, 1, 0.2), (0.5, 1, 1), (0, 1.2, 3), (1, 1, 0.5)]
)
def test_unlike_multiples_are_followed(constant_ms: float, contractions: float, others: float) -> None:
    latencies_s = [1e-3 * (constant_ms + contractions * c + others * o) for c, o in SPREAD]
    model = fit(programs_of(SPREAD), latencies_s)
    predicted_s = [model.predict(program) for program in programs_of(SPREAD)]
    error = prediction_error(predicted_s, latencies_s)
    assert error.largest < 0.03  # not nothing: weights are pulled towards one multiple
    assert error.rank_correlation == 1


def test_the_reported_error_is_that_of_programs_left_out() -> None:
    programs = programs_of(SPREAD)
    latencies_s = [1e-3 * latency_ms for latency_ms in (3, 9, 8, 12, 25, 50)]
    left_out = [
        fit(programs[:one] + programs[one + 1 :], latencies_s[:one] + latencies_s[one + 1 :]).predict(programs[one])
        for one in range(len(programs))
    ]
    error = fit(programs, latencies_s).error
    expected = prediction_error(left_out, latencies_s)
    assert error.programs == len(programs)
    assert (error.median, error.largest) == pytest.approx((expected.median, expected.largest))
    assert error.rank_correlation == expected.rank_correlation


def test_errors_are_relative_and_ranks_are_spearmans() -> None:
    error = prediction_error([1.1, 1.0, 4.0, 8.0], [1.0, 2.0, 5.0, 8.0])
    assert error.programs == 4
    assert (error.median, error.largest) == pytest.approx(((0.1 + 0.2) / 2, 0.5))
    assert error.rank_correlation == pytest.approx(1 - 6 * 2 / (4 * 15))  # two neighbours changed places


@pytest.mark.parametrize("latencies_s", [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 0.0], [1.0, 2.0, 3.0, math.nan], [1.0]])
def test_too_few_programs_or_latencies_are_refused(latencies_s: list[float]) -> None:
    programs = programs_of(SPREAD)[: max(len(latencies_s), FEWEST_PROGRAMS - 1)]
    with pytest.raises(ValueError, match="at least 4"):
        fit(programs, latencies_s)


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0.01, 50)), min_size=1, max_size=12), st.integers(1, 14))
def test_calibrating_programs_are_distinct_and_hold_the_extremes(
    milliseconds: list[tuple[float, float]], count: int
) -> None:
    programs = programs_of(milliseconds)
    chosen = calibrating(programs, count)
    assert len(set(chosen)) == len(chosen) == min(count, len(programs))
    totals = np.array([program.contractions_s + program.others_s for program in programs])
    if len(chosen) >= 2:
        assert totals[list(chosen)].min() == totals.min()
        assert totals[list(chosen)].max() == totals.max()


def test_calibrating_programs_are_unlike_each_other() -> None:
    clusters = [(1.0, 1.0), (1.01, 1.0), (1.0, 30.0), (1.0, 30.3), (30.0, 1.0), (30.3, 1.0), (99.0, 99.0), (98.0, 98.0)]
    assert {index // 2 for index in calibrating(programs_of(clusters), 4)} == {0, 1, 2, 3}
