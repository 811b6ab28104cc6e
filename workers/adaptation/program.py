"""A pure function of tensors as a program: traced, functionalised, equal work shared, unused work dropped.

A pattern's adaptation recomputes its frozen prefix at every inner step. Traced over all steps, the prefix is the same
expression each time, so merging common subexpressions computes it once, for any architecture, and dropping dead code
removes gradients that nobody asked for. Nothing here knows what a layer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx

from search_service.domain.errors import UnsupportedNetwork

Program = Callable[..., Any]


def trace(function: Callable[..., Any], *examples: Any) -> fx.GraphModule:
    """Turn a pure function into a straight-line program for inputs of exactly these shapes.

    The program computes what ``function`` computes, with the same operations, so results are bit-equal; it holds no
    autograd graph and must be called under ``torch.no_grad``. Outputs that are inputs are returned as they are.

    Args:
        function: positional arguments and results are (nested dictionaries, tuples and lists of) tensors.
        examples: arguments of the shapes, dtypes and devices that the program will see.

    Raises:
        UnsupportedNetwork: the function draws random numbers (dropout, noise).
    """
    # make_fx reads the argument count off the code object, which is wrong for methods and default arguments.
    module = make_fx(functionalize(lambda *arguments: function(*arguments)))(*examples)
    if _in_place(module.graph):
        # Some composite operations (LSTM cells) write in place below the level at which they are made functional; seen
        # as single operations, these are made functional too.
        module = make_fx(functionalize(lambda *arguments: module(*arguments)))(*examples)
    _refuse_in_place(module.graph)
    _refuse_random(module.graph)
    share_and_prune(module.graph)
    module.recompile()
    return module


def count_calls(module: fx.GraphModule, operation: str) -> int:
    """How often a program calls an operation, for example ``aten.convolution.default``."""
    return sum(node.op == "call_function" and str(node.target) == operation for node in module.graph.nodes)


def share_and_prune(graph: fx.Graph) -> None:
    """Merge common subexpressions and drop dead code of a functional graph, in place.

    Two calls are the same when target and arguments are; after functionalisation no call mutates, so the first result
    can stand for the second. (``torch._functorch.compile_utils.fx_graph_cse`` does this too, but never merges a node
    that is an output, and adapted states return their statistics.)
    """
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op not in ("call_function", "get_attr"):
            continue
        key = (node.op, node.target, _key(node.args), _key(node.kwargs))
        first = seen.setdefault(key, node)
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _key(argument: Any) -> Any:
    """A hashable stand-in for an argument of a node; the type tells ``1``, ``1.0`` and ``True`` apart."""
    if isinstance(argument, (list, tuple)):
        return (type(argument).__name__, tuple(map(_key, argument)))
    if isinstance(argument, dict):
        return ("dict", tuple((name, _key(value)) for name, value in argument.items()))
    if isinstance(argument, slice):
        return ("slice", _key((argument.start, argument.stop, argument.step)))
    if isinstance(argument, fx.Node):
        return argument
    if isinstance(argument, float):
        return ("float", argument.hex())  # tells 0.0 and -0.0 apart
    return (type(argument).__name__, argument if not isinstance(argument, Tensor) else id(argument))


def _in_place(graph: fx.Graph) -> set[str]:
    """The operations of a graph that write to their operands."""
    return {
        str(node.target)
        for node in graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
    }


def _refuse_in_place(graph: fx.Graph) -> None:
    if operations := _in_place(graph):
        raise UnsupportedNetwork(
            f"the network writes in place in a way that cannot be undone ({', '.join(sorted(operations))}); equal "
            "expressions could not be shared"
        )


def _refuse_random(graph: fx.Graph) -> None:
    random: Iterable[str] = {
        str(node.target)
        for node in graph.nodes
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    }
    if random:
        raise UnsupportedNetwork(
            f"the network draws random numbers ({', '.join(sorted(random))}); an adaptation must be a function of its "
            "inputs: switch dropout and noise off"
        )
