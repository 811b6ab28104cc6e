"""Searches: submit, look, move, and read the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from search_service import lifecycle
from search_service.api import paging
from search_service.api.access import Caller, Reader, Submitter
from search_service.api.context import AppSettings, Db, SearchId
from search_service.api.examples import SPEC_EXAMPLES
from search_service.api.schemas import (
    PREFIX,
    Change,
    FrontView,
    Problem,
    SearchPage,
    SearchQuery,
    SearchView,
    ThresholdQuery,
    TrialPage,
    TrialQuery,
    TrialView,
    search_path,
)
from search_service.api.submission import submit
from search_service.domain.errors import VersionChanged
from search_service.domain.result import SearchResult
from search_service.domain.search import SearchSpec
from search_service.domain.thresholds import ThresholdAnswer, answer_at
from search_service.storage import searches, trial_lists, trials
from search_service.storage.database import Database
from search_service.storage.tables import SearchRow

router = APIRouter(prefix=f"{PREFIX}/searches", tags=["searches"])

_logger = logging.getLogger(__name__)

_REFUSED: dict[int | str, dict[str, Any]] = {422: {"model": Problem, "description": "A field cannot be what it is"}}
_ABSENT: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such search"}}
_MOVED: dict[int | str, dict[str, Any]] = {
    **_ABSENT,
    409: {"model": Problem, "description": "The search is over"},
    412: {"model": Problem, "description": "The search has changed since it had this ETag"},
}
_NO_RESULT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "There is no result: not yet, or the search failed or was cancelled"}
}
_BODY: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON"},
    413: {"model": Problem, "description": "The body is too large"},
    415: {"model": Problem, "description": "The body is not sent as JSON"},
}
_LOCATION: dict[int | str, dict[str, Any]] = {
    202: {"headers": {"Location": {"description": "Where the search is.", "schema": {"type": "string"}}}},
    429: {"model": Problem, "description": "The key has too many searches waiting"},
}
_SEEN: dict[int | str, dict[str, Any]] = {
    200: {"headers": {"ETag": {"description": "The search's version.", "schema": {"type": "string"}}}},
    304: {"description": "The search is as it was at this ETag"},
}

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A name of your choice for this submission: sent again, it finds the search that is there.",
        pattern=r"^[\x21-\x7e]{1,200}$",
    ),
]
IfMatch = Annotated[str | None, Header(description="An ETag: nothing changes if the search has changed since.")]


async def _json_only(request: Request) -> None:
    """Refuse a body that does not say it is JSON, rather than call it a spec with faults."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HTTPException(415, f"send the body as application/json, not as '{kind or 'nothing'}'")


@router.post("", status_code=202, dependencies=[Depends(_json_only)], responses={**_REFUSED, **_BODY, **_LOCATION})
def submit_search(
    spec: Annotated[SearchSpec, Body(openapi_examples=SPEC_EXAMPLES)],
    response: Response,
    caller: Submitter,
    database: Db,
    settings: AppSettings,
    idempotency_key: IdempotencyKey = None,
) -> SearchView:
    """Submit a search. It is queued, or begins at once; its `Location` tells how it goes."""
    view, was_there = submit(database, spec, caller, idempotency_key, settings.max_running_searches)
    noted = {"search": str(view.id), "device": view.spec.device, "key": caller.name, "replayed": was_there}
    _logger.info("submitted", extra=noted)
    response.headers["Location"] = search_path(view.id)
    response.headers["ETag"] = _etag(view.version)
    if was_there:
        response.headers["Idempotent-Replayed"] = "true"
    return view


@router.get("", responses=_REFUSED)
def list_searches(query: Annotated[SearchQuery, Query()], _: Reader, database: Db) -> SearchPage:
    """List searches, newest first unless another order is asked for."""
    after = None if query.cursor is None else paging.read_search_cursor(query.cursor, query.sort)
    with database.reading() as session:
        # One more than asked for tells whether there is a next page.
        rows = searches.page(
            session,
            limit=query.limit + 1,
            sort=query.sort,
            after=after,
            statuses=query.status,
            device=query.device,
            key_id=query.submitted_by,
            name=query.name,
        )
    shown = rows[: query.limit]
    more = len(rows) > len(shown)
    return SearchPage(
        searches=[SearchView.of(row) for row in shown],
        next_cursor=paging.search_cursor(shown[-1], query.sort) if more else None,
    )


@router.get("/{search_id}", response_model=SearchView, responses={**_ABSENT, **_SEEN})
def get_search(
    search_id: SearchId,
    _: Reader,
    response: Response,
    database: Db,
    if_none_match: Annotated[str | None, Header(description="An ETag: nothing is sent if it still holds.")] = None,
) -> SearchView | Response:
    """Show a search: its status, what it is doing and how far that is."""
    with database.reading() as session:
        view = SearchView.of(searches.glance(session, search_id))
    if _names(if_none_match, view.version):
        return Response(status_code=304, headers={"ETag": _etag(view.version)})
    response.headers["ETag"] = _etag(view.version)
    return view


@router.patch("/{search_id}", dependencies=[Depends(_json_only)], responses={**_MOVED, **_REFUSED, **_BODY})
def change_search(
    search_id: SearchId,
    change: Annotated[Change, Body()],
    caller: Submitter,
    response: Response,
    database: Db,
    if_match: IfMatch = None,
) -> SearchView:
    """Change a search's priority, while it is queued, paused or running."""

    def change_priority(session: Session) -> SearchRow:
        return lifecycle.reprioritise(session, search_id, change.priority)

    return _move(database, search_id, caller, if_match, response, change_priority)


@router.get("/{search_id}/trials", responses={**_ABSENT, **_REFUSED})
def list_trials(search_id: SearchId, query: Annotated[TrialQuery, Query()], _: Reader, database: Db) -> TrialPage:
    """List the candidates of a search and what is known of each."""
    after = None if query.cursor is None else paging.read_trial_cursor(query.cursor)
    with database.reading() as session:
        searches.glance(session, search_id)
        rows = trials.page(session, search_id, limit=query.limit + 1, after=after, state=query.state)
    shown = rows[: query.limit]
    more = len(rows) > len(shown)
    return TrialPage(
        trials=[TrialView.of(row) for row in shown],
        next_cursor=paging.trial_cursor(shown[-1].number) if more else None,
    )


@router.get("/{search_id}/front", responses=_ABSENT)
def get_front(search_id: SearchId, _: Reader, database: Db) -> FrontView:
    """Show the front as far as it is known: candidates that lose less than every faster one does."""
    with database.reading() as session:
        row = searches.glance(session, search_id)
        best = trial_lists.best(session, search_id)
        return FrontView(
            max_degradation=searches.threshold(row),
            best=None if best is None else TrialView.of(best),
            trials=[TrialView.of(trial) for trial in trial_lists.front(session, search_id)],
            latency_ratio=trial_lists.latency_ratio(session, search_id),
        )


@router.get("/{search_id}/result", responses={**_ABSENT, **_NO_RESULT})
def get_result(search_id: SearchId, _: Reader, database: Db) -> SearchResult:
    """Read the answer: the fastest pattern whose quality loss stays under the threshold, and what proves it."""
    with database.reading() as session:
        return searches.result(searches.get(session, search_id))


@router.get("/{search_id}/answer", responses={**_ABSENT, **_NO_RESULT, **_REFUSED})
def get_answer(
    search_id: SearchId, query: Annotated[ThresholdQuery, Query()], _: Reader, database: Db
) -> ThresholdAnswer:
    """Ask a finished search about another threshold, with no new evaluation; or learn what that would take."""
    with database.reading() as session:
        return answer_at(searches.result(searches.get(session, search_id)), query.max_degradation)


def _add_verb(name: str, description: str) -> None:
    """One path that moves a search: all take and answer alike."""

    @router.post(f"/{{search_id}}:{name}", responses=_MOVED, name=f"{name}_search", description=description)
    def move(
        search_id: SearchId,
        caller: Submitter,
        response: Response,
        database: Db,
        settings: AppSettings,
        if_match: IfMatch = None,
    ) -> SearchView:
        def moved(session: Session) -> SearchRow:
            return lifecycle.VERBS[name](session, search_id, settings.max_running_searches)

        return _move(database, search_id, caller, if_match, response, moved)


_add_verb("pause", "Begin no more work for a search; what runs is finished. Another may have its place.")
_add_verb("resume", "Let a paused search go on when its turn comes.")
_add_verb(
    "stop",
    "Answer from what is known: nothing more is screened, what has survived is timed and proved. A search that does "
    "not even have its model yet is cancelled.",
)
_add_verb("cancel", "Cancel a search, now. What it has learned stays stored for others.")


def _move(
    database: Database,
    search_id: UUID,
    caller: Caller,
    if_match: str | None,
    response: Response,
    move: Callable[[Session], SearchRow],
) -> SearchView:
    """Move a search that the caller may move, if it is still as they saw it."""
    with database.session() as session:
        search = searches.lock(session, search_id)
        caller.check_may_move(search)
        if if_match is not None and not _names(if_match, search.version):
            raise VersionChanged(str(search_id), search.version)
        row = move(session)
        session.flush()
        session.refresh(row)
        view = SearchView.of(row)
    response.headers["ETag"] = _etag(view.version)
    return view


def _etag(version: int) -> str:
    return f'"{version}"'


def _names(etags: str | None, version: int) -> bool:
    """Whether a list of ETags names a version."""
    named = {etag.strip().removeprefix("W/") for etag in (etags or "").split(",")}
    return bool(named & {_etag(version), "*"})
