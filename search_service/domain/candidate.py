"""A candidate, what a search chooses among: a Λ-pattern, and the precision of what the pattern leaves frozen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from search_service.domain.errors import InvalidPattern
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns


class Precision(StrEnum):
    """In what a candidate's frozen prefix is computed; what adapts is always float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pattern and the precision of its frozen prefix: the units below its lowest active one.

    Raises:
        InvalidPattern: a lower precision for a pattern that freezes no prefix.
    """

    pattern: LambdaPattern
    precision: Precision = Precision.FLOAT32

    def __post_init__(self) -> None:
        if self.precision != Precision.FLOAT32 and not self.pattern.lowest_active_unit:
            raise InvalidPattern(
                f"{self.pattern.text}:{self.precision}", "no frozen unit before the first active one to lower"
            )

    @classmethod
    def parse(cls, text: str, units: int | None = None) -> Candidate:
        """Read a candidate's text: a pattern's, and ``:bfloat16`` behind it where the frozen prefix is lowered.

        Raises:
            InvalidPattern: the text has another form, or the pattern another number of units.
        """
        pattern, colon, precision = text.partition(":")
        lowered = [kind.value for kind in Precision if kind != Precision.FLOAT32]
        if colon and precision not in lowered:
            raise InvalidPattern(text, f"'{precision}' is no precision of a frozen prefix; there is {lowered}")
        return cls(LambdaPattern.parse(pattern, units), Precision(precision) if colon else Precision.FLOAT32)

    @property
    def text(self) -> str:
        """The one canonical text."""
        return candidate_text(self.pattern.text, self.precision)

    def __str__(self) -> str:
        return self.text


def candidate_text(pattern: str, precision: Precision) -> str:
    """The canonical text of a candidate, from its pattern's canonical text and its precision."""
    return pattern if precision == Precision.FLOAT32 else f"{pattern}:{precision}"


def constant_row_candidates(units: int, max_steps: int, lowered: bool) -> Iterator[Candidate]:
    """Every constant-row pattern in binary order; with ``lowered``, also with its frozen prefix in bfloat16.

    There are :func:`search_service.domain.space.constant_rows_size` of them.
    """
    patterns = list(constant_row_patterns(units, max_steps))
    yield from map(Candidate, patterns)
    if lowered:
        yield from (Candidate(pattern, Precision.BFLOAT16) for pattern in patterns if pattern.lowest_active_unit)
