"""A candidate, what a search chooses among: a Λ-pattern, its rows' rate factors, its frozen prefix's precision."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from search_service.domain.errors import InvalidPattern
from search_service.domain.lambda_pattern import LambdaPattern, row_text

MAX_FACTOR = 1000.0

_SEGMENT = re.compile(r"(?P<row>[01]+)(?:\*(?P<factor>[0-9.eE+-]{1,20}))?(?P<count>@[0-9]+)?", re.ASCII)

Step = tuple[tuple[bool, ...], float]
"""A row of a pattern and the factor of its rate."""


class Precision(StrEnum):
    """In what a candidate's frozen prefix is computed; what adapts is always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pattern, its rows' rate factors, and the precision of its frozen prefix: the units below its lowest active one.

    Args:
        pattern: which units move at which step.
        factors: of the base rate, one per row; all 1 unless given.
        precision: of the frozen prefix.

    Raises:
        InvalidPattern: another number of factors than rows, a factor that is none (see ``check_factor``), or a lower
            precision for a pattern that freezes no prefix.
    """

    pattern: LambdaPattern
    factors: tuple[float, ...] = ()
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        factors = tuple(map(float, self.factors)) or (1.0,) * self.pattern.steps
        object.__setattr__(self, "factors", factors)
        if len(factors) != self.pattern.steps:
            raise InvalidPattern(self.pattern.text, f"{len(factors)} rate factors for {self.pattern.steps} rows")
        for factor in factors:
            if problem := factor_problem(factor):
                raise InvalidPattern(self.pattern.text, problem)
        if self.precision != Precision.FLOAT32 and not self.pattern.lowest_active_unit:
            raise InvalidPattern(self.text, "no frozen unit before the first active one to lower")

    @classmethod
    def parse(cls, text: str, units: int | None = None) -> Candidate:
        """Read a candidate's text.

        Rows as in a pattern's text, each with ``*factor`` behind it where its rate is not the base rate; ``:bfloat16``
        at the end where the frozen prefix is lowered. For example ``00111/00010*2:bfloat16``.

        Raises:
            InvalidPattern: the text has another form, or the pattern another number of units.
        """
        rows, colon, precision = text.partition(":")
        lowered = [kind.value for kind in Precision if kind != Precision.FLOAT32]
        if colon and precision not in lowered:
            raise InvalidPattern(text, f"'{precision}' is no precision of a frozen prefix; there is {lowered}")
        plain: list[str] = []
        factors: list[float] = []
        for segment in rows.split("/"):
            match = _SEGMENT.fullmatch(segment)
            if match is None or match["factor"] is None:
                plain.append(segment)  # the pattern's own reader says what is wrong with it, if anything is
            else:
                plain.append(match["row"] + (match["count"] or ""))
            pattern = LambdaPattern.parse(plain[-1])
            factors += [_factor(text, match["factor"] if match else None)] * pattern.steps
        pattern = LambdaPattern.parse("/".join(plain), units)
        return cls(pattern, tuple(factors), Precision(precision) if colon else Precision.FLOAT32)

    @property
    def text(self) -> str:
        """The one canonical text: ``row*factor@count``, factor and count where they are not 1; zeros when empty."""
        suffix = "" if self.precision == Precision.FLOAT32 else f":{self.precision}"
        if not self.pattern.rows:
            return self.pattern.text + suffix
        segments = []
        for (row, factor), run in groupby(self.steps_taken):
            count = len(list(run))
            segments.append(
                row_text(row) + (f"*{factor:g}" if factor != 1 else "") + (f"@{count}" if count > 1 else "")
            )
        return "/".join(segments) + suffix

    @property
    def steps(self) -> int:
        """How many inner steps it takes."""
        return self.pattern.steps

    @property
    def steps_taken(self) -> tuple[Step, ...]:
        """Row and rate factor of each step."""
        return tuple(zip(self.pattern.rows, self.factors, strict=True))

    def first_steps(self, steps: int) -> Candidate:
        """The candidate of the first ``steps`` steps, its precision that of this one.

        Raises:
            InvalidPattern: those steps freeze no prefix that could have this precision.
        """
        return Candidate(self.pattern.first_steps(steps), self.factors[:steps], self.precision)

    def __str__(self) -> str:
        return self.text


def factor_problem(factor: float) -> str | None:
    """What is wrong with a rate factor, if anything is: it must print exactly with six significant digits."""
    if not (math.isfinite(factor) and 0 < factor <= MAX_FACTOR):
        return f"a rate factor is above 0 and at most {MAX_FACTOR:g}, not {factor:g}"
    if float(f"{factor:g}") != factor:
        return f"a rate factor has at most six significant digits, not {factor!r}"
    return None


def _factor(text: str, factor: str | None) -> float:
    try:
        return 1.0 if factor is None else float(factor)
    except ValueError as error:
        raise InvalidPattern(text, f"'{factor}' is not a rate factor") from error
