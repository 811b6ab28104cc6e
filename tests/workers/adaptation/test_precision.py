"""Lowering a frozen prefix: what depends on nothing that moves, and only its contractions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from workers.adaptation.precision import downstream, lower_prefix
from workers.adaptation.program import trace


def function(frozen: Tensor, moving: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Two products, the second of which sees the moving matrix, and the features between them."""
    features = torch.tanh(x @ frozen)
    return features, features @ moving


def examples() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    frozen, moving, x = (torch.randn(6, 6, generator=generator) for _ in range(3))
    return frozen, moving, x


def product_types(module: fx.GraphModule) -> list[torch.dtype]:
    return [node.meta["val"].dtype for node in module.graph.nodes if str(node.target) == "aten.mm.default"]


@pytest.mark.parametrize(
    ("moving", "types"),
    [
        ((False, True, False), [torch.bfloat16, torch.float32]),
        ((True, False, False), [torch.float32, torch.float32]),
        ((False, False, False), [torch.bfloat16, torch.bfloat16]),
    ],
)
def test_products_before_anything_that_moves_are_lowered(moving: tuple[bool, ...], types: list[torch.dtype]) -> None:
    lowered = lower_prefix(trace(function, *examples()), examples(), moving)
    assert product_types(lowered) == types
    with torch.no_grad():
        results = lowered(*examples())
    assert [result.dtype for result in results] == [torch.float32, torch.float32]


def test_the_result_is_that_of_rounded_operands() -> None:
    frozen, moving, x = examples()
    lowered = lower_prefix(trace(function, frozen, moving, x), (frozen, moving, x), (False, True, False))
    with torch.no_grad():
        features, outputs = lowered(frozen, moving, x)
    rounded = torch.tanh((x.bfloat16() @ frozen.bfloat16()).float())
    assert torch.equal(features, rounded)
    assert torch.equal(outputs, rounded @ moving)
    assert not torch.equal(features, function(frozen, moving, x)[0])


def test_rounding_before_a_selection_is_rounding_after_it() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second, x = (
        torch.randn(*shape, generator=generator) for shape in ((4, 1, 3, 3), (2, 4, 3, 3), (3, 1, 8, 8))
    )

    def two_blocks(first: Tensor, second: Tensor, x: Tensor) -> list[Tensor]:
        features = torch.max_pool2d(torch.relu(torch.conv2d(x, first, padding=1) * 1.5 + 0.25), 2)
        return [torch.conv2d(features, second, padding=1), torch.relu(torch.conv2d(x, first, padding=1))]

    examples = (first, second, x)
    lowered = lower_prefix(trace(two_blocks, *examples), examples, (False, False, False))
    pools = [node for node in lowered.graph.nodes if "max_pool" in str(node.target)]
    assert [node.meta["val"][0].dtype for node in pools] == [torch.bfloat16]

    convolved = torch.conv2d(x.bfloat16(), first.bfloat16(), padding=1).float()
    features = torch.max_pool2d(torch.relu(convolved * 1.5 + 0.25), 2)
    expected = torch.conv2d(features.bfloat16(), second.bfloat16(), padding=1).float()
    with torch.no_grad():
        results = lowered(*examples)
    assert torch.equal(results[0], expected)
    assert torch.equal(results[1], torch.relu(convolved))


def test_a_program_without_contractions_stays_as_it_is() -> None:
    program = trace(lambda x: torch.tanh(x) + 1, examples()[2])
    lowered = lower_prefix(program, (examples()[2],), (False,))
    assert torch.equal(lowered(examples()[2]), program(examples()[2]))


def test_a_wrong_number_of_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="2 inputs are said to move or not, the program has 3"):
        lower_prefix(trace(function, *examples()), examples(), (False, True))


def test_downstream_is_what_can_be_reached() -> None:
    graph = trace(function, *examples()).graph
    frozen, moving, x = (node for node in graph.nodes if node.op == "placeholder")
    products = [node for node in graph.nodes if str(node.target) == "aten.mm.default"]
    assert products[0] not in downstream(graph, [moving])
    assert products[1] in downstream(graph, [moving])
    assert set(products) <= downstream(graph, [frozen])
    assert set(products) <= downstream(graph, [x])
    assert downstream(graph, []) == frozenset()
