"""A candidate as a program: traced, pruned, laid out, its prefix lowered, and compiled if the runtime says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from search_service.domain.candidate import Candidate, Precision
from workers.adaptation.inner_loop import Adaptation, AdaptedState, Parameters, adapt, support_statistics
from workers.adaptation.layout import Layout, laid_out
from workers.adaptation.precision import lower_prefix
from workers.adaptation.program import trace
from workers.adaptation.runtime import Compilation, Flat, compile_program


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateProgram:
    """The adaptation of one candidate from one checkpoint: support set in, what changed out."""

    adaptation: Adaptation
    parameters: Parameters
    """The checkpoint's, in the program's layout."""
    candidate: Candidate
    layout: Layout
    module: fx.GraphModule
    """Takes the parameters, the support x and y, flat; returns a flat list."""
    examples: tuple[Tensor, ...]
    """Arguments that it was traced with."""
    results: pytree.TreeSpec
    """How the flat list nests: the active parameters by name, the statistics by normalisation."""
    function: Flat
    """What runs: the module, or its compiled form."""
    compilation: Compilation | None = None

    def __call__(self, support_x: Tensor, support_y: Tensor) -> Sequence[Tensor]:
        """Adapt; must be called under ``torch.no_grad``. This is what latency is measured of.

        Args:
            support_x: contiguous ``N x ...``-dim tensor of the shape it was traced with.
            support_y: ``N``-dim labels or ``N x outputs``-dim targets.
        """
        return self.function(*self.examples[:-2], support_x, support_y)

    @torch.no_grad()
    def adapted_state(self, support_x: Tensor, support_y: Tensor) -> AdaptedState:
        """Adapt, and give the state that predictions need: frozen parameters are the checkpoint's own."""
        active, statistics = pytree.tree_unflatten(list(self(support_x, support_y)), self.results)
        return AdaptedState({**self.parameters, **active}, statistics)

    def compiled(self) -> CandidateProgram:
        """The same program in the runtime ``compiled``.

        Raises:
            CompilationFailed: the compiler refused.
        """
        device = self.examples[-2].device
        function, compilation = compile_program(self.module, self.examples, device, per_call=2)
        return replace(self, function=function, compilation=compilation)


def candidate_program(
    adaptation: Adaptation,
    parameters: Parameters,
    candidate: Candidate,
    support_x: Tensor,
    support_y: Tensor,
    layout: Layout = "contiguous",
) -> CandidateProgram:
    """Trace a candidate's adaptation for support sets of one shape; it runs eagerly until compiled.

    Args:
        adaptation: how the network adapts.
        parameters: all parameters of the checkpoint, on the device.
        candidate: pattern, and precision of its frozen prefix.
        support_x: ``N x ...``-dim example of a support set.
        support_y: its ``N``-dim labels or ``N x outputs``-dim targets.
        layout: of images and filters inside; support sets are contiguous, converting them is part of the program.
    """
    pattern = candidate.pattern
    active = sorted({name for row in pattern.rows for name in adaptation.names_of(row)})
    placed = {name: laid_out(parameter, layout) for name, parameter in parameters.items()}
    leaves, arguments = pytree.tree_flatten((placed, support_x, support_y))
    nesting: list[pytree.TreeSpec] = []

    def adapted(*flat: Tensor) -> list[Any]:
        parameters, x, y = pytree.tree_unflatten(flat, arguments)
        state = adapt(adaptation, parameters, pattern, laid_out(x, layout), y, candidate.factors)
        results, spec = pytree.tree_flatten(({name: state.parameters[name] for name in active}, state.statistics))
        nesting.append(spec)
        return results

    module = trace(adapted, *leaves)
    if candidate.precision != Precision.FLOAT32:
        module = lower_prefix(module, tuple(leaves), tuple(_moving(adaptation, candidate, placed)))
    return CandidateProgram(
        adaptation=adaptation,
        parameters=placed,
        candidate=candidate,
        layout=layout,
        module=module,
        examples=tuple(leaves),
        results=nesting[-1],
        function=module,
    )


def statistics_units(adaptation: Adaptation, parameters: Parameters, support_x: Tensor) -> int:
    """How many units, from the input, the pass for the support set's statistics goes through; 0 where there is none.

    Args:
        adaptation: how the network adapts.
        parameters: all parameters.
        support_x: ``N x ...``-dim example of a support set.
    """

    def statistics(parameters: Parameters) -> list[Tensor]:
        return [value for pair in support_statistics(adaptation, parameters, support_x).values() for value in pair]

    inputs = [node for node in trace(statistics, parameters).graph.nodes if node.op == "placeholder"]
    used = {name for name, node in zip(parameters, inputs, strict=True) if node.users}
    reached = (number for number, names in enumerate(adaptation.units.values(), start=1) if used.intersection(names))
    return max(reached, default=0)


def _moving(adaptation: Adaptation, candidate: Candidate, parameters: Parameters) -> list[bool]:
    """Which inputs may move: parameters of the lowest active unit and above; not the frozen ones, nor the support set.

    The same cut as in judging, where one program serves all patterns with that lowest unit.
    """
    lowest = candidate.pattern.lowest_active_unit or 0
    above = {name for unit, names in enumerate(adaptation.units.values()) if unit >= lowest for name in names}
    return [name in above for name in parameters] + [False, False]
