from __future__ import annotations

import threading
from uuid import UUID

import pytest
from procrastinate import App, PsycopgConnector
from sqlalchemy import text

from search_service import lifecycle, queue
from search_service.domain.errors import IllegalMove
from search_service.domain.search import MetaTraining, NetworkSpec, Phase, SearchSpec, TaskFamily
from search_service.queue import TokenJob
from search_service.storage import searches, tokens
from search_service.storage.database import Database

COUNT = text("select count(*) from procrastinate.procrastinate_jobs")


def spec(**changes: int | str) -> SearchSpec:
    return SearchSpec(
        tasks=TaskFamily(family="glyphs"),
        model=NetworkSpec(network="conv4"),
        meta_training=MetaTraining(),
        max_degradation=0.01,
        **changes,  # type: ignore[arg-type]
    )


def add(database: Database, **changes: int | str) -> UUID:
    with database.session() as session:
        return searches.add(session, spec(**changes)).id


def test_a_job_joins_the_transaction(database: Database) -> None:
    search = add(database)
    jobs: list[int] = []

    def defer_and_fail() -> None:
        with database.session() as session:
            (token,) = tokens.create(session, search, Phase.SEARCH, 1)
            jobs.append(queue.defer_token(session, token, device="cpu", priority=3))
            assert queue.job_status(session, jobs) == {jobs[0]: "todo"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        defer_and_fail()
    with database.session() as session:
        assert session.scalar(COUNT) == 0
        assert queue.job_status(session, jobs) == {}
        assert not tokens.live(session)


def test_a_worker_gets_what_was_deferred(database: Database) -> None:
    search = add(database)
    with database.session() as session:
        (token,) = tokens.create(session, search, Phase.SEARCH, 1)
        token.step = 4
        job = queue.defer_token(session, token, device="cuda:x", priority=3)
        assert token.job_id == job
        assert TokenJob.of(token).step == 4
    app = App(connector=PsycopgConnector(conninfo=database.conninfo))
    received: list[TokenJob] = []

    @app.task(name=queue.ADVANCE)
    def advance(search_id: str, phase: str, no: int, step: int) -> None:
        received.append(TokenJob.from_arguments(search_id, phase, no, step))

    app.run_worker(queues=["cuda:x"], wait=False, install_signal_handlers=False, listen_notify=False)
    assert received == [TokenJob(search_id=search, phase=Phase.SEARCH, no=0, step=4)]
    with database.session() as session:
        assert queue.job_status(session, [job]) == {job: "succeeded"}


def test_admission_goes_by_priority_then_age_within_each_device(database: Database) -> None:
    old, urgent, young = add(database), add(database, priority=9), add(database)
    elsewhere = add(database, device="cuda:x")
    with database.session() as session:
        assert lifecycle.admit(session, "cpu", 2) == [urgent, old]
        assert lifecycle.admit(session, "cpu", 2) == []
        assert lifecycle.admit(session, "cuda:x", 2) == [elsewhere]
    with database.session() as session:
        searches.fail(session, searches.lock(session, urgent), title="no", detail="no")
        assert lifecycle.admit(session, "cpu", 2) == [young]
        live = tokens.live(session)
    assert {token.search_id for token in live} == {old, urgent, young, elsewhere}
    assert all(
        (token.phase, token.no, token.step, token.state) == ("meta_training", 0, 0, "in_queue") for token in live
    )


def test_cancelling_and_submitting_at_once_never_wait_in_a_circle(database: Database) -> None:
    """Cancel holds a queued search's row while admission holds the lock that cancel wants."""
    waiting = [add(database) for _ in range(20)]
    barrier = threading.Barrier(4)
    failures: list[BaseException] = []

    def cancel(mine: list[UUID]) -> None:
        barrier.wait()
        for search in mine:
            with database.session() as session:
                lifecycle.cancel(session, search, 3)

    def submit() -> None:
        barrier.wait()
        for _ in range(10):
            with database.session() as session:
                searches.add(session, spec())
                lifecycle.admit(session, "cpu", 3)

    def guarded(target: object, *arguments: object) -> None:
        try:
            target(*arguments)  # type: ignore[operator]
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=guarded, args=(cancel, waiting[:10])),
        threading.Thread(target=guarded, args=(cancel, waiting[10:])),
        threading.Thread(target=guarded, args=(submit,)),
        threading.Thread(target=guarded, args=(submit,)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    with database.session() as session:
        lifecycle.admit(session, "cpu", 3)
        assert searches.running_count(session, "cpu") == 3
        assert len(tokens.live(session)) == 3


def test_a_begun_job_is_asked_to_abort(database: Database) -> None:
    search = add(database)
    with database.session() as session:
        lifecycle.admit(session, "cpu", 1)
        (token,) = tokens.live(session)
        session.execute(text("update procrastinate.procrastinate_jobs set status = 'doing'"))
        tokens.claim(session, token, search, None)
    with database.session() as session:
        assert lifecycle.cancel(session, search, 1).status == "cancelled"
        asked = session.scalar(text("select abort_requested from procrastinate.procrastinate_jobs"))
        assert asked
        assert not tokens.live(session)
    with database.session() as session:
        finished = searches.get(session, search).finished_at
        assert lifecycle.cancel(session, search, 1).finished_at == finished


def test_what_is_over_cannot_be_cancelled(database: Database) -> None:
    search = add(database)
    with database.session() as session:
        searches.fail(session, searches.lock(session, search), title="no", detail="no")
    with pytest.raises(IllegalMove), database.session() as session:
        lifecycle.cancel(session, search, 1)
