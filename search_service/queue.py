"""The queue: what its one task is called and carries, and how it is deferred.

A job carries names only; the token row is the truth. No procrastinate ``lock`` or ``queueing_lock`` is used: with
either, a stalled job can become impossible to retry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Self
from uuid import UUID

from procrastinate import App, SyncPsycopgConnector
from procrastinate.exceptions import ConnectorException
from sqlalchemy import text
from sqlalchemy.orm import Session

from search_service.domain.errors import DatabaseUnavailable
from search_service.domain.search import Phase
from search_service.storage.database import QUEUE_SCHEMA
from search_service.storage.tables import TokenRow

ADVANCE = "advance"
"""Name of the task that takes a search one step further. The worker registers it; its queue is the device class."""

_deferring = App(connector=SyncPsycopgConnector())
"""Never opened: every job is deferred on the caller's own connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenJob:
    """What a job carries: a token, and the step at which it was deferred. Another step means the job is an echo."""

    search_id: UUID
    phase: Phase
    no: int
    step: int

    @classmethod
    def of(cls, token: TokenRow) -> Self:
        """The job of a token's present step."""
        return cls(search_id=token.search_id, phase=Phase(token.phase), no=token.no, step=token.step)

    @classmethod
    def from_arguments(cls, search_id: str, phase: str, no: int, step: int) -> Self:
        """Read the arguments that the task is called with."""
        return cls(search_id=UUID(search_id), phase=Phase(phase), no=no, step=step)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that the task is called with, as JSON values."""
        return {**asdict(self), "search_id": str(self.search_id), "phase": self.phase.value}


def defer_token(session: Session, token: TokenRow, *, device: str, priority: int) -> int:
    """Defer the job of a token's present step, inside the session's own transaction; the token notes the job.

    Args:
        session: whose transaction the job joins: no commit, no job.
        token: the token, ``in_queue`` at the step to be done.
        device: device class of the search, which is the queue's name.
        priority: priority of the search; higher goes first.

    Returns:
        The job's id.

    Raises:
        DatabaseUnavailable: the queue's schema is not there.
    """
    session.flush()
    connection = session.connection().connection.driver_connection
    task = _deferring.configure_task(ADVANCE, queue=device, priority=priority, connection=connection)
    try:
        token.job_id = task.defer(**TokenJob.of(token).arguments)
    except ConnectorException as error:
        raise DatabaseUnavailable("the queue does not take jobs: run `lambda-search migrate`") from error
    session.flush()
    return token.job_id


def job_status(session: Session, job_ids: Iterable[int]) -> dict[int, str]:
    """Status of each job in the queue's own words: ``todo doing succeeded failed cancelled aborted``.

    Jobs that are no longer there are left out.
    """
    query = text(f"select id, status::text from {QUEUE_SCHEMA}.procrastinate_jobs where id = any(:ids)")
    rows = session.execute(query, {"ids": list(job_ids)})
    return {int(job_id): str(status) for job_id, status in rows}


def call_back(session: Session, job_id: int) -> None:
    """Cancel a job that waits, or ask the worker that has begun it to abort."""
    session.execute(text(f"select {QUEUE_SCHEMA}.procrastinate_cancel_job_v1(:job, true, false)"), {"job": job_id})


def reprioritise(session: Session, job_ids: Iterable[int], priority: int) -> None:
    """Change the priority of jobs that wait."""
    query = text(
        f"update {QUEUE_SCHEMA}.procrastinate_jobs set priority = :priority where id = any(:ids) and status = 'todo'"
    )
    session.execute(query, {"ids": list(job_ids), "priority": priority})
