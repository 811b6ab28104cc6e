"""The searches: submitted, moved from status to status, and in the end answered. Never commits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import func, or_, select, true, tuple_, update
from sqlalchemy.orm import InstrumentedAttribute, Session, defer

from search_service.domain.errors import NotFound, ResultNotReady, SearchCancelled, SearchFailed
from search_service.domain.events import EventKind
from search_service.domain.keys import SYSTEM_KEY
from search_service.domain.result import SearchResult
from search_service.domain.search import Phase, SearchSpec, SearchStatus, check_move
from search_service.storage import codec, events
from search_service.storage.database import server_time
from search_service.storage.tables import ApiKeyRow, SearchRow

WITH_RESULT = (defer(SearchRow.timings, raiseload=True), defer(SearchRow.latency_model, raiseload=True))
LIGHT = (*WITH_RESULT, defer(SearchRow.result, raiseload=True))
"""Ways to load a search without its large documents; asking such a row for one raises."""
ANSWERED_LOOKED_AT = 20
"""Searches with the same question that are looked at for an answer."""


def add(
    session: Session,
    spec: SearchSpec,
    key_id: UUID = SYSTEM_KEY,
    idempotency_key: str | None = None,
    body_digest: str | None = None,
) -> SearchRow:
    """Store a new search as ``queued``.

    Args:
        session: where to store it.
        spec: what is asked for.
        key_id: whose search it is.
        idempotency_key: what its submitter calls this submission, to try it again safely.
        body_digest: SHA-256 of what was sent under that name.

    Raises:
        IntegrityError: the key has a search of this idempotency key already.
    """
    row = SearchRow(
        id=uuid4(),
        spec=codec.spec_to_json(spec),
        status=SearchStatus.QUEUED,
        device=spec.device,
        priority=spec.priority,
        checkpoint=spec.checkpoint,
        key_id=key_id,
        idempotency_key=idempotency_key,
        body_digest=body_digest,
    )
    session.add(row)
    session.flush()
    events.add(session, row.id, EventKind.SUBMITTED, name=spec.name)
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


def glance(session: Session, search_id: UUID) -> SearchRow:
    """The search as it stands, without what is large: for who shows where it stands, again and again.

    Raises:
        NotFound: there is none.
    """
    row = session.get(SearchRow, search_id, options=LIGHT)
    if row is None:
        raise NotFound("search", str(search_id))
    return row


def threshold(search: SearchRow) -> float | None:
    """ε in the metric's unit; None where it is relative and the baseline has not been judged."""
    if search.max_degradation is not None or search.spec.get("degradation") == "relative":
        return search.max_degradation
    return float(search.spec["max_degradation"])


def lock(session: Session, search_id: UUID) -> SearchRow:
    """The search, locked until the transaction ends. Lock it before any token or trial of it.

    Raises:
        NotFound: there is none.
    """
    row = session.get(SearchRow, search_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound("search", str(search_id))
    return row


class SearchSort(StrEnum):
    """Orders of the list of searches; equal priorities go by age, in the same direction."""

    NEWEST = "-created_at"
    OLDEST = "created_at"
    HIGHEST_PRIORITY = "-priority"
    LOWEST_PRIORITY = "priority"

    @property
    def column(self) -> str:
        """What it sorts by."""
        return self.removeprefix("-")


SearchPosition = tuple[int | datetime | UUID, ...]
"""Of a search in an order: its priority where that counts, when it was submitted, its id."""


def page(
    session: Session,
    *,
    limit: int,
    sort: SearchSort = SearchSort.NEWEST,
    after: SearchPosition | None = None,
    statuses: Collection[SearchStatus] = (),
    device: str | None = None,
    key_id: UUID | None = None,
    name: str | None = None,
    with_results: bool = False,
) -> Sequence[SearchRow]:
    """Searches in an order.

    Args:
        session: where to look.
        limit: how many at most.
        sort: the order.
        after: position of the last search of the page before, in the same order.
        statuses: only those in one of these; any unless said.
        device: only those for this device class.
        key_id: only those of this key.
        name: only those whose name contains this, in capitals or not.
        with_results: load their results too; what else is large is never loaded.
    """
    columns: list[InstrumentedAttribute[Any]] = [SearchRow.created_at, SearchRow.id]
    if sort.column == "priority":
        columns.insert(0, SearchRow.priority)
    descending = sort.startswith("-")
    query = select(SearchRow).options(*(WITH_RESULT if with_results else LIGHT))
    query = query.order_by(*(column.desc() if descending else column.asc() for column in columns))
    if after is not None:
        here = tuple_(*columns)
        query = query.where(here < after if descending else here > after)
    if statuses:
        query = query.where(SearchRow.status.in_(list(statuses)))
    if device is not None:
        query = query.where(SearchRow.device == device)
    if key_id is not None:
        query = query.where(SearchRow.key_id == key_id)
    if name is not None:
        query = query.where(SearchRow.spec["name"].astext.icontains(name, autoescape=True))
    return session.scalars(query.limit(limit)).all()


def find_by_idempotency_key(session: Session, key_id: UUID, idempotency_key: str) -> SearchRow | None:
    """The search that a key submitted under this name, if it has."""
    query = select(SearchRow).where(SearchRow.key_id == key_id, SearchRow.idempotency_key == idempotency_key)
    return session.scalars(query).one_or_none()


def unfinished_devices(session: Session) -> Sequence[str]:
    """Device classes of the searches that are queued or run."""
    unfinished = SearchRow.status.in_([SearchStatus.QUEUED, SearchStatus.RUNNING])
    return session.scalars(select(SearchRow.device).where(unfinished).distinct()).all()


def running_count(session: Session, device: str) -> int:
    """How many searches of a device class run."""
    query = select(func.count()).where(SearchRow.status == SearchStatus.RUNNING, SearchRow.device == device)
    return session.scalars(query).one()


def waiting_count(session: Session, key_id: UUID) -> int:
    """How many searches of a key are queued or paused."""
    waiting = SearchRow.status.in_([SearchStatus.QUEUED, SearchStatus.PAUSED])
    return session.scalars(select(func.count()).where(SearchRow.key_id == key_id, waiting)).one()


def lock_next_queued(session: Session, device: str, passed_by: Iterable[UUID] = ()) -> SearchRow | None:
    """The queued search of a device class whose turn it is, locked; None where there is none.

    Of the keys that may run another search, each with its own next one (by priority, then age), the one with the
    highest priority there goes first; then the one with the fewest running, then the one that waited longest.

    Args:
        session: of the caller, who holds the lock on admission.
        device: the device class.
        passed_by: keys that are not to be looked at.
    """
    running = (
        select(SearchRow.key_id, func.count().label("count"))
        .where(SearchRow.status == SearchStatus.RUNNING)
        .group_by(SearchRow.key_id)
        .subquery()
    )
    next_of_key = (
        select(SearchRow.id, SearchRow.priority, SearchRow.created_at)
        .where(SearchRow.key_id == ApiKeyRow.id, SearchRow.device == device, SearchRow.status == SearchStatus.QUEUED)
        .order_by(SearchRow.priority.desc(), SearchRow.created_at, SearchRow.id)
        .limit(1)
        .lateral()
    )
    count = func.coalesce(running.c.count, 0)
    turn = (
        select(next_of_key.c.id, ApiKeyRow.id)
        .select_from(ApiKeyRow)
        .outerjoin(running, running.c.key_id == ApiKeyRow.id)
        .join(next_of_key, true())
        .where(or_(ApiKeyRow.max_running.is_(None), count < ApiKeyRow.max_running))
        .order_by(
            next_of_key.c.priority.desc(),
            count,
            ApiKeyRow.last_admitted_at.asc().nulls_first(),
            next_of_key.c.created_at,
            next_of_key.c.id,
        )
        .limit(1)
    )
    excluded = list(passed_by)
    while True:
        chosen = session.execute(turn.where(ApiKeyRow.id.not_in(excluded))).one_or_none()
        if chosen is None:
            return None
        search_id, key_id = chosen
        row = session.get(SearchRow, search_id, with_for_update={"skip_locked": True}, populate_existing=True)
        if row is not None and row.status == SearchStatus.QUEUED:
            session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_admitted_at=func.now()))
            return row
        # Another transaction is changing it, and admits again when it is done.
        excluded.append(key_id)


def start(session: Session, row: SearchRow) -> None:
    """Move a queued search to ``running``: into its first phase, or on from where it was paused.

    Raises:
        IllegalMove: it is not queued.
    """
    now = server_time(session)
    _move(row, SearchStatus.RUNNING)
    if row.phase is not None:
        row.phase_started_at = now
        return
    row.started_at = now
    events.add(session, row.id, EventKind.STARTED)
    _enter(session, row, Phase.META_TRAINING, now)


def pause(session: Session, row: SearchRow) -> None:
    """Let a queued or running search wait until it is resumed.

    Raises:
        IllegalMove: it is over already, or paused.
    """
    now = server_time(session)
    _move(row, SearchStatus.PAUSED)
    _leave_phase(row, now)
    events.add(session, row.id, EventKind.PAUSED)


def resume(session: Session, row: SearchRow) -> None:
    """Let a paused search wait for a place.

    Raises:
        IllegalMove: it is not paused.
    """
    _move(row, SearchStatus.QUEUED)
    events.add(session, row.id, EventKind.RESUMED)


def check_open(row: SearchRow) -> None:
    """Refuse to change a search that is over.

    Raises:
        IllegalMove: it is.
    """
    status = SearchStatus(row.status)
    if status.is_final:
        check_move(str(row.id), status, SearchStatus.RUNNING)


def stop(session: Session, row: SearchRow) -> None:
    """Let a search screen nothing more."""
    row.stopping = True
    events.add(session, row.id, EventKind.STOPPING)


def set_priority(session: Session, row: SearchRow, priority: int) -> None:
    """Change whose turn is when."""
    row.priority = priority
    events.add(session, row.id, EventKind.PRIORITY, priority=priority)


def enter_phase(session: Session, row: SearchRow, phase: Phase) -> None:
    """Go on to ``phase``; the seconds of the phase before are stored."""
    now = server_time(session)
    _leave_phase(row, now)
    _enter(session, row, phase, now)


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
    fastest = codec.result_from_json(result).fastest
    speedup = None if fastest.speedup is None else fastest.speedup.estimate
    events.add(session, row.id, EventKind.SUCCEEDED, answer=fastest.candidate, speedup=speedup)


def fail(session: Session, row: SearchRow, *, title: str, detail: str) -> None:
    """End a search with the reason why it has no answer.

    Raises:
        IllegalMove: it is over already.
    """
    _finish(session, row, SearchStatus.FAILED)
    row.problem = {"title": title, "detail": detail, "phase": row.phase}
    events.add(session, row.id, EventKind.FAILED, title=title, detail=detail)


def cancel(session: Session, row: SearchRow) -> None:
    """End a search because somebody asked.

    Raises:
        IllegalMove: it is over already.
    """
    _finish(session, row, SearchStatus.CANCELLED)
    events.add(session, row.id, EventKind.CANCELLED)


def unmirrored(session: Session, limit: int) -> Sequence[SearchRow]:
    """Admitted and final searches whose Optuna study is not complete, oldest first."""
    query = select(SearchRow).where(SearchRow.mirrored_at.is_(None), SearchRow.status != SearchStatus.QUEUED)
    return session.scalars(query.order_by(SearchRow.created_at, SearchRow.id).limit(limit)).all()


def answered(session: Session, question: str) -> Sequence[SearchRow]:
    """The newest searches that have answered a question, for whatever threshold, and were not stopped early."""
    query = select(SearchRow).where(SearchRow.question == question, SearchRow.status == SearchStatus.SUCCEEDED)
    query = query.where(~SearchRow.stopping)
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


def _enter(session: Session, row: SearchRow, phase: Phase, now: datetime) -> None:
    events.add(session, row.id, EventKind.PHASE, phase=phase)
    row.phase = phase
    row.phase_started_at = now
    row.progress = {}


def _leave_phase(row: SearchRow, now: datetime) -> None:
    if row.phase is None or row.phase_started_at is None:
        return
    seconds = (now - row.phase_started_at).total_seconds()
    row.phase_seconds = {**row.phase_seconds, row.phase: row.phase_seconds.get(row.phase, 0.0) + seconds}
    row.phase_started_at = None
