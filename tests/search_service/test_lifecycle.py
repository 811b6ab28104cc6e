"""Whose turn it is, and what moving a search does to its tokens and jobs."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from search_service import lifecycle
from search_service.domain.keys import NewKey
from search_service.domain.search import Phase
from search_service.storage import events, keys, searches, tokens
from search_service.storage.database import Database
from search_service.storage.tables import SearchRow
from tests.search_service.test_queue import spec


def key(session: Session, name: str, max_running: int | None = None) -> UUID:
    return keys.create(session, NewKey(name=name, max_running=max_running))[0].id


def submit(session: Session, key_id: UUID, count: int = 1, **changes: int | str) -> list[UUID]:
    return [searches.add(session, spec(**changes), key_id).id for _ in range(count)]


def kinds(session: Session, search_id: UUID) -> list[str]:
    return [row.kind for row in events.after(session, search_id, 0, 100)]


def test_a_thousand_of_one_key_do_not_starve_another(database: Database) -> None:
    with database.session() as session:
        many, one = key(session, "many"), key(session, "one")
        first, *_ = submit(session, many, 50)
        (late,) = submit(session, one)
        assert lifecycle.admit(session, "cpu", 2) == [first, late]


@given(places=st.integers(1, 6), waiting=st.lists(st.integers(0, 4), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_keys_take_turns(database_url: str, places: int, waiting: list[int]) -> None:
    database = Database(database_url)
    with database.session() as session:
        session.execute(text("truncate lambda_search.searches cascade"))
        owners = {key(session, f"key {number}"): count for number, count in enumerate(waiting)}
        for owner, count in owners.items():
            submit(session, owner, count)
        lifecycle.admit(session, "cpu", places)
        running = {
            owner: sum(row.key_id == owner and row.status == "running" for row in session.query(SearchRow))
            for owner in owners
        }
    database.close()
    assert sum(running.values()) == min(places, sum(waiting))
    # Nobody has two more than another who still waits.
    still = [owner for owner, count in owners.items() if running[owner] < count]
    assert all(running[other] - running[owner] <= 1 for owner in still for other in owners)


def test_the_higher_priority_goes_first_and_limits_hold(database: Database) -> None:
    with database.session() as session:
        mine, other = key(session, "mine", max_running=1), key(session, "other")
        low, _ = submit(session, mine, 2)
        (high,) = submit(session, mine, priority=5)
        (middle,) = submit(session, other, priority=1)
        assert lifecycle.admit(session, "cpu", 4) == [high, middle]
        searches.cancel(session, searches.lock(session, high))
        assert lifecycle.admit(session, "cpu", 4) == [low]


def test_pausing_holds_what_waits_and_lets_what_runs_end(database: Database) -> None:
    with database.session() as session:
        (search,) = submit(session, key(session, "mine"))
        lifecycle.admit(session, "cpu", 1)
        row = searches.lock(session, search)
        searches.enter_phase(session, row, Phase.SEARCH)
        waiting, running = tokens.create(session, search, Phase.SEARCH, 2)
        tokens.claim(session, running, search, None)
        other = submit(session, key(session, "other"))
    with database.session() as session:
        row = lifecycle.pause(session, search, 1)
        assert row.status == "paused"
        assert row.phase_started_at is None
        assert tokens.lock(session, search, Phase.SEARCH, waiting.no).state == "held"
        assert tokens.lock(session, search, Phase.SEARCH, running.no).state == "running"
        assert [found.id for found in searches.page(session, limit=9) if found.status == "running"] == other
        assert lifecycle.pause(session, search, 1) is row
    with database.session() as session:
        # Its place is taken: it waits for its turn, and goes on where it was.
        assert lifecycle.resume(session, search, 1).status == "queued"
        lifecycle.cancel(session, other[0], 1)
        row = searches.lock(session, search)
        assert (row.status, row.phase) == ("running", "search")
        assert tokens.lock(session, search, Phase.SEARCH, waiting.no).state == "in_queue"
        assert kinds(session, search) == ["submitted", "started", "phase", "phase", "paused", "resumed"]


def test_a_queued_search_may_be_paused_and_resumed(database: Database) -> None:
    with database.session() as session:
        (search,) = submit(session, key(session, "mine"))
        lifecycle.pause(session, search, 1)
        assert lifecycle.admit(session, "cpu", 1) == []
        assert lifecycle.resume(session, search, 1).status == "running"
        assert searches.get(session, search).phase == "meta_training"


@pytest.mark.parametrize("is_paused", [False, True])
def test_stopping_goes_on_to_an_answer(database: Database, is_paused: bool) -> None:
    with database.session() as session:
        (search,) = submit(session, key(session, "mine"))
        lifecycle.admit(session, "cpu", 1)
        searches.enter_phase(session, searches.lock(session, search), Phase.BASELINE)
        if is_paused:
            lifecycle.pause(session, search, 1)
        for _ in range(2):
            row = lifecycle.stop(session, search, 1)
            assert (row.status, row.stopping) == ("running", True)
        assert kinds(session, search).count("stopping") == 1


def test_what_knows_nothing_is_cancelled_when_it_is_stopped(database: Database) -> None:
    with database.session() as session:
        running, queued = submit(session, key(session, "mine"), 2)
        lifecycle.admit(session, "cpu", 1)
        assert lifecycle.stop(session, running, 1).status == "cancelled"
        assert lifecycle.stop(session, queued, 1).status == "cancelled"


def test_a_new_priority_reaches_the_jobs(database: Database) -> None:
    with database.session() as session:
        (search,) = submit(session, key(session, "mine"))
        lifecycle.admit(session, "cpu", 1)
        lifecycle.reprioritise(session, search, 9)
        priorities = session.scalars(text("select priority from procrastinate.procrastinate_jobs")).all()
        assert priorities == [9]
        assert kinds(session, search)[-1] == "priority"
        lifecycle.reprioritise(session, search, 9)
        assert kinds(session, search).count("priority") == 1


def test_every_change_raises_the_version(database: Database) -> None:
    with database.session() as session:
        (search,) = submit(session, key(session, "mine"))
        versions = [searches.get(session, search).version]
        for change in (
            lambda: lifecycle.reprioritise(session, search, 3),
            lambda: lifecycle.pause(session, search, 0),
            lambda: lifecycle.cancel(session, search, 0),
        ):
            change()
            session.flush()
            session.expire_all()
            versions.append(searches.get(session, search).version)
    assert versions == sorted(set(versions))
