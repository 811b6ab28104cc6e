"""A traced program computes the same bits with less work, and how much less can be counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from search_service.domain.errors import UnsupportedNetwork
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns
from workers.adaptation.cost import multiply_adds
from workers.adaptation.inner_loop import Adaptation, adapt, classification_loss, predict
from workers.adaptation.networks import Conv4
from workers.adaptation.normalisation import EpisodeNorm, Statistics
from workers.adaptation.program import count_calls, trace

Make = Callable[..., Adaptation]
MakeEpisodes = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
Adapted = tuple[dict[str, Tensor], Statistics]

FORWARD = "aten.convolution.default"
BACKWARD = "aten.convolution_backward.default"


def adapted_by(adaptation: Adaptation, pattern: LambdaPattern) -> Callable[..., Adapted]:
    names = [name for unit in pattern.active_units for name in list(adaptation.units.values())[unit]]

    def function(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Adapted:
        state = adapt(adaptation, parameters, pattern, x, y)
        return {name: state.parameters[name] for name in names}, state.statistics

    return function


def program_of(adaptation: Adaptation, pattern: LambdaPattern, x: Tensor, y: Tensor) -> fx.GraphModule:
    return trace(adapted_by(adaptation, pattern), adaptation.parameters(), x, y)


def convolutions(pattern: LambdaPattern, norm_statistics: str) -> tuple[int, int]:
    """Convolutions that a conv4 cannot do without: forward, backward.

    Each of the four runs once on the first parameters, and again after every step that changed it or one below it
    (``query`` statistics need no pass after the last step). A step goes backward to its own lowest unit.
    """
    lowest = [row.index(True) for row in pattern.rows]
    seen_again = lowest if norm_statistics == "support" else lowest[:-1]
    first = 4 if norm_statistics == "support" or lowest else 0
    return first + sum(max(0, 4 - low) for low in seen_again), sum(max(0, 4 - low) for low in lowest)


def test_the_count_for_a_constant_row_is_the_prefix_once_and_the_rest_at_every_pass() -> None:
    for pattern in constant_row_patterns(5, 5):
        low, steps = pattern.lowest_active_unit, pattern.steps
        assert low is not None
        assert convolutions(pattern, "support") == (low + (4 - low) * (steps + 1), (4 - low) * steps)
    assert convolutions(LambdaPattern.parse("00001@5"), "support") == (4, 0)
    assert convolutions(LambdaPattern.parse("00010@5"), "query") == (8, 5)  # twenty become eight, FACTS.md


any_pattern = st.lists(st.tuples(*[st.booleans()] * 5).filter(any), max_size=3).map(
    lambda rows: LambdaPattern(units=5, rows=tuple(rows))
)


@pytest.mark.parametrize("kind", ["max", "stride"])
@pytest.mark.parametrize("norm_statistics", ["support", "query"])
def test_program_is_bit_equal_and_does_no_needless_convolution(
    kind: str, norm_statistics: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind, torch.float32, norm_statistics=norm_statistics)
    episodes = make_episodes(kind, 2, torch.float32)
    parameters = adaptation.parameters()

    @settings(max_examples=6, deadline=None)
    @given(pattern=any_pattern)
    def check(pattern: LambdaPattern) -> None:
        program = program_of(adaptation, pattern, episodes[0][0], episodes[1][0])
        assert (count_calls(program, FORWARD), count_calls(program, BACKWARD)) == convolutions(pattern, norm_statistics)
        for x, y in zip(episodes[0], episodes[1], strict=True):  # traced on the first, right for the second
            with torch.no_grad():
                moved, statistics = program(parameters, x, y)
            expected, expected_statistics = adapted_by(adaptation, pattern)(parameters, x, y)
            assert moved.keys() == expected.keys()
            assert all(torch.equal(moved[name], expected[name]) for name in moved)
            assert statistics.keys() == expected_statistics.keys()
            for name, (mean, inverse_std) in statistics.items():
                assert torch.equal(mean, expected_statistics[name][0])
                assert torch.equal(inverse_std, expected_statistics[name][1])

    check()


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("row", ["11111", "01000", "00111", "01010", "00010", "00001"])
def test_convolutions_of_constant_rows(
    row: str, steps: int, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation("stride", torch.float32)
    x, y, _, _ = make_episodes("stride", 1, torch.float32)
    pattern = LambdaPattern.parse(f"{row}@{steps}")
    program = program_of(adaptation, pattern, x[0], y[0])
    low = row.index("1")
    assert count_calls(program, FORWARD) == low + (4 - low) * (steps + 1)
    assert count_calls(program, BACKWARD) == (4 - low) * steps


def test_multiply_adds_fall_as_patterns_shrink(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    adaptation = make_adaptation("stride", torch.float32)
    x, y, _, _ = make_episodes("stride", 1, torch.float32)
    counted: dict[LambdaPattern, int] = {}

    def work(pattern: LambdaPattern) -> int:
        if pattern not in counted:
            counted[pattern] = multiply_adds(program_of(adaptation, pattern, x[0], y[0]))
        return counted[pattern]

    @settings(max_examples=6, deadline=None)
    @given(data=st.data(), pattern=any_pattern.filter(lambda pattern: 0 < pattern.steps < 3))
    def check(data: st.DataObject, pattern: LambdaPattern) -> None:
        step = data.draw(st.integers(0, pattern.steps - 1), label="step")
        unit = data.draw(st.sampled_from([unit for unit in range(5) if pattern.rows[step][unit]]), label="unit")
        smaller = [list(row) for row in pattern.rows]
        smaller[step][unit] = False
        assert work(LambdaPattern(units=5, rows=tuple(map(tuple, smaller)))) < work(pattern)
        assert work(pattern.first_steps(step)) < work(pattern)

    check()
    assert work(LambdaPattern.full(5, 3)) > 1.4 * work(LambdaPattern.full(5, 2)) > 0


def test_multiply_adds_are_those_of_the_shapes() -> None:
    def function(x: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
        return torch.conv2d(x, weight, padding=1).flatten(1) @ matrix

    program = trace(function, torch.zeros(2, 3, 8, 8), torch.zeros(5, 3, 3, 3), torch.zeros(320, 7))
    assert multiply_adds(program) == 2 * 8 * 8 * 5 * 3 * 9 + 2 * 320 * 7


class Block(nn.Module):
    """A linear layer, something in between, a head."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.between = between
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.between(self.body(x))))


class Noise(nn.Module):
    """Adds numbers that depend on no input, so that nothing in the graph leads to them."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(6)


@pytest.mark.parametrize(
    ("between", "operation"),
    [(nn.Dropout(0.5), "bernoulli"), (Noise(), "randn"), (nn.RReLU(), "rrelu"), (nn.AlphaDropout(), "bernoulli")],
)
def test_random_operations_are_refused_by_name(between: nn.Module, operation: str, make_episodes: MakeEpisodes) -> None:
    adaptation = Adaptation.of(Block(between), classification_loss, 0.1)
    x, y, _, _ = make_episodes("mlp", 1, torch.float32)
    with pytest.raises(UnsupportedNetwork, match=rf"aten\.{operation}.*switch dropout and noise off"):
        program_of(adaptation, LambdaPattern.full(2, 2), x[0], y[0])


def test_dropout_that_is_switched_off_is_no_random_operation(make_episodes: MakeEpisodes) -> None:
    adaptation = Adaptation.of(Block(nn.Dropout(0.5)).eval(), classification_loss, 0.1)
    x, y, _, _ = make_episodes("mlp", 1, torch.float32)
    program_of(adaptation, LambdaPattern.full(2, 2), x[0], y[0])


def test_in_place_activations_share_as_well(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    ordinary = make_adaptation("stride", torch.float32)
    network = Conv4((1, 16, 16), 3, 4, "stride")
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    network.load_state_dict(ordinary.network.state_dict())
    in_place = Adaptation.of(network, classification_loss, ordinary.rate)
    x, y, _, _ = make_episodes("stride", 1, torch.float32)
    pattern = LambdaPattern.parse("00010@5")
    program = program_of(in_place, pattern, x[0], y[0])
    assert count_calls(program, FORWARD) == 3 + 6
    with torch.no_grad():
        moved, _ = program(in_place.parameters(), x[0], y[0])
    expected, _ = adapted_by(ordinary, pattern)(ordinary.parameters(), x[0], y[0])
    assert all(torch.equal(moved[name], expected[name]) for name in expected)


class Tied(nn.Module):
    """One weight at two places; autoencoders and language models do this."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6, bias=False)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(torch.tanh(self.second(torch.tanh(self.first(x))))))


class DeclaredTied(Tied):
    """The same, with units that name the shared weight once."""

    def units(self) -> dict[str, tuple[str, ...]]:
        return {"body": ("first.weight", "second.bias"), "head": ("head.weight", "head.bias")}


def test_tied_weights_adapt_as_one_where_declared_once(make_episodes: MakeEpisodes) -> None:
    adaptation = Adaptation.of(DeclaredTied().double(), classification_loss, 0.5)
    x, y, qx, _ = (tensor[0] for tensor in make_episodes("mlp", 1))
    parameters = adaptation.parameters()
    state = adapt(adaptation, parameters, LambdaPattern.full(2, 3), x, y)

    network = DeclaredTied().double()
    network.load_state_dict(adaptation.network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        classification_loss(network(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, value in network.named_parameters():
        torch.testing.assert_close(state.parameters[name], value.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(predict(adaptation, state, qx), network(qx).detach(), rtol=1e-10, atol=1e-10)

    with torch.no_grad():
        moved, _ = program_of(adaptation, LambdaPattern.full(2, 3), x, y)(parameters, x, y)
    assert all(torch.equal(moved[name], state.parameters[name]) for name in moved)


def test_tied_weights_are_refused_clearly_where_undeclared() -> None:
    with pytest.raises(UnsupportedNetwork, match=r"another name already stands for: second\.weight; declare units"):
        Adaptation.of(Tied(), classification_loss, 0.1)


class NormalisedTwice(nn.Module):
    """One normalisation at two places: its support statistics would be those of the second only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = EpisodeNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.norm(torch.tanh(self.norm(x)))))


def test_one_normalisation_at_two_places_is_refused_under_support_statistics(make_episodes: MakeEpisodes) -> None:
    x, y, _, _ = make_episodes("mlp", 1, torch.float32)
    pattern = LambdaPattern.full(2, 1)
    with pytest.raises(UnsupportedNetwork, match="normalisation norm runs twice"):
        program_of(Adaptation.of(NormalisedTwice(), classification_loss, 0.1), pattern, x[0], y[0])
    program_of(Adaptation.of(NormalisedTwice(), classification_loss, 0.1, "query"), pattern, x[0], y[0])


def test_equal_expressions_become_one_and_dead_ones_none() -> None:
    def function(x: Tensor) -> list[Tensor]:
        torch.cos(x)
        return [torch.sin(x) + 1, torch.sin(x) + 1, torch.sin(x)]

    program = trace(function, torch.zeros(3))
    assert count_calls(program, "aten.sin.default") == 1
    assert count_calls(program, "aten.add.Tensor") == 1
    assert count_calls(program, "aten.cos.default") == 0
    x = torch.randn(3)
    assert all(torch.equal(*pair) for pair in zip(program(x), function(x), strict=True))


def test_constants_that_python_calls_equal_are_told_apart() -> None:
    def function(x: Tensor) -> list[Tensor]:
        return [
            torch.mul(x, 0.0),
            torch.mul(x, -0.0),
            torch.full_like(x, 1, dtype=None),
            torch.full((2,), 1),
            torch.full((2,), 1.0),
            torch.full((2,), True),
        ]

    x = torch.ones(2)
    for got, wanted in zip(trace(function, x)(x), function(x), strict=True):
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted)
        assert torch.equal(torch.signbit(got), torch.signbit(wanted))


def test_methods_defaults_and_nested_arguments_trace() -> None:
    class Scale:
        factor = 3.0

        def scaled(self, nested: dict[str, list[Tensor]], shift: float = 1.0) -> dict[str, Any]:
            return {"sum": nested["a"][0] * self.factor + nested["a"][1] + shift, "same": nested["a"][0]}

    left, right = torch.randn(2), torch.randn(2)
    program = trace(Scale().scaled, {"a": [left, right]})
    result = program({"a": [left, right]})
    assert torch.equal(result["sum"], left * 3.0 + right + 1.0)
    assert result["same"] is left


def test_predictions_trace_bit_equal(make_adaptation: Make, make_episodes: MakeEpisodes) -> None:
    for norm_statistics in ("support", "query"):
        adaptation = make_adaptation("max", torch.float32, norm_statistics=norm_statistics)
        x, y, qx, _ = (tensor[0] for tensor in make_episodes("max", 1, torch.float32))
        state = adapt(adaptation, adaptation.parameters(), LambdaPattern.full(5, 1), x, y)
        program = trace(lambda queries, a=adaptation, s=state: predict(a, s, queries), qx)
        with torch.no_grad():
            assert torch.equal(program(qx), predict(adaptation, state, qx))
