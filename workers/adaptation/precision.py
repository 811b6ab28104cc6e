"""The frozen prefix in a lower precision: what nobody trains need not be computed as finely as what is trained.

The frozen prefix of a program is everything that depends on no moving parameter. Its convolutions and matrix products
are computed in bfloat16; whatever the rest of the program reads from it is float32 again. This is part of a candidate,
not of how it is run: it changes qualities, and the same proof guards it.
"""

from __future__ import annotations

from collections.abc import Collection
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from workers.adaptation.program import share_and_prune

aten = torch.ops.aten
CONTRACTIONS: frozenset[Any] = frozenset(
    {
        aten.convolution.default,
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
    }
)
"""The operations in which nearly all of a network's arithmetic is."""
SELECTIONS: frozenset[Any] = frozenset(
    {
        getitem,
        aten.relu.default,
        aten.max_pool2d_with_indices.default,
        aten.clone.default,
        aten.expand.default,
        aten.permute.default,
        aten.transpose.int,
        aten.view.default,
        aten._unsafe_view.default,
    }
)
"""Operations whose results are some of their operands, or zero: rounding before them gives what rounding after does."""


def lower_prefix(module: fx.GraphModule, examples: tuple[Any, ...], moving: tuple[Any, ...]) -> fx.GraphModule:
    """The program with its frozen prefix in bfloat16.

    Contractions of the prefix get bfloat16 operands; operations between them, normalisation among them, are computed in
    float32; everything downstream of a moving input sees float32. Where a result is rounded for a contraction only
    after some values were selected from it (ReLU, max-pooling), it is rounded before, which is the same and moves half
    the memory.

    Args:
        module: a traced program (:func:`workers.adaptation.program.trace`).
        examples: the arguments that it was traced with.
        moving: the same nesting with a boolean in place of each tensor: whether it may change during adaptation, or
            decides what does. The prefix is what depends on none of these.
    """
    moves = pytree.tree_leaves(moving)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    if len(moves) != len(placeholders):
        raise ValueError(f"{len(moves)} inputs are said to move or not, the program has {len(placeholders)}")
    sources = [node for node, is_moving in zip(placeholders, moves, strict=True) if is_moving]
    after = downstream(module.graph, sources)
    lowered = make_fx(lambda *arguments: _MixedPrecision(module, after).run(*arguments))(*examples)
    share_and_prune(lowered.graph)
    lowered.recompile()
    return lowered


def downstream(graph: fx.Graph, sources: Collection[fx.Node]) -> frozenset[fx.Node]:
    """``sources`` and every node that depends on one of them."""
    reached = set(sources)
    for node in graph.nodes:
        if not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
    return frozenset(reached)


class _MixedPrecision(fx.Interpreter):
    """Runs a program with bfloat16 contractions outside of ``after``."""

    def __init__(self, module: fx.GraphModule, after: frozenset[fx.Node]) -> None:
        super().__init__(module)
        self._lowered: set[fx.Node] = set()
        """Contractions of the prefix, and selections whose results only those read."""
        for node in reversed(module.graph.nodes):
            is_selection = node.target in SELECTIONS and node.users and self._lowered.issuperset(node.users)
            if node not in after and (node.target in CONTRACTIONS or is_selection):
                self._lowered.add(node)
        self._node: fx.Node | None = None

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        to = torch.bfloat16 if self._node in self._lowered else torch.float32
        if target is not getitem:  # whose operand is what an operation gave, in the precision that it gave it in
            args, kwargs = _cast(args, to), _cast(kwargs, to)
        return super().call_function(target, args, kwargs)

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return super().output(target, _cast(args, torch.float32), kwargs)

    def run_node(self, n: fx.Node) -> Any:
        self._node = n
        return super().run_node(n)


def _cast(arguments: Any, to: torch.dtype) -> Any:
    """float32 tensors as bfloat16, or bfloat16 ones as float32; any other argument as it is."""
    other = torch.bfloat16 if to == torch.float32 else torch.float32

    def cast(value: Any) -> Any:
        return value.to(to) if isinstance(value, Tensor) and value.dtype == other else value

    return pytree.tree_map(cast, arguments)
