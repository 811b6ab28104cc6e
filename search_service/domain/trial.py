"""What becomes of a candidate that a search judges."""

from __future__ import annotations

from enum import StrEnum


class TrialState(StrEnum):
    """Where a trial stands."""

    PENDING = "pending"
    DROPPED = "dropped"
    SURVIVED = "survived"
    QUALIFIED = "qualified"
    UNQUALIFIED = "unqualified"
    UNRESOLVED = "unresolved"
    """Neither proved to stay under the threshold nor surely over it."""
