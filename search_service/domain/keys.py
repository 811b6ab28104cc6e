"""API keys: who may do what, and how many searches at once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from search_service.domain.errors import InvalidSpec

SYSTEM_KEY = UUID(int=0)
"""Owner of searches that no person submitted; nobody holds this key."""

_NAME = re.compile(r"[^\s](.{0,98}[^\s])?")


class Scope(StrEnum):
    """What a key allows; each contains those before it."""

    READ = "read"
    """See searches, trials, results and events of every key."""
    SUBMIT = "submit"
    """Submit searches, and move one's own."""
    ADMIN = "admin"
    """Move any search, make and revoke keys, and change what the Optuna dashboard shows."""

    def allows(self, needed: Scope) -> bool:
        """Whether this scope contains another."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key to be made."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    name: str
    """Who or what holds it, 1 to 100 printable characters."""
    scope: Scope = Scope.SUBMIT
    """`read`, `submit` (and read) or `admin` (and all else)."""
    expires_at: datetime | None = None
    """From when on it is refused; never unless said. With a time zone."""
    max_queued: int | None = None
    """Most searches of it that may wait; 1000 unless said."""
    max_running: int | None = None
    """Most searches of it that run at once; as many as the service admits unless said."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not self.name.isprintable():
            raise InvalidSpec("name", "give 1 to 100 printable characters")
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise InvalidSpec("expires_at", "name its time zone, for example 2030-01-01T00:00:00Z")
        for field in ("max_queued", "max_running"):
            limit = getattr(self, field)
            if limit is not None and not 1 <= limit <= 1_000_000:
                raise InvalidSpec(field, f"value must be 1 to 1000000, not {limit}")


DEFAULT_MAX_QUEUED = 1000
