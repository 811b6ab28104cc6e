"""The space of candidates that a search chooses from: its size, computed without listing it, and its list."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern

SpaceKind = Literal["constant_rows", "per_step"]

MAX_LISTED_CANDIDATES = 10**5
"""Above this many candidates a space is not listed, and a method that must list it is refused."""
MAX_CANDIDATES = 2**512
"""Above this many candidates a space is refused."""

Row = tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class CandidateSpace:
    """Patterns of 1 to ``max_steps`` rows that each update something, with every choice of rates and precision.

    A row's rate is the base rate times one of ``factors``. With ``lowered``, what freezes a prefix counts twice: it may
    be computed in bfloat16 as well.
    """

    kind: SpaceKind
    units: int
    max_steps: int
    factors: tuple[float, ...] = (1.0,)
    lowered: bool = False

    @property
    def size(self) -> int:
        """Number of candidates."""
        return self._count(self.units) + (self._count(self.units - 1) if self.lowered else 0)

    def _count(self, units: int) -> int:
        """Candidates whose rows use only the last ``units`` units."""
        rows: int = (1 << units) - 1
        factors = len(self.factors)
        if self.kind == "constant_rows":
            return rows * _powers(factors, self.max_steps)
        return _powers(rows * factors, self.max_steps)

    @property
    def is_listable(self) -> bool:
        """Whether it is small enough to be listed."""
        return self.size <= MAX_LISTED_CANDIDATES

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate; rows in binary order, float32 before bfloat16."""
        for candidate in self._float32_candidates():
            yield candidate
            if self.lowered and candidate.pattern.lowest_active_unit:
                yield Candidate(candidate.pattern, candidate.factors, Precision.BFLOAT16)

    def _float32_candidates(self) -> Iterator[Candidate]:
        rows = [row for row in product((False, True), repeat=self.units) if any(row)]
        for steps in range(1, self.max_steps + 1):
            shapes = ((row,) * steps for row in rows) if self.kind == "constant_rows" else product(rows, repeat=steps)
            for shape in shapes:
                pattern = LambdaPattern(self.units, shape)
                for factors in product(self.factors, repeat=steps):
                    yield Candidate(pattern, factors)

    def __contains__(self, candidate: Candidate) -> bool:
        """Whether a candidate is one of the space."""
        pattern = candidate.pattern
        return (
            pattern.units == self.units
            and 1 <= pattern.steps <= self.max_steps
            and (self.kind == "per_step" or len(set(pattern.rows)) == 1)
            and set(candidate.factors) <= set(self.factors)
            and (self.lowered or candidate.precision == Precision.FLOAT32)
        )


def _powers(base: int, most: int) -> int:
    """The sum of the powers of ``base`` from 1 to ``most``."""
    return sum(int(base**exponent) for exponent in range(1, most + 1))
