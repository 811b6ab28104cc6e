"""What a program costs, counted before it runs: multiply-adds, bytes, calls, and the memory that it needs at once.

A program is a graph from ``workers.adaptation.program.trace``: straight-line, functional, every node carrying the
shape, dtype and strides of its result. Nothing here computes a tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from operator import getitem
from typing import Any

from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry

_Storage = tuple[fx.Node, int]
"""Memory of a result: the node that computes it, and which of its results."""

_UNDECLARED_VIEWS = ("aten._unsafe_view.default",)
"""Operations that return their argument's memory and do not say so in their schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The counted costs of a program."""

    multiply_adds: int
    """In convolutions, their gradients and matrix products."""
    bytes_moved: int
    """Read and written by every operation, as if each fetched its operands from memory."""
    peak_bytes: int
    """Largest sum of results alive at once; inputs are the caller's and not in it."""
    calls: int
    """Operations that compute."""


def cost_of(module: fx.GraphModule) -> Cost:
    """Everything that can be counted of a traced program."""
    return Cost(
        multiply_adds=multiply_adds(module),
        bytes_moved=bytes_moved(module),
        peak_bytes=peak_bytes(module),
        calls=calls(module),
    )


def multiply_adds(module: fx.GraphModule) -> int:
    """Multiply-adds of the convolutions and matrix products in a traced program, counted from its shapes."""
    flops = 0
    for node in computing(module):
        if is_contraction(node):
            arguments = fx.map_arg(node.args, _value)
            packet = node.target.overloadpacket  # type: ignore[union-attr]
            flops += flop_registry[packet](*arguments, **fx.map_arg(node.kwargs, _value), out_val=_value(node))
    return flops // 2


def bytes_moved(module: fx.GraphModule) -> int:
    """Bytes that the operations of a program read and write; an operand used twice by one operation is read once.

    Views are free. An operand of which only the shape is used (of ``ones_like``) counts as read all the same.
    """
    return sum(
        sum(size_bytes(value) for operand in node.all_input_nodes for value in _tensors(operand))
        + sum(size_bytes(value) for value in _tensors(node))
        for node in computing(module)
    )


def calls(module: fx.GraphModule) -> int:
    """How many operations of a program compute."""
    return sum(1 for _ in computing(module))


def peak_bytes(module: fx.GraphModule) -> int:
    """Largest sum of results alive at once when a program runs line by line.

    A result is alive from the operation that makes it to the last one that uses it or a view of it; what the program
    returns stays alive to the end. Inputs and constants are not counted, nor what a kernel uses inside.
    """
    owners: dict[fx.Node, tuple[_Storage | None, ...]] = {}
    sizes: dict[_Storage, int] = {}
    first: dict[_Storage, int] = {}
    last: dict[_Storage, int] = {}
    for position, node in enumerate(module.graph.nodes):
        owners[node] = _owners(node, owners)
        if _computes(node):
            for storage, value in zip(owners[node], _outputs(node), strict=True):
                if storage is not None:
                    first[storage], sizes[storage] = position, size_bytes(value)
        # What an operation makes exists while it runs, even if nothing uses it.
        for user in (node, *node.all_input_nodes):
            last.update((storage, position) for storage in owners[user] if storage is not None)
    changes = [0] * (len(module.graph.nodes) + 1)
    for storage, size in sizes.items():
        changes[first[storage]] += size
        changes[last[storage] + 1] -= size
    return max(accumulate(changes))


def computing(module: fx.GraphModule) -> Iterator[fx.Node]:
    """The nodes of a program that compute, in order: neither inputs nor views nor picks from a tuple."""
    return (node for node in module.graph.nodes if _computes(node))


def is_contraction(node: fx.Node) -> bool:
    """Whether a node is a convolution, the gradient of one, or a matrix product."""
    return getattr(node.target, "overloadpacket", None) in flop_registry


def size_bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements of a tensor: an expanded dimension repeats one."""
    elements = prod(size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not size)
    return elements * tensor.element_size()


def _computes(node: fx.Node) -> bool:
    if node.op != "call_function" or node.target is getitem:
        return False
    return not (getattr(node.target, "is_view", False) or str(node.target) in _UNDECLARED_VIEWS)


def _owners(node: fx.Node, owners: dict[fx.Node, tuple[_Storage | None, ...]]) -> tuple[_Storage | None, ...]:
    """The memory of each result of a node: its own, that of what it views, or ``None`` if that is an input's."""
    if _computes(node):
        return tuple(
            (node, number) if isinstance(value, Tensor) else None for number, value in enumerate(_outputs(node))
        )
    if node.target is getitem:
        source, number = node.args
        return (owners[source][number],)  # type: ignore[index]
    if node.op == "call_function":
        return owners[node.all_input_nodes[0]][:1] * len(_outputs(node))
    return (None,)


def _outputs(node: fx.Node) -> tuple[Any, ...]:
    """The results of a node, those that a gradient was not asked for being ``None``."""
    value = _value(node)
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _tensors(node: fx.Node) -> Iterator[Tensor]:
    return (value for value in _outputs(node) if isinstance(value, Tensor))


def _value(node: fx.Node) -> Any:
    return node.meta["val"]
