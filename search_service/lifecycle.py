"""What a search goes through from outside: let run, paused, resumed, stopped, cancelled, moved in the queue.

Each verb locks the search's row first, so they come one after the other whoever asks at once, and each is told as an
event in its own transaction. Asking again for what is so already changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from search_service import queue
from search_service.domain.search import Phase, SearchStatus
from search_service.storage import searches, tokens
from search_service.storage.tables import SearchRow
from search_service.storage.tokens import TokenState

_ADMISSION_LOCK = 0x4C53  # first key of the advisory lock; the second is the device class


def admit(session: Session, device: str, max_running: int) -> list[UUID]:
    """Let queued searches of a device class run while fewer than ``max_running`` do: whose turn it is, goes.

    Called on submission, when a place may have become free, and by the reaper. Whoever holds the lock on a search's row
    may call it: queued searches that another transaction is changing are passed by, so no circle of waiting can close.

    Returns:
        The searches admitted. A new one runs its first phase, with one token and one job; a resumed one goes on with
        the tokens that it held.
    """
    session.execute(
        text("select pg_advisory_xact_lock(:kind, hashtext(:device))"), {"kind": _ADMISSION_LOCK, "device": device}
    )
    admitted = []
    for _ in range(max_running - searches.running_count(session, device)):
        search = searches.lock_next_queued(session, device)
        if search is None:
            break
        is_new = search.phase is None
        searches.start(session, search)
        if is_new:
            waiting = tokens.create(session, search.id, Phase.META_TRAINING, 1)
        else:
            waiting = [row for row in tokens.lock_live_of(session, search.id) if row.state == TokenState.HELD]
        for token in waiting:
            tokens.requeue(token)
            queue.defer_token(session, token, device=search.device, priority=search.priority)
        admitted.append(search.id)
    return admitted


def pause(session: Session, search_id: UUID, max_running: int) -> SearchRow:
    """Begin no more work for a search; what runs is finished and stored. Another may have its place.

    Raises:
        NotFound: there is no such search.
        IllegalMove: it is over.
    """
    search = searches.lock(session, search_id)
    if search.status == SearchStatus.PAUSED:
        return search
    searches.pause(session, search)
    for token in tokens.lock_live_of(session, search_id):
        if token.state == TokenState.IN_QUEUE:
            if token.job_id is not None:
                queue.call_back(session, token.job_id)
            tokens.hold(token)
    session.flush()
    admit(session, search.device, max_running)
    return search


def resume(session: Session, search_id: UUID, max_running: int) -> SearchRow:
    """Let a paused search go on when its turn comes.

    Raises:
        NotFound: there is no such search.
        IllegalMove: it is over.
    """
    search = searches.lock(session, search_id)
    if search.status in (SearchStatus.QUEUED, SearchStatus.RUNNING):
        return search
    searches.resume(session, search)
    session.flush()
    admit(session, search.device, max_running)
    return search


def stop(session: Session, search_id: UUID, max_running: int) -> SearchRow:
    """Answer from what is known: nothing more is screened, what has survived is timed and proved.

    A search that knows nothing yet, not even its baseline's model, is cancelled. A paused one is resumed.

    Raises:
        NotFound: there is no such search.
        IllegalMove: it is over.
    """
    search = searches.lock(session, search_id)
    if search.stopping:
        return search
    if search.phase in (None, Phase.META_TRAINING):
        return cancel(session, search_id, max_running)
    searches.check_open(search)
    searches.stop(session, search)
    session.flush()
    return resume(session, search_id, max_running) if search.status == SearchStatus.PAUSED else search


def cancel(session: Session, search_id: UUID, max_running: int) -> SearchRow:
    """Cancel a search, end its tokens, call back its jobs, and let the next one run.

    A job that a worker has begun is asked to abort; the worker finds its token ended, so nothing it does is stored.

    Raises:
        NotFound: there is no such search.
        IllegalMove: it has succeeded or failed.
    """
    search = searches.lock(session, search_id)
    if search.status == SearchStatus.CANCELLED:
        return search
    searches.cancel(session, search)
    for token in tokens.lock_live_of(session, search_id):
        if token.job_id is not None:
            queue.call_back(session, token.job_id)
        tokens.end(token)
    session.flush()
    admit(session, search.device, max_running)
    return search


def reprioritise(session: Session, search_id: UUID, priority: int) -> SearchRow:
    """Change a search's priority: in the queue of searches, and of its jobs.

    Raises:
        NotFound: there is no such search.
        IllegalMove: it is over.
    """
    search = searches.lock(session, search_id)
    searches.check_open(search)
    if search.priority != priority:
        searches.set_priority(session, search, priority)
        jobs = [token.job_id for token in tokens.lock_live_of(session, search_id) if token.job_id is not None]
        queue.reprioritise(session, jobs, priority)
        session.flush()
    return search


Verb = Callable[[Session, UUID, int], SearchRow]
VERBS: dict[str, Verb] = {"pause": pause, "resume": resume, "stop": stop, "cancel": cancel}
"""What can be asked of a search, by the name that people and programs ask it by."""
