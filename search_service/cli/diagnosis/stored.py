"""Checks of the database: whether it answers, its schema, the queue, the workers that announced themselves, clocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from search_service.cli.diagnosis.finding import Finding, failure, ok, warning
from search_service.domain.errors import DatabaseUnavailable
from search_service.settings import Settings
from search_service.storage import workers
from search_service.storage.database import QUEUE_SCHEMA, Database, server_time
from search_service.storage.embedded import running_url
from search_service.storage.migrate import alembic_config, current_revision, head_revision
from search_service.storage.tables import WorkerRow

OLDEST_POSTGRES = 13
CLOCK_LIMIT = 2.0  # seconds by which the clocks of host and database may differ
LONG_WAIT = 600.0  # seconds after which a waiting job is worth a look
REMEMBERED = timedelta(days=1)
"""For so long a worker that ended without saying so is worth a word."""

MIGRATE = "run `lambda-search migrate`"
START_A_WORKER = "start a worker: `lambda-search worker`, or `lambda-search up` for everything"


def check_database(settings: Settings) -> Iterator[Finding]:
    """Whether the database answers, and all that can be learned from it."""
    url = settings.database_url or running_url(settings.home / "postgres")
    if url is None:
        yield warning(
            "database",
            "none is named, and none of `lambda-search up` runs here",
            "set LAMBDA_SEARCH_DATABASE_URL, or run `lambda-search up`; a client alone needs none",
        )
        return
    try:
        with closing(Database(url)) as database, database.session() as session:
            yield _version(session, database.place)
            yield _clock(session)
            yield _migrations(session)
            if session.scalar(text("select to_regclass(:name)"), {"name": f"{QUEUE_SCHEMA}.procrastinate_jobs"}):
                yield from _queue(session)
            else:
                yield failure("queue", f"there is no schema '{QUEUE_SCHEMA}'", MIGRATE)
            if current_revision(session) is not None:
                yield from _workers(session)
    except DatabaseUnavailable as error:
        # Our own message ends with what to do.
        found, colon, to_do = str(error).rpartition(": ")
        yield failure("database", *((found, to_do) if colon else (str(error), "correct LAMBDA_SEARCH_DATABASE_URL")))


def _version(session: Session, place: str) -> Finding:
    version = session.scalars(text("show server_version")).one()
    number = int(session.scalars(text("show server_version_num")).one())
    found = f"{place}: Postgres {version}"
    if number // 10000 < OLDEST_POSTGRES:
        return failure("database", found, f"use Postgres {OLDEST_POSTGRES} or newer")
    return ok("database", found)


def _clock(session: Session) -> Finding:
    before = datetime.now(UTC)
    there = server_time(session)
    after = datetime.now(UTC)
    ahead_s = (there - before - (after - before) / 2).total_seconds()
    found = f"the database's is {abs(ahead_s):.1f} s {'ahead' if ahead_s > 0 else 'behind'}"
    if abs(ahead_s) > CLOCK_LIMIT:
        return warning("clock", found, "set both clocks by NTP: log lines and expiries of keys go by them")
    return ok("clock", found)


def _migrations(session: Session) -> Finding:
    current, head = current_revision(session), head_revision()
    if current == head:
        return ok("migrations", f"current, at {head}")
    if current is None:
        return failure("migrations", "the database has no tables of ours", MIGRATE)
    try:
        ScriptDirectory.from_config(alembic_config()).get_revision(current)
    except CommandError:
        return failure(
            "migrations", f"the database is at {current}, which this version does not know", "update lambda-search here"
        )
    return failure("migrations", f"the database is at {current}, this version needs {head}", MIGRATE)


def _queue(session: Session) -> Iterator[Finding]:
    query = f"""
        select job.queue_name,
            count(distinct job.id) filter (where job.status = 'todo'),
            count(distinct job.id) filter (where job.status = 'doing'),
            extract(epoch from clock_timestamp() - min(event.at) filter (where job.status = 'todo'))
        from {QUEUE_SCHEMA}.procrastinate_jobs job
        left join {QUEUE_SCHEMA}.procrastinate_events event on event.job_id = job.id and event.type = 'deferred'
        where job.status in ('todo', 'doing') group by 1 order by 1
    """
    found = session.execute(text(query)).all()
    if not found:
        yield ok("queue", "empty")
        return
    served = {worker.device for worker in workers.announced(session)}
    for device, waiting, doing, oldest_s in found:
        depth = f"{device}: {waiting} waiting, {doing} being done"
        if waiting:
            depth += f", the oldest waiting for {_duration(float(oldest_s or 0))}"
        if waiting and device not in served:
            yield warning("queue", f"{depth}; no worker serves '{device}'", START_A_WORKER)
        elif waiting and float(oldest_s or 0) > LONG_WAIT and not doing:
            yield warning("queue", depth, "look at the workers' logs: nothing is being done though jobs wait")
        else:
            yield ok("queue", depth)


def _workers(session: Session) -> Iterator[Finding]:
    announced = workers.announced(session)
    if not announced:
        yield warning("workers", "none has announced itself", START_A_WORKER)
    now = server_time(session)
    for worker in announced:
        yield _worker(worker, (now - worker.seen_at).total_seconds())
    query = select(WorkerRow).where(
        ~workers.is_announced(), WorkerRow.stopped_at.is_(None), WorkerRow.seen_at > func.now() - REMEMBERED
    )
    for worker in session.scalars(query):
        gone = f"{worker.device} on {worker.host}: not seen for {_duration((now - worker.seen_at).total_seconds())}"
        yield warning(
            "workers", f"{gone}, and it did not say that it ends", "look at its log; start it again if needed"
        )


def _worker(worker: WorkerRow, seen_s: float) -> Finding:
    can = sorted(family for family, reason in worker.families.items() if reason is None)
    # A reason ends with what to do, which is for the worker's machine.
    reasons = {family: reason.rpartition(": ")[0] or reason for family, reason in worker.families.items() if reason}
    cannot = [f"{family} ({reason})" for family, reason in sorted(reasons.items())]
    compiler = worker.fingerprint.get("compiler")
    parts = [
        f"{worker.device} on {worker.host}: seen {_duration(seen_s)} ago",
        f"draws {', '.join(can) or 'nothing'}",
        *([f"not {'; '.join(cannot)}"] if cannot else []),
        f"compiler {compiler}" if compiler else "no compiler",
    ]
    if not compiler:
        return warning(
            "workers", ", ".join(parts), "for the runtime 'compiled', install g++ and python3-dev there and restart it"
        )
    return ok("workers", ", ".join(parts))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
