"""What a check of the doctor finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Something does not work as it could, or cannot be told."""
    FAILURE = "failure"
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what was found, and unless all is well one of what to do."""

    check: str
    level: Level
    found: str
    to_do: str | None = None


Check = Callable[[], Iterator[Finding]]


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, found)


def warning(check: str, found: str, to_do: str) -> Finding:
    """It could be better."""
    return Finding(check, Level.WARNING, _one_line(found), to_do)


def failure(check: str, found: str, to_do: str) -> Finding:
    """It does not work."""
    return Finding(check, Level.FAILURE, _one_line(found), to_do)


def _one_line(text: str) -> str:
    return " ".join(text.split())
