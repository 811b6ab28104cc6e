"""A program cut into stages by what each operation depends on, so that what several runs have in common runs once.

A traced program is a graph, and which of its inputs an operation depends on can be read off it. Given a stage for every
operation, :func:`split` makes a program of each stage and says which values pass between them.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass
from operator import getitem
from typing import TypeVar

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from workers.adaptation.cost import is_contraction, peak_bytes, size_bytes
from workers.adaptation.layout import IMAGE_DIMENSIONS

CHANNEL_BLOCK = 16
"""Channels that oneDNN's convolutions on AVX-512 take together (its layout ``nChw16c``)."""

Key = TypeVar("Key", bound=Hashable)
Values = dict[str, Tensor]
"""Name of a node of the whole program -> what it computed, or the input that it stands for."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of a program: reads some values, computes others."""

    module: fx.GraphModule
    takes: tuple[str, ...]
    """Values of inputs and earlier stages that it reads, in the order of the module's arguments."""
    gives: tuple[str, ...]
    """Values that later stages or the program's caller read, in the order of the module's results."""
    held_bytes: int
    """Memory of the values that it gives."""
    peak_bytes: int
    """Largest sum of its own results alive at once while it runs, those that it gives included, and of what the
    kernels hold beside."""

    def run(self, values: Values) -> None:
        """Compute what it gives into ``values``; older values of the same names are let go first."""
        for name in self.gives:
            values.pop(name, None)
        results = self.module(*(values[name] for name in self.takes))
        values.update(zip(self.gives, results, strict=True))


def split(module: fx.GraphModule, stage_of: Mapping[fx.Node, Key]) -> dict[Key, Stage]:
    """The stages of a program.

    Args:
        module: a traced program (:func:`workers.adaptation.program.trace`).
        stage_of: the stage of every node that computes; those left out are in no stage.
    """
    inside: dict[Key, list[fx.Node]] = {}
    for node in module.graph.nodes:
        # Tuples do not pass between stages: what picks from one is where the tuple is computed.
        place = node.args[0] if node.target is getitem else node
        if place in stage_of:
            inside.setdefault(stage_of[place], []).append(node)
    return {key: _stage(module, nodes) for key, nodes in inside.items()}


def upstream(graph: fx.Graph, results: Collection[fx.Node]) -> frozenset[fx.Node]:
    """``results`` and every node that one of them depends on."""
    reached = set(results)
    for node in reversed(graph.nodes):
        if node in reached:
            reached.update(node.all_input_nodes)
    return frozenset(reached)


def _stage(module: fx.GraphModule, nodes: list[fx.Node]) -> Stage:
    graph = fx.Graph()
    own = set(nodes)
    takes = list(dict.fromkeys(operand for node in nodes for operand in node.all_input_nodes if operand not in own))
    gives = [node for node in nodes if not own.issuperset(node.users)]
    copies: dict[fx.Node, fx.Node] = {}
    for node in takes:
        copies[node] = graph.placeholder(node.name)
        copies[node].meta = node.meta
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in gives))
    part = fx.GraphModule(module, graph)
    return Stage(
        part,
        takes=tuple(node.name for node in takes),
        gives=tuple(node.name for node in gives),
        held_bytes=sum(size_bytes(node.meta["val"]) for node in gives),
        peak_bytes=peak_bytes(part) + max((_scratch_bytes(node) for node in nodes if is_contraction(node)), default=0),
    )


def _scratch_bytes(node: fx.Node) -> int:
    """What a contraction's kernel may hold: all that it reads and writes, once more, in its own layout."""
    values = pytree.tree_leaves([operand.meta["val"] for operand in (*node.all_input_nodes, node)])
    return sum(_blocked_bytes(value) for value in values if isinstance(value, Tensor))


def _blocked_bytes(tensor: Tensor) -> int:
    """Memory of a tensor with its channels in blocks of ``CHANNEL_BLOCK``, the last one filled up."""
    if tensor.dim() < IMAGE_DIMENSIONS:
        return tensor.nbytes
    channels = tensor.shape[1]
    return tensor.nbytes // channels * (-(-channels // CHANNEL_BLOCK) * CHANNEL_BLOCK)
