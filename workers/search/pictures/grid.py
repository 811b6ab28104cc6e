"""The answer as a grid, one row per inner step and one column per unit; knows no drawing library."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from search_service.domain.candidate import Precision
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.result import PatternFigures
from workers.search.pictures.style import SMALL_SIZE, Cell, text_width
from workers.search.pictures.words import clean, shorten

MOST_STEPS_BESIDE, MOST_UNITS_BESIDE = 8, 10  # a larger grid goes below the plane, over the whole width
NAME_LENGTH, NAME_LENGTH_BESIDE = 18, 12  # characters of a unit's name in a label
LABEL_ROOM = SMALL_SIZE + 4  # pixels from one label to the next
LONG_NAME = 8  # characters from which names stand upright
STRIDES = (1, 2, 4, 5, 10, 20, 25, 50, 100, 200, 500)
SEEN_ONE_BY_ONE = 6.0  # pixels of a cell from which there is a gap to the next


@dataclass(frozen=True, slots=True)
class RateRun:
    """Consecutive steps whose rate is not the base rate but this one."""

    first: int
    last: int
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A label at a row or a column, counted from 0."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CellSize:
    """Of one cell, in pixels."""

    width: float
    height: float

    @property
    def gap(self) -> float:
        """Pixels between cells; none between cells too small to be told apart."""
        return 2.0 if min(self.width, self.height) >= SEEN_ONE_BY_ONE else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Everything that is drawn of a pattern."""

    cells: tuple[tuple[Cell, ...], ...]
    """Steps x units."""
    units: tuple[str, ...]
    rates: tuple[str, ...]
    """What is said of each step's rate."""
    runs: tuple[RateRun, ...]
    lowered: int
    """How many units, from the first on, are the frozen prefix that a lower precision computes; 0 where none is."""
    legend: tuple[tuple[Cell, str], ...]
    """The kinds of cells there are."""
    notes: tuple[str, ...]

    @property
    def is_beside(self) -> bool:
        """Whether it is small enough to stand beside the plane."""
        return len(self.cells) <= MOST_STEPS_BESIDE and len(self.units) <= MOST_UNITS_BESIDE

    @property
    def rate_room(self) -> float:
        """Pixels that what is said of rates takes at the right of the cells."""
        return max((16 + text_width(run.text, SMALL_SIZE) for run in self.runs), default=8.0)

    def cell_size(self, width: float) -> CellSize:
        """Of a cell where the grid may be so wide; steps that are many are low, but their rates can still be read."""
        steps, units = max(len(self.cells), 1), len(self.units)
        if self.is_beside:
            return CellSize(min(44.0, width / units), min(28.0, 150 / steps))
        return CellSize(min(70.0, width / units), min(26.0, max(SMALL_SIZE, 400 / steps)))

    def unit_ticks(self, size: CellSize) -> tuple[list[Tick], int]:
        """Labels of columns and their angle in degrees: every unit where there is room, else every so many."""
        limit = NAME_LENGTH_BESIDE if self.is_beside else NAME_LENGTH
        names = [shorten(name, limit) for name in self.units]
        longest = max(names, key=len)
        if text_width(longest, SMALL_SIZE) + 6 <= size.width:
            angle = 0
        else:
            angle = 90 if len(longest) > LONG_NAME or size.width < 1.6 * LABEL_ROOM else 40
        stride = _stride(size.width, len(names))
        return [Tick(index, names[index]) for index in range(0, len(names), stride)], angle

    def step_ticks(self, size: CellSize) -> list[Tick]:
        """Labels of rows."""
        steps = len(self.cells)
        stride = _stride(size.height, steps)
        return [Tick(index, f"step {index + 1}") for index in range(0, steps, stride)]

    def said(self, step: int, unit: int) -> str:
        """What is said of a cell to whoever points at it."""
        kind = self.cells[step][unit]
        state = f"updated, {self.rates[step]}" if kind == Cell.UPDATED else dict(self.legend)[kind]
        return f"step {step + 1}, {self.units[unit]}: {state}"


def grid_of(figures: PatternFigures) -> Grid:
    """Lay out a pattern with its rows' rates and the precision of its frozen prefix."""
    units = tuple(map(clean, figures.units))
    pattern = LambdaPattern.parse(figures.pattern)
    lowered = 0 if figures.precision == Precision.FLOAT32 else pattern.lowest_active_unit or 0
    cells = tuple(
        tuple(
            Cell.UPDATED if digit == "1" else Cell.LOWERED if unit < lowered else Cell.FROZEN
            for unit, digit in enumerate(row)
        )
        for row in figures.rows
    )
    present = {cell for row in cells for cell in row}
    words = {
        Cell.UPDATED: "updated",
        Cell.FROZEN: "frozen",
        Cell.LOWERED: f"frozen prefix in {figures.precision}",
    }
    return Grid(
        cells=cells,
        units=units,
        rates=tuple(map(_rate, figures.rates, figures.rate_factors)),
        runs=_runs(figures),
        lowered=lowered,
        legend=tuple((cell, words[cell]) for cell in (Cell.UPDATED, Cell.FROZEN, Cell.LOWERED) if cell in present),
        notes=_notes(figures, units, lowered),
    )


def _runs(figures: PatternFigures) -> tuple[RateRun, ...]:
    runs = []
    first = 0
    for factor, group in groupby(figures.rate_factors):
        last = first + len(list(group)) - 1
        if factor != 1:
            runs.append(RateRun(first, last, f"×{factor:g} = {figures.rates[first]:.4g}"))
        first = last + 1
    return tuple(runs)


def _rate(rate: float, factor: float) -> str:
    return f"rate {rate:.4g}" + (f" (×{factor:g})" if factor != 1 else "")


def _notes(figures: PatternFigures, units: tuple[str, ...], lowered: int) -> tuple[str, ...]:
    notes = []
    if figures.rates:
        base = figures.rates[0] / figures.rate_factors[0]
        others = any(factor != 1 for factor in figures.rate_factors)
        notes.append(f"inner rate {base:.4g}" + (" unless said beside a row" if others else ""))
    if lowered:
        last = shorten(units[lowered - 1], NAME_LENGTH)
        prefix = last if lowered == 1 else f"{shorten(units[0], NAME_LENGTH)} to {last}"
        count = f"{lowered} of {len(units)} units"
        notes.append(f"in {figures.precision}: {prefix} ({count})")
    return tuple(notes)


def _stride(size: float, count: int) -> int:
    return next((stride for stride in STRIDES if stride * size >= LABEL_ROOM), count)
