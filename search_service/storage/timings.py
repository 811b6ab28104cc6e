"""Latencies of candidates on a device, shared by every search. A later run replaces an earlier one. Never commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from search_service.domain.evaluation import TimingScope
from search_service.storage.tables import TimingRow


def get(session: Session, scope: str, candidates: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Figures of the candidates; those never timed in this scope are left out."""
    query = select(TimingRow.candidate, TimingRow.figures).where(
        TimingRow.scope == scope, TimingRow.candidate.in_(list(candidates))
    )
    return {candidate: dict(figures) for candidate, figures in session.execute(query)}


def put(session: Session, scope: TimingScope, figures: Mapping[str, Mapping[str, Any]]) -> None:
    """Store figures per candidate in place of any that are there."""
    if not figures:
        return
    values = [
        {
            "scope": scope.key,
            "candidate": candidate,
            "figures": dict(figures[candidate]),
            "scope_fields": asdict(scope),
        }
        for candidate in sorted(figures)
    ]
    statement = insert(TimingRow)
    replace = {name: statement.excluded[name] for name in ("figures", "scope_fields", "created_at")}
    session.execute(statement.on_conflict_do_update(index_elements=["scope", "candidate"], set_=replace), values)
