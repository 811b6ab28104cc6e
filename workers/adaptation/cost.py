"""What a program costs, counted before it runs."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.utils.flop_counter import flop_registry


def multiply_adds(module: fx.GraphModule) -> int:
    """Multiply-adds of the convolutions and matrix products in a traced program, counted from its shapes."""
    flops = 0
    for node in module.graph.nodes:
        if node.op == "call_function" and (packet := getattr(node.target, "overloadpacket", None)) in flop_registry:
            arguments = fx.map_arg(node.args, _value)
            flops += flop_registry[packet](*arguments, **fx.map_arg(node.kwargs, _value), out_val=_value(node))
    return flops // 2


def _value(node: fx.Node) -> Any:
    return node.meta["val"]
