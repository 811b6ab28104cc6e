"""Latency models, shared by every search with the same network, tasks and device. Never commits."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from search_service.domain.evaluation import LatencyScope
from search_service.storage.tables import LatencyModelRow


def get(session: Session, scope: str) -> dict[str, Any] | None:
    """The stored model, or None."""
    row = session.get(LatencyModelRow, scope)
    return None if row is None else dict(row.model)


def put(session: Session, scope: LatencyScope, model: dict[str, Any]) -> None:
    """Store a model; one that is there already stays."""
    values = {"scope": scope.key, "model": model, "scope_fields": asdict(scope)}
    session.execute(insert(LatencyModelRow).values(values).on_conflict_do_nothing())
