"""The searches: submitted, moved from status to status, and in the end answered. Never commits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from search_service.domain.errors import NotFound, ResultNotReady, SearchCancelled, SearchFailed
from search_service.domain.result import SearchResult
from search_service.domain.search import Phase, SearchSpec, SearchStatus, check_move
from search_service.storage import codec
from search_service.storage.database import server_time
from search_service.storage.tables import SearchRow

ANSWERED_LOOKED_AT = 20
"""Searches with the same question that are looked at for an answer."""


def add(session: Session, spec: SearchSpec) -> SearchRow:
    """Store a new search as ``queued``."""
    row = SearchRow(
        id=uuid4(),
        spec=codec.spec_to_json(spec),
        status=SearchStatus.QUEUED,
        device=spec.device,
        priority=spec.priority,
        checkpoint=spec.checkpoint,
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def get(session: Session, search_id: UUID) -> SearchRow:
    """The search as it stands.

    Raises:
        NotFound: there is none.
    """
    row = session.get(SearchRow, search_id)
    if row is None:
        raise NotFound("search", str(search_id))
    return row


def lock(session: Session, search_id: UUID) -> SearchRow:
    """The search, locked until the transaction ends. Lock it before any token or trial of it.

    Raises:
        NotFound: there is none.
    """
    row = session.get(SearchRow, search_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound("search", str(search_id))
    return row


def page(
    session: Session,
    *,
    limit: int,
    after: tuple[datetime, UUID] | None = None,
    status: SearchStatus | None = None,
) -> Sequence[SearchRow]:
    """Searches, newest first.

    Args:
        session: where to look.
        limit: how many at most.
        after: ``(created_at, id)`` of the last search of the page before.
        status: only those in this status.
    """
    query = select(SearchRow).order_by(SearchRow.created_at.desc(), SearchRow.id.desc()).limit(limit)
    if after is not None:
        query = query.where(tuple_(SearchRow.created_at, SearchRow.id) < after)
    if status is not None:
        query = query.where(SearchRow.status == status)
    return session.scalars(query).all()


def unfinished(session: Session) -> Sequence[SearchRow]:
    """The searches that are queued or run, oldest first."""
    query = select(SearchRow).where(SearchRow.status.in_([SearchStatus.QUEUED, SearchStatus.RUNNING]))
    return session.scalars(query.order_by(SearchRow.created_at, SearchRow.id)).all()


def running_count(session: Session, device: str) -> int:
    """How many searches of a device class run."""
    query = select(func.count()).where(SearchRow.status == SearchStatus.RUNNING, SearchRow.device == device)
    return session.scalars(query).one()


def lock_next_queued(session: Session, device: str, limit: int) -> Sequence[SearchRow]:
    """The queued searches of a device class that go next, locked.

    One that another transaction is changing is passed by.
    """
    query = (
        select(SearchRow)
        .where(SearchRow.status == SearchStatus.QUEUED, SearchRow.device == device)
        .order_by(SearchRow.priority.desc(), SearchRow.created_at, SearchRow.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).all()


def start(session: Session, row: SearchRow) -> None:
    """Move a queued search to ``running``, in its first phase.

    Raises:
        IllegalMove: it is not queued.
    """
    now = server_time(session)
    _move(row, SearchStatus.RUNNING)
    row.started_at = now
    _enter(row, Phase.META_TRAINING, now)


def enter_phase(session: Session, row: SearchRow, phase: Phase) -> None:
    """Go on to ``phase``; the seconds of the phase before are stored."""
    now = server_time(session)
    _leave_phase(row, now)
    _enter(row, phase, now)


def set_progress(row: SearchRow, progress: dict[str, Any]) -> None:
    """Say what the running phase has done: ``{"done": 3, "total": 8, "unit": "blocks", ...}``."""
    row.progress = dict(progress)


def succeed(session: Session, row: SearchRow, result: dict[str, Any]) -> None:
    """Answer a running search.

    Raises:
        IllegalMove: it does not run.
    """
    _finish(session, row, SearchStatus.SUCCEEDED)
    row.result = dict(result)


def fail(session: Session, row: SearchRow, *, title: str, detail: str) -> None:
    """End a search with the reason why it has no answer.

    Raises:
        IllegalMove: it is over already.
    """
    _finish(session, row, SearchStatus.FAILED)
    row.problem = {"title": title, "detail": detail, "phase": row.phase}


def cancel(session: Session, row: SearchRow) -> None:
    """End a search because somebody asked.

    Raises:
        IllegalMove: it is over already.
    """
    _finish(session, row, SearchStatus.CANCELLED)


def unmirrored(session: Session, limit: int) -> Sequence[SearchRow]:
    """Admitted and final searches whose Optuna study is not complete, oldest first."""
    query = select(SearchRow).where(SearchRow.mirrored_at.is_(None), SearchRow.status != SearchStatus.QUEUED)
    return session.scalars(query.order_by(SearchRow.created_at, SearchRow.id).limit(limit)).all()


def answered(session: Session, question: str) -> Sequence[SearchRow]:
    """The newest searches that have answered a question, for whatever threshold."""
    query = select(SearchRow).where(SearchRow.question == question, SearchRow.status == SearchStatus.SUCCEEDED)
    return session.scalars(query.order_by(SearchRow.finished_at.desc()).limit(ANSWERED_LOOKED_AT)).all()


def result(row: SearchRow) -> SearchResult:
    """The answer of a search that has one.

    Raises:
        ResultNotReady: it is queued or running.
        SearchFailed: it failed; carries why.
        SearchCancelled: it was cancelled.
    """
    match SearchStatus(row.status):
        case SearchStatus.SUCCEEDED:
            return codec.result_from_json(row.result)
        case SearchStatus.FAILED:
            problem = row.problem or {}
            raise SearchFailed(
                str(row.id), str(problem.get("title", "")), str(problem.get("detail", "")), problem.get("phase")
            )
        case SearchStatus.CANCELLED:
            raise SearchCancelled(str(row.id))
        case status:
            raise ResultNotReady(str(row.id), status.value)


def _move(row: SearchRow, wanted: SearchStatus) -> None:
    check_move(str(row.id), SearchStatus(row.status), wanted)
    row.status = wanted


def _finish(session: Session, row: SearchRow, wanted: SearchStatus) -> None:
    # The clock first: asking for it flushes, and a final status without its result or problem breaks a constraint.
    now = server_time(session)
    _move(row, wanted)
    row.finished_at = now
    _leave_phase(row, now)


def _enter(row: SearchRow, phase: Phase, now: datetime) -> None:
    row.phase = phase
    row.phase_started_at = now
    row.progress = {}


def _leave_phase(row: SearchRow, now: datetime) -> None:
    if row.phase is None or row.phase_started_at is None:
        return
    seconds = (now - row.phase_started_at).total_seconds()
    row.phase_seconds = {**row.phase_seconds, row.phase: row.phase_seconds.get(row.phase, 0.0) + seconds}
    row.phase_started_at = None
