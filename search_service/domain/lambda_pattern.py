"""The Λ-pattern: which units of a network are updated at which inner step.

Khabarlak, *Faster Optimization-Based Meta-Learning Adaptation Phase*, arXiv 2206.05930, section 3, calls the choice of
updated weights Λ; here it is a boolean matrix, inner steps x units, so that each step may choose its own units.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, product

from search_service.domain.errors import InvalidPattern

MAX_UNITS = 512
MAX_STEPS = 64

_SEGMENT = re.compile(r"(?P<row>[01]+)(?:@(?P<count>[1-9][0-9]*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class LambdaPattern:
    """A boolean matrix, inner steps x units, that cannot be invalid.

    ``rows[s][u]`` is true when unit ``u`` (input to output) is updated at inner step ``s``. A row of zeros is no step
    and is dropped when the pattern is built, so two patterns that adapt alike are equal. A pattern without rows is the
    *empty pattern*: no adaptation.

    Raises:
        InvalidPattern: no units, more than ``MAX_UNITS`` of them, more than ``MAX_STEPS`` steps, or a row whose length
            is not ``units``.
    """

    units: int
    rows: tuple[tuple[bool, ...], ...]

    def __post_init__(self) -> None:
        shown = "/".join(row_text(row) for row in self.rows[:8]) or "0" * min(self.units, 8)
        if not 1 <= self.units <= MAX_UNITS:
            raise InvalidPattern(shown, f"a pattern has 1 to {MAX_UNITS} units, not {self.units}")
        for row in self.rows:
            if len(row) != self.units:
                raise InvalidPattern(shown, f"row '{row_text(row)}' has {len(row)} units, expected {self.units}")
        rows = tuple(tuple(map(bool, row)) for row in self.rows if any(row))
        if len(rows) > MAX_STEPS:
            raise InvalidPattern(shown, f"a pattern has at most {MAX_STEPS} steps, not {len(rows)}")
        object.__setattr__(self, "rows", rows)

    @classmethod
    def parse(cls, text: str, units: int | None = None) -> LambdaPattern:
        """Read a pattern's text: rows of 0/1 joined by ``/``; ``row@n`` stands for ``n`` equal rows.

        Args:
            text: for example ``00111/00010`` or ``00111@2``.
            units: how many units the network has; by default whatever the first row says.

        Raises:
            InvalidPattern: the text has another form or another number of units.
        """
        rows: list[tuple[bool, ...]] = []
        for segment in text.split("/"):
            match = _SEGMENT.fullmatch(segment)
            if match is None:
                raise InvalidPattern(text, f"'{segment}' is not a row of 0 and 1, or such a row and @count")
            count = match["count"] or "1"
            # The length test comes first: int() of a very long digit string is slow, and the list must stay small.
            if len(count) > len(str(MAX_STEPS)) or int(count) > MAX_STEPS:
                raise InvalidPattern(text, f"a pattern has at most {MAX_STEPS} steps")
            row = tuple(bit == "1" for bit in match["row"])
            if rows and len(row) != len(rows[0]):
                raise InvalidPattern(text, f"rows have {len(rows[0])} and {len(row)} units")
            rows.extend([row] * int(count))
            if len(rows) > 2 * MAX_STEPS:
                raise InvalidPattern(text, f"a pattern has at most {MAX_STEPS} steps")
        if units is not None and len(rows[0]) != units:
            raise InvalidPattern(text, f"it has {len(rows[0])} units, the network has {units}")
        return cls(units=len(rows[0]), rows=tuple(rows))

    @classmethod
    def constant(cls, row: Iterable[bool], steps: int) -> LambdaPattern:
        """The pattern of ``steps`` equal rows."""
        fixed = tuple(row)
        return cls(units=len(fixed), rows=(fixed,) * steps)

    @classmethod
    def full(cls, units: int, steps: int) -> LambdaPattern:
        """All ones: plain MAML with ``steps`` inner steps."""
        return cls.constant((True,) * units, steps)

    @classmethod
    def empty(cls, units: int) -> LambdaPattern:
        """No adaptation at all; a comparator, never a candidate."""
        return cls(units=units, rows=())

    @property
    def text(self) -> str:
        """The one canonical text: runs of equal rows as ``row@count``, single rows bare, the empty pattern as zeros."""
        if not self.rows:
            return "0" * self.units
        runs = ((row_text(row), len(list(run))) for row, run in groupby(self.rows))
        return "/".join(row if count == 1 else f"{row}@{count}" for row, count in runs)

    @property
    def steps(self) -> int:
        """How many inner steps update anything."""
        return len(self.rows)

    @property
    def lowest_active_unit(self) -> int | None:
        """Index of the unit nearest the input that any step updates; everything below is frozen. None when empty."""
        active = [unit for unit in range(self.units) if any(row[unit] for row in self.rows)]
        return active[0] if active else None

    @property
    def active_units(self) -> tuple[int, ...]:
        """Indices of the units that any step updates, input to output."""
        return tuple(unit for unit in range(self.units) if any(row[unit] for row in self.rows))

    @property
    def is_constant(self) -> bool:
        """Whether all rows are equal (the empty pattern is)."""
        return len(set(self.rows)) <= 1

    def first_steps(self, steps: int) -> LambdaPattern:
        """The pattern of the first ``steps`` rows."""
        return LambdaPattern(units=self.units, rows=self.rows[:steps])

    def __str__(self) -> str:
        return self.text


def constant_row_patterns(units: int, max_steps: int) -> Iterator[LambdaPattern]:
    """Every non-zero row, in binary order, repeated 1..``max_steps`` times: ``(2**units - 1) * max_steps`` patterns."""
    for row in product((False, True), repeat=units):
        if any(row):
            for steps in range(1, max_steps + 1):
                yield LambdaPattern.constant(row, steps)


def row_text(row: Iterable[bool]) -> str:
    """A row as 0 and 1, input to output."""
    return "".join("1" if bit else "0" for bit in row)
