"""The reaper: brings back what a dead worker, a lost job or a finished neighbour left waiting.

It starts from our rows: every token ``in_queue`` or ``running`` has exactly one live job, or gets one. What the queue
says of a job is believed only together with the heartbeat of the queue's worker that holds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from search_service import lifecycle, queue
from search_service.domain.search import Phase, SearchStatus
from search_service.storage import searches, tokens
from search_service.storage.database import QUEUE_SCHEMA, Database
from search_service.storage.tables import TokenRow
from search_service.storage.tokens import TokenState
from workers.runtime.case import Case, OpenEpisodes
from workers.runtime.phases import meta_training, retraining

REAP_INTERVAL = 3.0  # seconds
STALLED_AFTER = 12.0  # seconds without a heartbeat, after which a queue worker counts as dead
GRACE = 2.0  # seconds in which a job may be finished while its token's successor is not yet to be seen

_REAPER_LOCK = 0x4C54  # first key of the advisory lock

WAITING_PHASES = {Phase.META_TRAINING: meta_training, Phase.RETRAINING: retraining}
"""Phases whose token may have to wait for another search."""

log = structlog.get_logger(__name__)


def reap(database: Database, max_running: int, open_episodes: OpenEpisodes) -> int:
    """One pass; only one process at a time reaps. Returns how many tokens were brought back."""
    with database.session() as session:
        if not session.scalars(text(f"select pg_try_advisory_xact_lock({_REAPER_LOCK}, 0)")).one():
            return 0
        for device in searches.unfinished_devices(session):
            lifecycle.admit(session, device, max_running)
        suspects = [Suspect.of(token) for token in _suspects(session)]
    brought_back = 0
    for suspect in suspects:
        try:
            brought_back += _bring_back(database, suspect, open_episodes)
        except Exception:  # one search's fault must not keep the others from coming back
            log.exception("token could not be brought back", search=str(suspect.search_id), phase=suspect.phase)
    return brought_back


@dataclass(frozen=True, slots=True)
class Suspect:
    """A token, and the step, claim and job at which it was suspected."""

    search_id: UUID
    phase: Phase
    no: int
    seen: tuple[int, int, int | None]

    @classmethod
    def of(cls, token: TokenRow) -> Suspect:
        """The token as it stands."""
        return cls(token.search_id, Phase(token.phase), token.no, _progress(token))

    def still(self, token: TokenRow) -> bool:
        """Whether nothing has happened to the token since it was suspected."""
        return _progress(token) == self.seen


def _progress(token: TokenRow) -> tuple[int, int, int | None]:
    return token.step, token.claim_no, token.job_id


def _suspects(session: Session) -> list[TokenRow]:
    """Live tokens whose job is not alive, and held tokens."""
    live = tokens.live(session)
    alive = _jobs_alive(session, [token.job_id for token in live if token.job_id is not None])
    return [token for token in live if token.state == TokenState.HELD or token.job_id not in alive]


def _jobs_alive(session: Session, job_ids: list[int]) -> set[int]:
    """Jobs that wait in the queue, or that a queue worker with a fresh heartbeat is doing.

    A job that ended less than ``GRACE`` ago counts as alive: its worker's transaction may be about to show.
    """
    rows = session.execute(
        text(
            f"""
            select job.id
            from {QUEUE_SCHEMA}.procrastinate_jobs job
            left join {QUEUE_SCHEMA}.procrastinate_workers worker on worker.id = job.worker_id
            where job.id = any(:ids) and (
                job.status = 'todo'
                or (job.status = 'doing' and worker.last_heartbeat > now() - make_interval(secs => :stalled))
                or exists (
                    select from {QUEUE_SCHEMA}.procrastinate_events event
                    where event.job_id = job.id and event.at > now() - make_interval(secs => :grace)
                )
            )
            """
        ),
        {"ids": job_ids, "stalled": STALLED_AFTER, "grace": GRACE},
    )
    return {int(job_id) for (job_id,) in rows}


def _bring_back(database: Database, suspect: Suspect, open_episodes: OpenEpisodes) -> bool:
    """Give a token that is still as it was suspected a new job, and close the old one."""
    with database.session() as session:
        row = searches.lock(session, suspect.search_id)
        token = tokens.lock(session, suspect.search_id, suspect.phase, suspect.no)
        if row.status != SearchStatus.RUNNING or token.state == TokenState.ENDED or not suspect.still(token):
            return False
        if token.state == TokenState.HELD:
            waits = WAITING_PHASES[Phase(token.phase)]
            if not waits.can_go_on(Case(session, row, {}, open_episodes)):
                return False
        else:
            log.warning("token had no live job", search=str(row.id), phase=token.phase, token=token.no, step=token.step)
        if token.job_id is not None:
            _close_job(session, token.job_id)
        tokens.requeue(token)
        queue.defer_token(session, token, device=row.device, priority=row.priority)
        return True


def _close_job(session: Session, job_id: int) -> None:
    """Mark a job that nobody does any more as failed, so that the queue does not show it as running for ever."""
    session.execute(
        text(
            f"""
            select {QUEUE_SCHEMA}.procrastinate_finish_job_v1(
                id, 'failed'::{QUEUE_SCHEMA}.procrastinate_job_status, false
            )
            from {QUEUE_SCHEMA}.procrastinate_jobs where id = :id and status in ('todo', 'doing')
            """
        ),
        {"id": job_id},
    )
