"""Λ-patterns as grids: inner steps down, units across."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search_service.domain.candidate import Candidate, Precision

MOST_CELLS = 1024
"""Above this a grid is no longer read as one; the pattern's text says it."""
MOST_SMALL_CELLS = 160


@dataclass(frozen=True, slots=True)
class Step:
    """One inner step."""

    number: int
    active: tuple[bool, ...]
    factor: float
    """Of the base rate."""
    rate: float | None
    """None where the base rate is not known here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A candidate laid out."""

    candidate: str
    units: tuple[str, ...]
    steps: tuple[Step, ...]
    lowered: int
    """Units, from the first, that are frozen throughout and computed in ``precision``; 0 where that is float32."""
    precision: str

    @property
    def is_drawn(self) -> bool:
        """Whether it is small enough for a table of cells."""
        return len(self.units) * len(self.steps) <= MOST_CELLS

    @property
    def is_small(self) -> bool:
        """Whether it can stand within a line of text."""
        return 0 < len(self.units) * len(self.steps) <= MOST_SMALL_CELLS

    @property
    def said(self) -> str:
        """The grid in words."""
        if not self.steps:
            return "no unit is updated"
        active = [unit for at, unit in enumerate(self.units) if any(step.active[at] for step in self.steps)]
        steps = "1 step" if len(self.steps) == 1 else f"{len(self.steps)} steps"
        if len(active) == len(self.units):
            return f"every unit is updated, {steps}" if self._is_full else f"{steps}, every unit in some of them"
        return f"{steps}; updated: {', '.join(active)}"

    @property
    def _is_full(self) -> bool:
        return all(all(step.active) for step in self.steps)


def grid_of(text: str, units: Sequence[str], base_rate: float | None = None) -> Grid:
    """Lay out a candidate.

    Args:
        text: its canonical text.
        units: names of the units, input to output.
        base_rate: the inner rate that its factors multiply, where that is known.
    """
    candidate = Candidate.parse(text)
    lowest = candidate.pattern.lowest_active_unit or 0
    is_lowered = candidate.precision != Precision.FLOAT32
    return Grid(
        candidate=candidate.text,
        units=tuple(units),
        steps=tuple(
            Step(number, row, factor, None if base_rate is None else base_rate * factor)
            for number, (row, factor) in enumerate(candidate.steps_taken, start=1)
        ),
        lowered=lowest if is_lowered else 0,
        precision=candidate.precision.value,
    )
