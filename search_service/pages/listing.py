"""The first page: searches, and the form that submits one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID, uuid4

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from search_service.api import paging, problems
from search_service.api.access import Caller, Reader, Submitter
from search_service.api.context import AppSettings, Db
from search_service.api.examples import SPEC_EXAMPLES
from search_service.api.schemas import SearchView
from search_service.api.submission import submit
from search_service.domain.errors import FieldProblem, LambdaSearchError, UnreadableSpec
from search_service.domain.evaluation import content_key
from search_service.domain.keys import Scope
from search_service.domain.result import SearchResult
from search_service.domain.search import SearchSpec, SearchStatus
from search_service.pages.routing import PageRoute, seen
from search_service.pages.templates import page
from search_service.storage import codec, searches
from search_service.storage.database import Database
from search_service.storage.searches import SearchSort
from search_service.storage.tables import SearchRow

SEARCHES_PER_PAGE = 20
EXAMPLES = tuple(SPEC_EXAMPLES)
THRESHOLD = "max_degradation"
WHOLE = "spec"
"""What problems call the document itself."""
OPPOSITES = {
    "created_at": (SearchSort.NEWEST, SearchSort.OLDEST),
    "priority": (SearchSort.HIGHEST_PRIORITY, SearchSort.LOWEST_PRIORITY),
}
SORT_NAMES = {
    SearchSort.NEWEST: "newest first",
    SearchSort.OLDEST: "oldest first",
    SearchSort.HIGHEST_PRIORITY: "highest priority first",
    SearchSort.LOWEST_PRIORITY: "lowest priority first",
}

router = APIRouter(route_class=PageRoute)

Text = Query(max_length=200, pattern=r"^[^\x00]*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """Which searches are listed."""

    name: str = ""
    status: SearchStatus | None = None
    sort: SearchSort = SearchSort.NEWEST
    cursor: str | None = None

    def address(self, **changes: str | None) -> str:
        """The page of the same query with changes; another order or filter begins at its first page."""
        known = {"name": self.name, "status": self.status, "sort": self.sort, **changes}
        if known.get("sort") == SearchSort.NEWEST:
            known["sort"] = None
        given = {name: value for name, value in known.items() if value}
        return f"/?{urlencode(given)}" if given else "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the form to submit a search holds."""

    spec: str
    max_degradation: str
    token: str
    """Names this draft, so that sending it twice makes one search."""
    problems: Sequence[FieldProblem] = ()
    is_open: bool = False

    def of(self, field: str) -> list[FieldProblem]:
        """What is wrong with one input: the threshold's own, or all else."""
        return [problem for problem in self.problems if (problem.field == THRESHOLD) == (field == THRESHOLD)]


@dataclass(frozen=True, slots=True)
class Listed:
    """A row of the list."""

    view: SearchView
    result: SearchResult | None


@router.get("/")
def list_searches(
    request: Request,
    caller: Reader,
    database: Db,
    name: Annotated[str, Text] = "",
    status: SearchStatus | Literal[""] | None = None,
    sort: SearchSort = SearchSort.NEWEST,
    cursor: str | None = None,
    example: str | None = None,
    again: UUID | None = None,
) -> Response:
    """List searches; the form is filled with an example, or with the spec of an earlier search."""
    query = ListQuery(name=name, status=status or None, sort=sort, cursor=cursor)
    return _page(request, caller, database, query, _draft(database, example, again))


@router.post("/searches")
def submit_search(
    request: Request,
    caller: Submitter,
    database: Db,
    settings: AppSettings,
    spec: Annotated[str, Form()] = "",
    max_degradation: Annotated[str, Form()] = "",
    token: Annotated[str, Form(pattern=r"^[0-9a-f]{0,32}$")] = "",
) -> Response:
    """Submit a search. What is refused comes back as it was typed, with the reasons beside it."""
    try:
        wanted = _read(spec, max_degradation)
        # Another spec under the same token is another search: the form may be gone back to and changed.
        name = f"form-{token}-{content_key(codec.spec_to_json(wanted))[:32]}" if token else None
        view, _ = submit(database, wanted, caller, name, settings.max_running_searches)
    except LambdaSearchError as error:
        kind = problems.kind_of(error)
        if kind is problems.INTERNAL_ERROR or kind.status >= 500:
            raise
        found = problems.fields_of(error) or [FieldProblem(WHOLE, str(error))]
        refused = Draft(spec=spec, max_degradation=max_degradation, token=token, problems=found, is_open=True)
        return _page(request, caller, database, ListQuery(), refused, kind.status)
    return seen(f"/searches/{view.id}")


def _page(
    request: Request, caller: Caller, database: Database, query: ListQuery, draft: Draft, status: int = 200
) -> Response:
    rows, next_cursor = _look(database, query)
    listed = [Listed(SearchView.of(row), _result(row)) for row in rows]
    return page(
        request,
        "list",
        caller,
        status,
        query=query,
        listed=listed,
        next_cursor=next_cursor,
        statuses=list(SearchStatus),
        sorts=SORT_NAMES,
        opposites=OPPOSITES,
        examples={name: SPEC_EXAMPLES[name]["summary"] for name in EXAMPLES},
        draft=draft,
        may_submit=caller.scope.allows(Scope.SUBMIT),
        is_moving=any(not row.view.status.is_final for row in listed),
    )


def _look(database: Database, query: ListQuery) -> tuple[Sequence[SearchRow], str | None]:
    after = None if query.cursor is None else paging.read_search_cursor(query.cursor, query.sort)
    with database.session() as session:
        rows = searches.page(
            session,
            limit=SEARCHES_PER_PAGE + 1,
            sort=query.sort,
            after=after,
            statuses=[] if query.status is None else [query.status],
            name=query.name or None,
            with_results=True,
        )
    shown = rows[:SEARCHES_PER_PAGE]
    return shown, paging.search_cursor(shown[-1], query.sort) if len(rows) > len(shown) else None


def _result(row: SearchRow) -> SearchResult | None:
    return None if row.result is None else codec.result_from_json(row.result)


def _draft(database: Database, example: str | None, again: UUID | None) -> Draft:
    if again is not None:
        with database.session() as session:
            document: dict[str, Any] = dict(searches.get(session, again).spec)
    else:
        chosen = example if example in SPEC_EXAMPLES else EXAMPLES[0]
        document = dict(SPEC_EXAMPLES[chosen]["value"] or {})
    threshold = document.pop(THRESHOLD)
    return Draft(
        spec=json.dumps(document, indent=2, ensure_ascii=False),
        max_degradation=f"{threshold:g}",
        token=uuid4().hex,
        is_open=example is not None or again is not None,
    )


def _read(text: str, max_degradation: str) -> SearchSpec:
    """The spec that was typed, with the threshold that was typed beside it.

    Raises:
        UnreadableSpec: it is no spec.
        InvalidSpec: it is one that cannot be.
    """
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise UnreadableSpec([FieldProblem(WHOLE, "is nested too deeply")]) from error
    except ValueError as error:
        raise UnreadableSpec([FieldProblem(WHOLE, f"is not JSON: {error}")]) from error
    if isinstance(document, dict) and max_degradation.strip():
        try:
            document[THRESHOLD] = float(max_degradation)
        except ValueError as error:
            reason = "must be a number with a point, for example 0.01"
            raise UnreadableSpec([FieldProblem(THRESHOLD, reason)]) from error
    return codec.spec_from_json(document)
