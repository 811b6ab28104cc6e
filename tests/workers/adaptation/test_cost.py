"""Counted costs of a program: closed forms, and the memory that a real run holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.nn import functional

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.cost import Cost, bytes_moved, calls, computing, cost_of, multiply_adds, peak_bytes, size_bytes
from workers.adaptation.inner_loop import Adaptation, adapt
from workers.adaptation.program import trace

Make = Callable[..., Adaptation]
MakeEpisodes = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]

FLOAT = 4  # bytes


class HeldMemory(fx.Interpreter):
    """A second implementation of `peak_bytes`: runs the program and looks at what its values hold after each line."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.inputs: set[int] = set()
        self.peak = 0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        values = [*self.env.values(), result]
        tensors = [t for v in values for t in (v if isinstance(v, (tuple, list)) else (v,)) if isinstance(t, Tensor)]
        held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        if n.op == "placeholder":
            self.inputs.update(held)
        self.peak = max(self.peak, sum(size for pointer, size in held.items() if pointer not in self.inputs))
        return result


def test_multiply_adds_of_matrix_products() -> None:
    program = trace(lambda a, b: torch.bmm(a, b) @ b[0].T, torch.randn(2, 3, 4), torch.randn(2, 4, 5))
    assert multiply_adds(program) == 2 * 3 * 4 * 5 + 2 * 3 * 5 * 4


@pytest.mark.parametrize(("of_input", "passes"), [(False, 2), (True, 3)])
def test_the_gradient_of_a_convolution_costs_it_once_for_the_filters_and_once_for_the_input(
    of_input: bool, passes: int
) -> None:
    def gradient(x: Tensor, w: Tensor) -> Any:
        arguments = (1, 0) if of_input else 1
        return torch.func.grad(lambda x, w: functional.conv2d(x, w).square().sum(), arguments)(x, w)

    program = trace(gradient, torch.randn(2, 3, 8, 8), torch.randn(5, 3, 3, 3))
    assert multiply_adds(program) == passes * (2 * 5 * 6 * 6) * (3 * 3 * 3)


def test_an_operation_reads_its_operands_and_writes_its_result() -> None:
    program = trace(lambda a, b: torch.relu(a) @ b, torch.randn(3, 4), torch.randn(4, 5))
    assert bytes_moved(program) == FLOAT * ((12 + 12) + (12 + 20 + 15))
    assert calls(program) == 2


def test_an_operand_used_twice_is_read_once() -> None:
    assert bytes_moved(trace(lambda a: a * a, torch.randn(7))) == FLOAT * (7 + 7)


def test_views_are_free() -> None:
    program = trace(lambda a: (a.view(4, 3).t()[1:], *a.split(6)), torch.randn(12))
    assert cost_of(program) == Cost(multiply_adds=0, bytes_moved=0, peak_bytes=0, calls=0)


def test_only_the_viewed_part_and_only_distinct_elements_are_read() -> None:
    program = trace(lambda a, b: a[:2] + b.expand(2, 5), torch.randn(4, 5), torch.randn(5))
    assert bytes_moved(program) == FLOAT * (10 + 5 + 10)


@pytest.mark.parametrize(
    ("tensor", "size"),
    [
        (torch.zeros(3, 4), 48),
        (torch.zeros((), dtype=torch.int64), 8),
        (torch.zeros(5, dtype=torch.bfloat16).expand(9, 5), 10),
        (torch.zeros(0, 4), 0),
    ],
)
def test_size_counts_distinct_elements(tensor: Tensor, size: int) -> None:
    assert size_bytes(tensor) == size


def test_a_chain_holds_two_results_at_once_however_long() -> None:
    def chain(x: Tensor) -> Tensor:
        for _ in range(6):
            x = torch.sin(x)
        return x

    assert peak_bytes(trace(chain, torch.randn(10))) == FLOAT * 2 * 10


def test_what_is_returned_is_held_to_the_end() -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sin(x), torch.cos(torch.exp(x))

    assert peak_bytes(trace(both, torch.randn(10))) == FLOAT * 3 * 10


def test_a_view_holds_what_it_views() -> None:
    def of_a_row(x: Tensor) -> Tensor:
        row = torch.sin(x)[0]
        return torch.exp(torch.cos(row)) + row

    assert peak_bytes(trace(of_a_row, torch.randn(5, 2))) == FLOAT * (10 + 2 + 2)


def test_a_result_that_nobody_uses_is_held_while_it_is_made() -> None:
    program = trace(lambda x: functional.max_pool2d(x, 2), torch.randn(1, 1, 4, 4))
    assert [node.name for node in computing(program)] == ["max_pool2d_with_indices"]
    assert peak_bytes(program) == 4 * FLOAT + 4 * 8  # the indices are int64


@pytest.mark.parametrize("kind", ["max", "stride", "mlp", "regression"])
@pytest.mark.parametrize("rows", ["full", "head"])
def test_peak_bytes_are_those_that_a_run_holds(
    kind: str, rows: str, make_adaptation: Make, make_episodes: MakeEpisodes
) -> None:
    adaptation = make_adaptation(kind)
    units = len(adaptation.units)
    row = [True] * units if rows == "full" else [False] * (units - 1) + [True]
    pattern = LambdaPattern.constant(row, 2)
    x, y, _, _ = (part[0] for part in make_episodes(kind, 1))
    names = adaptation.names_of(row)

    def adapted(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Any:
        state = adapt(adaptation, parameters, pattern, x, y)
        return {name: state.parameters[name] for name in names}, state.statistics

    parameters = adaptation.parameters()
    program = trace(adapted, parameters, x, y)
    run = HeldMemory(program)
    with torch.no_grad():
        run.run(*parameters.values(), x, y)
    assert peak_bytes(program) == run.peak > 0
