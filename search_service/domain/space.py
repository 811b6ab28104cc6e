"""How many candidates a search space holds, computed without listing them."""

from __future__ import annotations

MAX_LISTED_CANDIDATES = 10**5
"""Above this many candidates a space is not listed, and a method that must list it is refused."""


def constant_rows_size(units: int, max_steps: int, lowered: bool = False) -> int:
    """Number of non-empty constant-row candidates: one of ``2**units - 1`` rows, repeated 1..``max_steps`` times.

    With ``lowered``, patterns that freeze the lowest unit count twice: their frozen prefix may be in bfloat16 as well.
    """
    rows: int = 2**units - 1
    freezing: int = 2 ** (units - 1) - 1
    return (rows + freezing * lowered) * max_steps
