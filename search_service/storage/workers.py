"""The workers that have announced themselves, and what they can do. Never commits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from search_service.storage.tables import WorkerRow

FORGOTTEN_AFTER = timedelta(minutes=1)
"""A worker that was not seen for so long no longer counts as announced."""


def announce(
    session: Session,
    worker_id: UUID,
    *,
    host: str,
    pid: int,
    device: str,
    fingerprint: dict[str, Any],
    families: Mapping[str, str | None],
) -> None:
    """Say that a worker serves a device class, and which task families it can draw; again after a reconnection.

    Args:
        session: where to store it.
        worker_id: the worker's own name for itself.
        host: its host's name.
        pid: its process.
        device: device class, which is also the queue's name.
        fingerprint: device, threads and library versions.
        families: task family to None, or to the reason why it cannot be drawn here.
    """
    values = {
        "host": host,
        "pid": pid,
        "device": device,
        "fingerprint": fingerprint,
        "families": dict(families),
        "stopped_at": None,
    }
    statement = insert(WorkerRow).values(id=worker_id, **values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[WorkerRow.id], set_={**values, "seen_at": func.clock_timestamp()}
        )
    )


def seen(session: Session, worker_id: UUID) -> None:
    """Note that a worker is alive."""
    session.execute(update(WorkerRow).where(WorkerRow.id == worker_id).values(seen_at=func.clock_timestamp()))


def stop(session: Session, worker_id: UUID) -> None:
    """Note that a worker has stopped in good order."""
    session.execute(update(WorkerRow).where(WorkerRow.id == worker_id).values(stopped_at=func.clock_timestamp()))


def announced(session: Session) -> Sequence[WorkerRow]:
    """The workers that have announced themselves and were neither stopped nor forgotten."""
    query = select(WorkerRow).where(is_announced()).order_by(WorkerRow.device, WorkerRow.host, WorkerRow.started_at)
    return session.scalars(query).all()


def is_announced() -> ColumnElement[bool]:
    """Condition of the rows that :func:`announced` gives."""
    return and_(WorkerRow.stopped_at.is_(None), WorkerRow.seen_at > func.clock_timestamp() - FORGOTTEN_AFTER)
