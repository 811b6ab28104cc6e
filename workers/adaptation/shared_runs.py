"""Many candidates adapted and judged on the same episodes, everything that they have in common computed once.

An adaptation is a walk: from parameters, one evaluation gives the quality on the query set and the gradient of every
unit that may move; the next step's row says which units move by it, its factor how far. One evaluation is traced for
each lowest active unit, all of them into one program, which is then cut into stages by what an operation depends on:

* what depends on no moving parameter runs once for all patterns: features of the frozen prefixes (the lower part of the
  unadapted forward pass, query set included), the first step's loss and gradient, which every candidate's first step
  moves by;
* what depends on moving parameters of the units up to u runs again when those do not stay the same: of the patterns
  after one step, all that agree on the lower units share their features;
* what only the next step needs, the gradient, runs if there is a next step.

Candidates are walked as a tree of steps, so those with equal first steps share them, and a candidate's first 1, 2, ...
steps come with it.

Notation: B episodes adapted together, U units, N support and M query examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from torch import Tensor, fx
from torch.func import vmap
from torch.fx.graph import _PyTreeCodeGen
from torch.utils import _pytree as pytree

from search_service.domain.candidate import Candidate, Precision, Step
from workers.adaptation.inner_loop import (
    Adaptation,
    AdaptedState,
    Parameters,
    moved,
    predict,
    support_gradient,
    support_statistics,
)
from workers.adaptation.precision import downstream, lower_prefix
from workers.adaptation.program import trace
from workers.adaptation.stages import Values, split, upstream

Metric = Callable[[Tensor, Tensor], Tensor]
Qualities = dict[tuple[Step, ...], Tensor]
"""Steps of a candidate -> ``B``-dim tensor of its qualities."""

_Tree = dict[Step, "_Tree"]
_Key = tuple[int | None, int]
_STEP = -1
_SHARED: _Key = (None, 0)
_EMPTY: _Key = (None, 1)
_NO_OPERATION = ("placeholder", "output")


class SharedRuns:
    """The program of all patterns with some lowest active units, for B episodes of one shape.

    Args:
        adaptation: how the network adapts.
        metric: quality of outputs against targets.
        lowest_units: the patterns' lowest active units; without any, only the empty pattern can be judged.
        precision: of the frozen prefix; a lower one needs exactly one lowest unit.
        parameters: all parameters before adaptation, as they will be given.
        episodes: support x and y, query x and y of B episodes, as they will be given; with B = 1 the program is one of
            single examples, without grouped convolutions.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        metric: Metric,
        lowest_units: Collection[int],
        precision: Precision,
        parameters: Parameters,
        episodes: Sequence[Tensor],
    ) -> None:
        started = time.perf_counter()
        self.adaptation = adaptation
        self.units = list(adaptation.units.values())
        self.lowest_units = sorted(lowest_units)
        self.batch = episodes[0].shape[0]
        self._sizes = {name: value.nbytes for name, value in parameters.items()}
        # Clones: tracing takes a tensor that is given twice for one input.
        moving = {
            lowest: {name: value.clone() for name, value in self._from(lowest, self._repeated(parameters)).items()}
            for lowest in self.lowest_units
        }

        def evaluate(parameters: Parameters, lowest: int, *episode: Tensor) -> tuple[Tensor, Parameters]:
            support_x, support_y, query_x, query_y = episode
            state = AdaptedState(parameters, support_statistics(adaptation, parameters, support_x))
            quality = metric(predict(adaptation, state, query_x), query_y)
            names = [name for unit in self.units[lowest:] for name in unit]
            gradient = support_gradient(adaptation, parameters, names, support_x, support_y) if names else {}
            return quality, gradient

        def all_at_once(parameters: Parameters, moving: dict[int, Parameters], *episode: Tensor) -> Any:
            first = evaluate(parameters, min(self.lowest_units, default=len(self.units)), *episode)
            later = {lowest: evaluate({**parameters, **own}, lowest, *episode) for lowest, own in moving.items()}
            return first, later

        function: Any = all_at_once
        if self.batch > 1:
            function = vmap(all_at_once, in_dims=(None, 0, 0, 0, 0, 0))
        examples = (parameters, moving, *self._unpacked(episodes))
        module = trace(function, *examples)
        if precision == Precision.BFLOAT16:
            (lowest,) = self.lowest_units
            moves = {name: name in moving[lowest] for name in parameters}
            module = lower_prefix(
                module, examples, (moves, pytree.tree_map(lambda _: True, moving), *(False for _ in episodes))
            )
        self._read(module, examples)
        self.preparation_s = time.perf_counter() - started

    def _read(self, module: fx.GraphModule, examples: tuple[Any, ...]) -> None:
        """Name the program's inputs and results, and cut it into stages."""
        graph = module.graph
        nodes = {node.name: node for node in graph.nodes}
        names = pytree.tree_map(lambda node: node.name, graph.output_node().args[0])
        assert isinstance(graph._codegen, _PyTreeCodeGen)
        structure = graph._codegen.pytree_info.out_spec
        assert structure is not None
        self._first, self._later = pytree.tree_unflatten(names, structure)
        placeholders = [node.name for node in graph.nodes if node.op == "placeholder"]
        inputs = pytree.tree_unflatten(placeholders, pytree.tree_structure(examples))
        self._parameters, self._moving, *self._episode = inputs

        stage_of: dict[fx.Node, _Key] = {}
        for lowest, (quality, _) in self._later.items():
            for_quality = upstream(graph, [nodes[quality]])
            for unit in range(lowest, len(self.units)):
                sources = [nodes[self._moving[lowest][name]] for name in self.units[unit]]
                # Later units overwrite: an operation's stage is the highest unit that it depends on.
                for node in downstream(graph, sources):
                    stage_of[node] = (lowest, unit if node in for_quality else _STEP)
        results = [*self._first[1].values(), *(quality for quality, _ in self._later.values())]
        needed = upstream(graph, [*stage_of, *(nodes[name] for name in results)])
        for node in graph.nodes:
            stage_of.setdefault(node, _SHARED if node in needed else _EMPTY)
        self.stages = split(module, {node: key for node, key in stage_of.items() if node.op not in _NO_OPERATION})

    def run(self, parameters: Parameters, episodes: Sequence[Tensor], candidates: Iterable[Candidate]) -> Qualities:
        """Qualities of candidates, and of all their first steps, on B episodes.

        Args:
            parameters: all parameters before adaptation.
            episodes: support x and y, query x and y, each with a leading dimension of B.
            candidates: whose patterns have the program's lowest active units, or are empty.
        """
        values: Values = {self._parameters[name]: value for name, value in parameters.items()}
        values.update(zip(self._episode, self._unpacked(episodes), strict=True))
        self._run(_SHARED, values)
        qualities: Qualities = {}
        trees = _trees(candidates)
        if None in trees:
            self._run(_EMPTY, values)
            qualities[()] = values[self._first[0]].reshape(-1)
        repeated = self._repeated(parameters)
        gradient = {name: values[node] for name, node in self._first[1].items()}
        for lowest, tree in trees.items():
            if lowest is not None:
                self._walk(lowest, tree, (), repeated, gradient, values, qualities)
                for key in [key for key in self.stages if key[0] == lowest]:
                    for name in self.stages[key].gives:
                        values.pop(name, None)
        return qualities

    def needed_bytes(self, candidates: Iterable[Candidate]) -> int:
        """Most memory that judging candidates takes beside its inputs, as counted from the program.

        What passes between stages is held until the stage runs again; parameters moved by one rate are held while
        candidates that begin alike are judged, and a candidate with further steps holds its gradient meanwhile.
        """
        trees = _trees(candidates)
        repeated = self._bytes_from(0) if self.batch > 1 else 0
        peaks = [self._stage_bytes([_SHARED], 0), self._stage_bytes([_EMPTY], self._held_bytes([_SHARED]))]
        for lowest, tree in trees.items():
            if lowest is not None:
                own = [key for key in self.stages if key[0] == lowest]
                held = self._held_bytes([_SHARED, *own]) + _most_held(tree) * self._bytes_from(lowest)
                peaks.append(self._stage_bytes(own, held))
        return repeated + max(peaks)

    def _held_bytes(self, keys: Iterable[_Key]) -> int:
        return sum(self.stages[key].held_bytes for key in keys if key in self.stages)

    def _stage_bytes(self, keys: Iterable[_Key], held: int) -> int:
        """Memory while the largest of some stages runs; ``held`` may count what it gives already."""
        return held + max((self.stages[key].peak_bytes for key in keys if key in self.stages), default=0)

    def _bytes_from(self, lowest: int) -> int:
        """Memory of the parameters of the units from ``lowest`` up, of B episodes."""
        return self.batch * sum(self._sizes[name] for names in self.units[lowest:] for name in names)

    def _walk(
        self,
        lowest: int,
        tree: _Tree,
        before: tuple[Step, ...],
        parameters: Parameters,
        gradient: Parameters,
        values: Values,
        qualities: Qualities,
    ) -> None:
        """Judge every candidate of a tree that begins with the steps ``before``, which lead to ``parameters``.

        All with one step more are judged before any with two, and rate by rate: neighbours share the features of the
        lower units.
        """
        continued: list[tuple[Step, Parameters, Parameters]] = []
        by_rate: dict[float, Parameters] = {}
        for row, factor in sorted(tree, key=lambda step: (step[1], step[0])):
            stepped = by_rate.setdefault(factor, {})
            chosen: Parameters = {}
            for unit in range(lowest, len(self.units)):
                for name in self.units[unit]:
                    if row[unit] and name not in stepped:
                        stepped[name] = moved(self.adaptation, parameters[name], gradient[name], factor)
                    chosen[name] = stepped[name] if row[unit] else parameters[name]
            inputs = {self._moving[lowest][name]: value for name, value in chosen.items()}
            changed = [
                unit
                for unit in range(lowest, len(self.units))
                for name in self.units[unit]
                if values.get(self._moving[lowest][name]) is not chosen[name]
            ]
            values.update(inputs)
            for unit in range(min(changed, default=len(self.units)), len(self.units)):
                self._run((lowest, unit), values)
            quality, following = self._later[lowest]
            step = (row, factor)
            qualities[*before, step] = values[quality].reshape(-1)
            if tree[step]:
                self._run((lowest, _STEP), values)
                continued.append((step, chosen, {name: values[node] for name, node in following.items()}))
        while continued:
            step, chosen, gradient = continued.pop(0)
            self._walk(lowest, tree[step], (*before, step), chosen, gradient, values, qualities)

    def _run(self, key: _Key, values: Values) -> None:
        if key in self.stages:
            self.stages[key].run(values)

    def _unpacked(self, episodes: Sequence[Tensor]) -> list[Tensor]:
        return [tensor[0] if self.batch == 1 else tensor for tensor in episodes]

    def _repeated(self, parameters: Parameters) -> Parameters:
        """The parameters of each of B episodes."""
        if self.batch == 1:
            return parameters
        return {name: value.expand(self.batch, *value.shape).contiguous() for name, value in parameters.items()}

    def _from(self, lowest: int, parameters: Parameters) -> Parameters:
        """The parameters of the units from ``lowest`` up."""
        return {name: parameters[name] for names in self.units[lowest:] for name in names}


def _trees(candidates: Iterable[Candidate]) -> dict[int | None, _Tree]:
    """Lowest active unit -> the candidates with it as a tree of steps."""
    trees: dict[int | None, _Tree] = {}
    for candidate in candidates:
        tree = trees.setdefault(candidate.pattern.lowest_active_unit, {})
        for step in candidate.steps_taken:
            tree = tree.setdefault(step, {})
    return trees


def _most_held(tree: _Tree) -> int:
    """How many times all moving parameters, or their gradient, are held at once in a walk of a tree."""
    continued = [below for below in tree.values() if below]
    factors = {factor for _, factor in tree}
    return len(factors) + len(continued) + max(map(_most_held, continued), default=0)
