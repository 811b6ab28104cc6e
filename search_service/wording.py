"""Words that the command line and the report pages say alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

METHODS = {
    "betting": "betting test, valid for any distribution of losses however often one looks",
    "empirical_bernstein": "empirical-Bernstein bound, valid for any distribution of losses however often one looks",
    "asymptotic": "asymptotic confidence sequence, without guarantee where losses are rare and large",
}
"""What each certificate promises."""
MOST_NAMED = 6
"""Candidates of a list that are named."""


def few(candidates: Sequence[str]) -> str:
    """The first of many."""
    more = len(candidates) - MOST_NAMED
    return ", ".join(candidates[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def device(fingerprint: dict[str, Any]) -> str:
    """What a fingerprint says to people."""
    parts = [str(fingerprint.get("gpu") or fingerprint.get("processor") or fingerprint.get("class", "unknown"))]
    if threads := fingerprint.get("threads"):
        parts.append("1 thread" if threads == 1 else f"{threads} threads")
    if version := fingerprint.get("torch"):
        parts.append(f"torch {version}")
    return ", ".join(parts)
