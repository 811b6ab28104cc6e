"""Judging candidates: their qualities on blocks of episodes, in bulk.

Candidates that are judged together share what they have in common (``workers.adaptation.shared_runs``), episodes run
one by one or several at once and side by side as measured to be fastest (``workers.adaptation.plans``), and never more
of them than a memory limit allows.

Notation: B episodes in a block, S inner steps, N support and M query examples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from search_service.domain.candidate import Candidate, Precision, Step
from search_service.domain.evaluation import DIVERGED_QUALITY
from workers.adaptation.inner_loop import Adaptation, Parameters
from workers.adaptation.lanes import WAVE, Lanes
from workers.adaptation.layout import Layout, laid_out, layouts_of
from workers.adaptation.memory import MemoryLimitTooSmall, default_limit_bytes
from workers.adaptation.plans import Choices, Tuning
from workers.adaptation.shared_runs import Metric, SharedRuns

SIZES_ON_A_CPU = (1, 5, 25)
"""Episodes at once that are tried on a CPU: convolutions whose filters differ by episode gain little by more."""
SIZES_ON_A_GPU = (1, 8, 64, 512)
"""Episodes at once that are tried on a GPU, which wants many."""

Steps = tuple[Step, ...]
_ONE_LANE = Lanes()


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of ``M x ways`` logits whose largest is at the ``M`` labels; a scalar in 0..1."""
    return (logits.argmax(-1) == labels).to(logits.dtype).mean()


def negative_mse(predictions: Tensor, targets: Tensor) -> Tensor:
    """Minus the mean squared error of ``M x outputs`` predictions; a scalar."""
    return -(predictions - targets).square().mean()


class Judge:
    """Judges candidates of one network on blocks of episodes, keeping its traced programs and what it has measured.

    Args:
        adaptation: how the network adapts.
        metric: quality of outputs against targets.
        parameters: the checkpoint's parameters, on the device that judges.
        lanes: where program calls may run side by side.
        memory_limit_bytes: what judging may take beside the episodes and the parameters that it is given; by default a
            share of what is free now (``workers.adaptation.memory``).
        layout: of images and filters; by default whichever is measured to be faster.
        episodes_at_once: in one program call, as far as memory allows; by default as many as measured to be fastest.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        metric: Metric,
        parameters: Parameters,
        lanes: Lanes | None = None,
        memory_limit_bytes: int | None = None,
        layout: Layout | None = None,
        episodes_at_once: int | None = None,
    ) -> None:
        self.adaptation = adaptation
        self.metric = metric
        self.parameters = parameters
        self.lanes = lanes or Lanes()
        self.device = next(iter(parameters.values())).device
        self.memory_limit_bytes = memory_limit_bytes or default_limit_bytes(self.device)
        self.layout = layout
        self.episodes_at_once = episodes_at_once
        self._laid_out: dict[Layout, Parameters] = {}
        self._programs: dict[tuple[_Kind, Layout, int], SharedRuns] = {}
        self._tunings: dict[_Kind, Tuning] = {}

    @torch.no_grad()
    def qualities(
        self,
        candidates: Iterable[Candidate],
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        pause: Callable[[], None] = lambda: None,
    ) -> dict[str, Tensor]:
        """Quality of candidates after each of their steps on a block; of the empty pattern, without adaptation.

        Args:
            candidates: the more at once, the more they share.
            support_x: ``B x N x ...``-dim tensor.
            support_y: ``B x N`` labels or ``B x N x outputs`` targets.
            query_x: ``B x M x ...``-dim tensor.
            query_y: ``B x M`` labels or ``B x M x outputs`` targets.
            pause: called between waves of program calls; may block or raise.

        Returns:
            Candidate's text -> ``B x max(S, 1)``-dim tensor on the CPU; column s is the quality after the first
            ``s + 1`` steps, or ``DIVERGED_QUALITY``.

        Raises:
            MemoryLimitTooSmall: not even one episode fits.
        """
        episodes = (support_x, support_y, query_x, query_y)
        judged: dict[str, Tensor] = {}
        for precision, group in _groups(candidates):
            columns = list(dict.fromkeys(steps for candidate in group for steps in _first_steps(candidate)))
            matrix = self._judge(precision, group, columns, episodes, pause)
            matrix = torch.nan_to_num(matrix, nan=DIVERGED_QUALITY).clamp(min=DIVERGED_QUALITY)
            place = {steps: column for column, steps in enumerate(columns)}
            for candidate in group:
                judged[candidate.text] = matrix[:, [place[steps] for steps in _first_steps(candidate)]]
        return judged

    def _judge(
        self,
        precision: Precision,
        candidates: list[Candidate],
        columns: list[Steps],
        episodes: Sequence[Tensor],
        pause: Callable[[], None],
    ) -> Tensor:
        """``B x len(columns)`` qualities of the candidates with the steps in ``columns``, by one shared program."""
        kind = _Kind.of(candidates, precision, episodes)
        tuning = self._tunings.setdefault(kind, Tuning(str(kind), self._choices))
        done, count = 0, len(episodes[0])
        room = self._room(kind, tuning.choices.first.layout, candidates, episodes)
        most = min(room, count)
        blocks: list[Tensor] = []
        while done < count:
            pause()
            plan = tuning.next(count - done, len(columns), most)
            size = min(plan.episodes, most)
            calls = max(1, min(WAVE * plan.lanes, (count - done) // size))
            starts = range(done, done + calls * size, size)
            done += len(starts) * size

            program = self._program(kind, plan.layout, _part(episodes, starts[0], size))
            call = partial(self._qualities, program, plan.layout, candidates, columns, episodes)
            lanes = self.lanes if plan.lanes > 1 and room >= plan.lanes * size else _ONE_LANE
            started = time.perf_counter()
            blocks += lanes.map(call, starts)
            seconds = time.perf_counter() - started
            tuning.record(plan, calls * size * len(columns), seconds, program.preparation_s)
        return torch.cat(blocks)[:count]

    def _qualities(
        self,
        program: SharedRuns,
        layout: Layout,
        candidates: list[Candidate],
        columns: list[Steps],
        episodes: Sequence[Tensor],
        start: int,
    ) -> Tensor:
        """``program.batch x len(columns)`` qualities on the episodes from ``start``."""
        chunk = [laid_out(tensor, layout) for tensor in _part(episodes, start, program.batch)]
        qualities = program.run(self._laid_out[layout], chunk, candidates)
        return torch.stack([qualities[steps] for steps in columns], dim=1).cpu()

    def _program(self, kind: _Kind, layout: Layout, chunk: Sequence[Tensor]) -> SharedRuns:
        key = (kind, layout, len(chunk[0]))
        if key not in self._programs:
            if layout not in self._laid_out:
                self._laid_out[layout] = {name: laid_out(value, layout) for name, value in self.parameters.items()}
            self._programs[key] = SharedRuns(
                self.adaptation,
                self.metric,
                kind.lowest_units,
                kind.precision,
                self._laid_out[layout],
                [laid_out(tensor, layout) for tensor in chunk],
            )
        return self._programs[key]

    def _room(self, kind: _Kind, layout: Layout, candidates: list[Candidate], episodes: Sequence[Tensor]) -> int:
        """How many episodes fit into the memory limit together, counted from the program of one.

        Raises:
            MemoryLimitTooSmall: not even one does.
        """
        one = _part(episodes, 0, 1)
        program = self._program(kind, layout, one)
        # Both are copied into the program's layout, episodes once more when they are taken out of their block.
        parameters = sum(value.nbytes for value in self.parameters.values())
        needed = program.needed_bytes(candidates) + 2 * sum(tensor.nbytes for tensor in one)
        if parameters + needed > self.memory_limit_bytes:
            raise MemoryLimitTooSmall(self.memory_limit_bytes, parameters + needed)
        # Several at once have a copy of the parameters each.
        return max(1, (self.memory_limit_bytes - parameters) // (needed + parameters))

    @cached_property
    def _choices(self) -> Choices:
        is_cpu = self.device.type == "cpu"
        sizes: Sequence[int] = SIZES_ON_A_CPU if is_cpu else SIZES_ON_A_GPU
        if self.episodes_at_once is not None:
            sizes = (self.episodes_at_once,)
        layouts = layouts_of(self.parameters.values()) if self.layout is None else (self.layout,)
        return Choices(sizes, layouts, (self.lanes.count, 1) if self.lanes.count > 1 else (1,))


@dataclass(frozen=True, slots=True)
class _Kind:
    """What candidates have in common that one program judges, and the shapes of their episodes."""

    lowest_units: frozenset[int]
    precision: Precision
    shapes: tuple[tuple[torch.Size, torch.dtype], ...]

    @classmethod
    def of(cls, candidates: Iterable[Candidate], precision: Precision, episodes: Sequence[Tensor]) -> _Kind:
        lowest_units = frozenset(
            lowest for candidate in candidates if (lowest := candidate.pattern.lowest_active_unit) is not None
        )
        return cls(lowest_units, precision, tuple((tensor.shape[1:], tensor.dtype) for tensor in episodes))

    def __str__(self) -> str:
        return f"lowest active units {sorted(self.lowest_units)} in {self.precision}"


def _groups(candidates: Iterable[Candidate]) -> list[tuple[Precision, list[Candidate]]]:
    """Candidates that one program judges: all in float32; of those with a lower prefix, all with the same one."""
    groups: dict[tuple[Precision, int | None], list[Candidate]] = {}
    for candidate in candidates:
        is_lowered = candidate.precision != Precision.FLOAT32
        lowest = candidate.pattern.lowest_active_unit if is_lowered else None
        groups.setdefault((candidate.precision, lowest), []).append(candidate)
    return [(precision, group) for (precision, _), group in groups.items()]


def _first_steps(candidate: Candidate) -> list[Steps]:
    """The first 1, 2, ... steps of a candidate; of the empty pattern, none."""
    return [candidate.steps_taken[:steps] for steps in range(min(candidate.steps, 1), candidate.steps + 1)]


def _part(episodes: Sequence[Tensor], start: int, size: int) -> list[Tensor]:
    """``size`` episodes from ``start``; where there are fewer, the last one again and again."""
    index = torch.arange(start, start + size).clamp(max=len(episodes[0]) - 1)
    return [tensor[index.to(tensor.device)] for tensor in episodes]
