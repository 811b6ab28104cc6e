"""Wakes whoever follows a search when its row has changed: one connection that listens, however many follow."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import tenacity
from fastapi.concurrency import run_in_threadpool

from search_service.storage.tables import CHANGES

LONGEST_PAUSE = 10.0  # seconds between attempts to listen again

Answer = TypeVar("Answer")

_logger = logging.getLogger(__name__)


class ChangeFeed:
    """Follows the database's notifications of changed searches.

    Args:
        conninfo: what libpq connects with.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._followers: dict[UUID, set[asyncio.Event]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._is_ending = False
        self._changes = 0
        self._asked: dict[Hashable, asyncio.Task[Any]] = {}

    @property
    def is_ending(self) -> bool:
        """Whether the process is about to end: who follows a search must stop."""
        return self._is_ending

    @property
    def follower_count(self) -> int:
        """How many follow a search at present."""
        return sum(map(len, self._followers.values()))

    async def start(self) -> None:
        """Begin to listen, in the running event loop."""
        self._task = asyncio.create_task(self._listen_for_ever())

    def end(self) -> None:
        """Let all who follow stop: a server waits for open streams before it lets the application end."""
        self._is_ending = True
        self._wake_all()

    async def stop(self) -> None:
        """Listen no more, and wake all who follow."""
        self._is_ending = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._wake_all()

    @contextmanager
    def following(self, search_id: UUID) -> Iterator[asyncio.Event]:
        """An event that is set whenever the search has changed, or may have."""
        changed = asyncio.Event()
        self._followers[search_id].add(changed)
        try:
            yield changed
        finally:
            self._followers[search_id].discard(changed)
            if not self._followers[search_id]:
                del self._followers[search_id]

    async def ask_once(self, question: Hashable, look: Callable[[], Answer]) -> Answer:
        """What ``look`` finds, in a thread; who asks the same while that goes on, and nothing has changed, shares it.

        Args:
            question: names what is asked.
            look: reads the database.
        """
        # A look from before the last change may have missed it.
        key = (question, self._changes)
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(run_in_threadpool(look))
            task.add_done_callback(lambda _: self._asked.pop(key))
        # Whoever goes away while waiting must not take the others' answer along.
        answer: Answer = await asyncio.shield(task)
        return answer

    async def _listen_for_ever(self) -> None:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(psycopg.Error),
            wait=tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_PAUSE),
            before_sleep=lambda state: _logger.warning(
                "events are delayed: the database cannot be listened to (%s)",
                state.outcome.exception() if state.outcome else "",
            ),
        )
        await retrying(self._listen)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True) as connection:
            await connection.execute(f"listen {CHANGES}")
            self._wake_all()  # what changed meanwhile was told to nobody
            async for told in connection.notifies():
                self._changes += 1
                for changed in self._followers.get(UUID(told.payload), ()):
                    changed.set()
        raise psycopg.OperationalError("the connection that listens was closed")

    def _wake_all(self) -> None:
        self._changes += 1
        for followers in self._followers.values():
            for changed in followers:
                changed.set()
