"""Events of searches, in the order in which they happened. Never commits.

Whoever adds one holds the lock on the search's row, so numbers of a search's events grow with their commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from search_service.domain.events import EventKind
from search_service.storage.tables import EventRow


def add(session: Session, search_id: UUID, kind: EventKind, **data: Any) -> None:
    """Tell one event."""
    add_many(session, search_id, kind, [data])


def add_many(session: Session, search_id: UUID, kind: EventKind, many: Iterable[Mapping[str, Any]]) -> None:
    """Tell events of one kind."""
    values = [{"search_id": search_id, "kind": kind, "data": dict(data)} for data in many]
    if values:
        session.execute(insert(EventRow), values)


def after(session: Session, search_id: UUID, no: int, limit: int) -> Sequence[EventRow]:
    """Events of a search after number ``no``, oldest first."""
    query = select(EventRow).where(EventRow.search_id == search_id, EventRow.no > no)
    return session.scalars(query.order_by(EventRow.no).limit(limit)).all()


def last_no(session: Session, search_id: UUID) -> int:
    """Number of a search's newest event; 0 without any."""
    return session.scalars(select(func.coalesce(func.max(EventRow.no), 0)).where(EventRow.search_id == search_id)).one()
