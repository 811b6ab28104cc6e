from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from search_service.api.change_feed import ChangeFeed
from search_service.storage.database import Database
from search_service.storage.tables import CHANGES

pytestmark = pytest.mark.anyio
LIMIT = 10.0  # seconds until a notification must have come


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def counting() -> tuple[Callable[[], int], Callable[[], int]]:
    """A look that takes a moment and says its number, and how many looks there were."""
    lock, looks = threading.Lock(), 0

    def look() -> int:
        nonlocal looks
        with lock:
            looks += 1
            number = looks
        time.sleep(0.05)
        return number

    return look, lambda: looks


def notify(database: Database, search_id: UUID) -> None:
    with database.session() as session:
        session.execute(text("select pg_notify(:channel, :payload)"), {"channel": CHANGES, "payload": str(search_id)})


async def test_those_who_ask_the_same_at_once_share_one_look(database: Database) -> None:
    feed, (look, looks) = ChangeFeed(database.conninfo), counting()
    answers = await asyncio.gather(*(feed.ask_once("the same", look) for _ in range(50)))
    assert answers == [1] * 50
    assert sorted(await asyncio.gather(feed.ask_once("this", look), feed.ask_once("that", look))) == [2, 3]
    assert await feed.ask_once("the same", look) == 4
    assert looks() == 4


async def test_after_a_change_nobody_is_told_what_was_before(database: Database) -> None:
    feed, (look, looks) = ChangeFeed(database.conninfo), counting()
    search_id = uuid4()
    await feed.start()
    try:
        with feed.following(search_id) as changed:
            await asyncio.wait_for(changed.wait(), LIMIT)  # it listens
            changed.clear()
            early = asyncio.create_task(feed.ask_once(search_id, look))
            await asyncio.sleep(0)
            await asyncio.to_thread(notify, database, search_id)
            await asyncio.wait_for(changed.wait(), LIMIT)
            assert await feed.ask_once(search_id, look) == 2
            assert await early == 1
            assert looks() == 2
    finally:
        await feed.stop()


async def test_one_who_goes_away_takes_nobody_along(database: Database) -> None:
    feed, (look, looks) = ChangeFeed(database.conninfo), counting()
    first, second = (asyncio.create_task(feed.ask_once("the same", look)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == 1
    assert first.cancelled()
    assert looks() == 1


async def test_a_look_that_fails_fails_for_all_who_share_it(database: Database) -> None:
    feed = ChangeFeed(database.conninfo)

    def look() -> None:
        raise LookupError("there is none")

    answers = await asyncio.gather(*(feed.ask_once("the same", look) for _ in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["there is none"] * 3
    with pytest.raises(LookupError):
        await feed.ask_once("the same", look)
