"""Searches: submit, look, cancel, and read the answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from starlette.exceptions import HTTPException

from search_service import queue
from search_service.api import paging
from search_service.api.context import AppSettings, Db, SearchId
from search_service.api.schemas import (
    PREFIX,
    SPEC_EXAMPLES,
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
from search_service.domain.result import SearchResult
from search_service.domain.search import SearchSpec
from search_service.domain.thresholds import ThresholdAnswer, answer_at
from search_service.storage import searches, trials
from search_service.storage.database import server_time

router = APIRouter(prefix=f"{PREFIX}/searches", tags=["searches"])

_REFUSED: dict[int | str, dict[str, Any]] = {422: {"model": Problem, "description": "A field cannot be what it is"}}
_ABSENT: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such search"}}
_OVER: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "The search is over"}}
_NO_RESULT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "There is no result: not yet, or the search failed or was cancelled"}
}
_BODY: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON"},
    413: {"model": Problem, "description": "The body is too large"},
    415: {"model": Problem, "description": "The body is not sent as JSON"},
    202: {
        "headers": {"Location": {"description": "Where the search is.", "schema": {"type": "string"}}},
    },
}


async def _json_only(request: Request) -> None:
    """Refuse a body that does not say it is JSON, rather than call it a spec with faults."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HTTPException(415, f"send the spec as application/json, not as '{kind or 'nothing'}'")


@router.post("", status_code=202, dependencies=[Depends(_json_only)], responses={**_REFUSED, **_BODY})
def submit_search(
    spec: Annotated[SearchSpec, Body(openapi_examples=SPEC_EXAMPLES)],
    response: Response,
    database: Db,
    settings: AppSettings,
) -> SearchView:
    """Submit a search. It is queued, or begins at once; its `Location` tells how it goes."""
    with database.session() as session:
        row = submit(session, spec, settings.max_running_searches)
        view = SearchView.of(row, server_time(session))
    response.headers["Location"] = search_path(view.id)
    return view


@router.get("", responses=_REFUSED)
def list_searches(query: Annotated[SearchQuery, Query()], database: Db) -> SearchPage:
    """List searches, newest first."""
    after = None if query.cursor is None else paging.read_search_cursor(query.cursor)
    with database.session() as session:
        # One more than asked for tells whether there is a next page.
        rows = searches.page(session, limit=query.limit + 1, after=after, status=query.status)
        now = server_time(session)
    shown = rows[: query.limit]
    more = len(rows) > len(shown)
    return SearchPage(
        searches=[SearchView.of(row, now) for row in shown],
        next_cursor=paging.search_cursor(shown[-1].created_at, shown[-1].id) if more else None,
    )


@router.get("/{search_id}", responses=_ABSENT)
def get_search(search_id: SearchId, database: Db) -> SearchView:
    """Show a search: its status, what it is doing and how far that is."""
    with database.session() as session:
        return SearchView.of(searches.get(session, search_id), server_time(session))


@router.get("/{search_id}/trials", responses={**_ABSENT, **_REFUSED})
def list_trials(search_id: SearchId, query: Annotated[TrialQuery, Query()], database: Db) -> TrialPage:
    """List the candidates of a search and what is known of each."""
    after = None if query.cursor is None else paging.read_trial_cursor(query.cursor)
    with database.session() as session:
        searches.get(session, search_id)
        rows = trials.page(session, search_id, limit=query.limit + 1, after=after, state=query.state)
    shown = rows[: query.limit]
    more = len(rows) > len(shown)
    return TrialPage(
        trials=[TrialView.of(row) for row in shown],
        next_cursor=paging.trial_cursor(shown[-1].number) if more else None,
    )


@router.get("/{search_id}/result", responses={**_ABSENT, **_NO_RESULT})
def get_result(search_id: SearchId, database: Db) -> SearchResult:
    """Read the answer: the fastest pattern whose quality loss stays under the threshold, and what proves it."""
    with database.session() as session:
        return searches.result(searches.get(session, search_id))


@router.get("/{search_id}/answer", responses={**_ABSENT, **_NO_RESULT, **_REFUSED})
def get_answer(search_id: SearchId, query: Annotated[ThresholdQuery, Query()], database: Db) -> ThresholdAnswer:
    """Ask a finished search about another threshold, with no new evaluation; or learn what that would take."""
    with database.session() as session:
        return answer_at(searches.result(searches.get(session, search_id)), query.max_degradation)


@router.post("/{search_id}:cancel", responses={**_ABSENT, **_OVER})
def cancel_search(search_id: SearchId, database: Db, settings: AppSettings) -> SearchView:
    """Cancel a search that is queued or running. Cancelling again changes nothing."""
    with database.session() as session:
        row = queue.cancel(session, search_id, settings.max_running_searches)
        return SearchView.of(row, server_time(session))
