"""Cursors: where the next page begins, as text that callers hand back and do not read."""

from __future__ import annotations

import base64
from datetime import datetime
from uuid import UUID

from search_service.domain.errors import LambdaSearchError
from search_service.storage.searches import SearchPosition, SearchSort
from search_service.storage.tables import SearchRow

_SEPARATOR = " "
_MAX_POSITION = 2**31 - 1


class InvalidCursor(LambdaSearchError, ValueError):
    """A cursor is not one that this service gave."""

    def __init__(self, cursor: str) -> None:
        self.cursor = cursor
        super().__init__("this is no cursor of this list; hand back a next_cursor as it was given, or none to begin")


def search_cursor(row: SearchRow, sort: SearchSort) -> str:
    """The cursor after a search in the list of searches in an order."""
    position = [row.created_at.isoformat(), str(row.id)]
    if sort.column == "priority":
        position.insert(0, str(row.priority))
    return _encode(_SEPARATOR.join([sort, *position]))


def read_search_cursor(cursor: str, sort: SearchSort) -> SearchPosition:
    """Read what ``search_cursor`` wrote for the same order.

    Raises:
        InvalidCursor: it did not write this.
    """
    try:
        named, *position, created_at, search_id = _decode(cursor).split(_SEPARATOR)
        if named != sort or len(position) != (sort.column == "priority"):
            raise InvalidCursor(cursor)
        first: tuple[int, ...] = tuple(map(int, position))
        at = datetime.fromisoformat(created_at)
        if at.tzinfo is None or any(abs(value) > _MAX_POSITION for value in first):
            raise InvalidCursor(cursor)
        return (*first, at, UUID(search_id))
    except ValueError as error:
        raise InvalidCursor(cursor) from error


def trial_cursor(number: int) -> str:
    """The cursor after a trial in the list of a search's trials."""
    return _encode(str(number))


def read_trial_cursor(cursor: str) -> int:
    """Read what ``trial_cursor`` wrote.

    Raises:
        InvalidCursor: it did not write this.
    """
    try:
        number = int(_decode(cursor))
    except ValueError as error:
        raise InvalidCursor(cursor) from error
    if not 0 <= number <= _MAX_POSITION:
        raise InvalidCursor(cursor)
    return number


def _encode(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def _decode(cursor: str) -> str:
    # Every way of failing here is a ValueError.
    return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode("ascii")
