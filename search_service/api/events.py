"""The events of a search as a stream (server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html).

Events have the number of their row as id, so a reader that comes back with ``Last-Event-ID`` misses none. ``progress``
has no id: it is what the search's row says now, sent when that changed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, format_sse_event

from search_service.api.access import Reader
from search_service.api.change_feed import ChangeFeed
from search_service.api.context import Db, SearchId
from search_service.api.schemas import PREFIX, EventQuery, Problem, SearchView
from search_service.domain.events import EventKind
from search_service.storage import events, searches
from search_service.storage.database import Database

router = APIRouter(prefix=f"{PREFIX}/searches", tags=["events"])

EVENTS_AT_ONCE = 500
PING_INTERVAL = 15.0  # seconds without an event after which a comment shows that the stream lives
STREAM_LIFETIME = 900.0  # seconds, after which a reader comes back, with a key that is still in force
MAX_EVENT_NO = 2**63 - 1
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def _feed(request: Request) -> ChangeFeed:
    feed: ChangeFeed = request.app.state.change_feed
    return feed


@router.get(
    "/{search_id}/events",
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "The stream"},
        204: {"description": "The search is over, and all its events have been read"},
        404: {"model": Problem, "description": "There is no such search"},
        422: {"model": Problem, "description": "A parameter is not valid"},
    },
    response_class=Response,
)
async def get_events(
    search_id: SearchId,
    _: Reader,
    query: Annotated[EventQuery, Query()],
    database: Db,
    feed: Annotated[ChangeFeed, Depends(_feed)],
    last_event_id: Annotated[str | None, Header(description="Number of the last event that was read.")] = None,
) -> Response:
    """Follow a search: its events from the first, or from the one after `Last-Event-ID`, then those to come."""
    begin = query.after if last_event_id is None else _number(last_event_id)
    seen = await run_in_threadpool(_look, database, search_id, begin)
    if seen.is_over and not seen.events:
        return Response(status_code=204)
    return EventSourceResponse(_stream(database, feed, search_id, begin), headers=HEADERS)


@dataclass(frozen=True)
class _Seen:
    events: list[tuple[int, str, dict[str, Any]]]
    progress: dict[str, Any]
    is_over: bool


def _look(database: Database, search_id: UUID, after: int) -> _Seen:
    """What is new of a search."""
    with database.reading() as session:
        row = searches.glance(session, search_id)
        rows = events.after(session, search_id, after, EVENTS_AT_ONCE)
        view = SearchView.of(row)
    progress = view.model_dump(mode="json", include={"status", "phase", "progress", "share", "left_s"})
    return _Seen(
        [(row.no, row.kind, {**row.data, "at": row.at.isoformat()}) for row in rows], progress, view.status.is_final
    )


async def _stream(database: Database, feed: ChangeFeed, search_id: UUID, after: int) -> AsyncIterator[bytes]:
    ends_at = time.monotonic() + STREAM_LIFETIME
    progress: dict[str, Any] = {}
    with feed.following(search_id) as changed:
        while True:
            changed.clear()
            if feed.is_ending:  # the reader comes back to another process, with the last number it saw
                return
            seen = await feed.ask_once((search_id, after), partial(_look, database, search_id, after))
            for no, kind, data in seen.events:
                after = no
                yield format_sse_event(event=kind, id=str(no), data_str=json.dumps(data))
                if EventKind(kind).is_last:
                    return
            if seen.progress != progress:
                progress = seen.progress
                yield format_sse_event(event="progress", data_str=json.dumps(progress))
            if len(seen.events) == EVENTS_AT_ONCE:
                continue
            while not changed.is_set():
                if time.monotonic() > ends_at:
                    return
                try:
                    await asyncio.wait_for(changed.wait(), PING_INTERVAL)
                except TimeoutError:
                    yield format_sse_event(comment="waiting")


def _number(last_event_id: str) -> int:
    """The number in a ``Last-Event-ID``; one that is not ours begins from the first event."""
    number = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
    return min(number, MAX_EVENT_NO)
