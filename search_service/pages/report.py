"""The report of one search: how far it is, what it found, what that is worth, how to use it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter, Form, Query, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from search_service import lifecycle, words
from search_service.api.access import Caller, Reader, Submitter
from search_service.api.context import AppSettings, Db, SearchId
from search_service.api.schemas import SearchView, TrialView
from search_service.domain.errors import NotFound
from search_service.domain.keys import Scope
from search_service.domain.result import SearchResult
from search_service.domain.search import Phase, SearchSpec, SearchStatus
from search_service.domain.thresholds import answer_at
from search_service.domain.trial import TrialState
from search_service.pages import answer, comparison
from search_service.pages.grids import Grid, grid_of
from search_service.pages.plane import Address, Plane, plane_of_result, plane_of_trials
from search_service.pages.routing import PageRoute, seen
from search_service.pages.templates import page
from search_service.storage import codec, events, keys, searches, trial_lists, trials
from search_service.storage.database import Database
from search_service.storage.tables import SearchRow, TrialRow
from search_service.storage.trial_lists import ROWS_PER_PAGE, TrialColumn

RETRAINING = (Phase.RETRAINING, Phase.RETRAINED_CERTIFICATE)
SORT = rf"^-?({'|'.join(TrialColumn)})$"

router = APIRouter(prefix="/searches/{search_id}", route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class PhaseRow:
    """A phase, and how long it took."""

    phase: Phase
    seconds: float | None
    is_present: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialQuery:
    """Which candidates are listed, in which order."""

    column: TrialColumn = TrialColumn.STATE
    descending: bool = False
    state: TrialState | None = None
    page: int = 1

    def address(self, **changes: object) -> str:
        """The same list with changes; another order or filter begins at its first page."""
        sort = ("-" if self.descending else "") + self.column
        known = {"sort": sort, "state": self.state, "page": None, **changes}
        given = {name: value for name, value in known.items() if value and (name, value) != ("sort", "state")}
        return f"?{urlencode(given)}#candidates"

    def sort_by(self, column: TrialColumn) -> str:
        """Where a column's heading leads: to that order, or to its opposite."""
        is_again = column == self.column and not self.descending
        return self.address(sort=("-" if is_again else "") + column)


@dataclass(frozen=True, slots=True)
class TrialLine:
    """A candidate in the list."""

    view: TrialView
    grid: Grid
    episodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is shown of a search, as it stood at one moment."""

    view: SearchView
    key_name: str
    max_degradation: float | None
    counts: dict[TrialState, int]
    lines: list[TrialLine]
    has_more: bool
    best: TrialLine | None
    result: SearchResult | None
    plane: Plane | None
    ways: list[comparison.Way]
    last_event: int
    """Number of the newest event that the report knows of."""


@router.get("")
def show_search(
    request: Request,
    search_id: SearchId,
    caller: Reader,
    database: Db,
    sort: Annotated[str, Query(pattern=SORT)] = TrialColumn.STATE.value,
    state: TrialState | None = None,
    page_number: Annotated[int, Query(alias="page", ge=1, le=100_000)] = 1,
    max_degradation: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
) -> Response:
    """The report."""
    column = TrialColumn(sort.removeprefix("-"))
    query = TrialQuery(column=column, descending=sort.startswith("-"), state=state, page=page_number)
    report = _report(database, search_id, query)
    return page(
        request,
        "search",
        caller,
        report=report,
        view=report.view,
        spec=report.view.spec,
        query=query,
        columns=TrialColumn,
        phases=_phases(report.view),
        left=_left(report.view),
        may_move=_may_move(caller, report.view),
        verbs=_verbs(report.view),
        said=_said(report.view),
        spec_document=codec.spec_to_json(report.view.spec),
        base_url=str(request.base_url).rstrip("/"),
        **_answered(report, max_degradation),
    )


@router.get("/trials/{number}")
def show_trial(request: Request, search_id: SearchId, number: str, caller: Reader, database: Db) -> Response:
    """One candidate, with all that is known of it."""
    with database.session() as session:
        view = SearchView.of(searches.glance(session, search_id))
        row = trial_lists.numbered(session, search_id, _number(number))
        if row is None:
            raise NotFound("candidate", number)
        line = _line(row, view.spec)
        neighbours = {near: trial_lists.numbered(session, search_id, row.number + near) is not None for near in (-1, 1)}
    return page(
        request,
        "trial",
        caller,
        view=view,
        line=line,
        trial=line.view,
        has_previous=neighbours[-1],
        has_next=neighbours[1],
        confirmation=line.view.confirmation or {},
    )


@router.post("/priority")
def change_priority(
    search_id: SearchId, caller: Submitter, database: Db, priority: Annotated[int, Form(ge=-1000, le=1000)]
) -> Response:
    """Change whose turn is when."""

    def moved(session: Session) -> SearchRow:
        return lifecycle.reprioritise(session, search_id, priority)

    return _move(database, search_id, caller, moved)


def _add_verb(name: str, verb: lifecycle.Verb) -> None:
    @router.post(f"/{name}", name=f"{name}_by_form")
    def move(search_id: SearchId, caller: Submitter, database: Db, settings: AppSettings) -> Response:
        def moved(session: Session) -> SearchRow:
            return verb(session, search_id, settings.max_running_searches)

        return _move(database, search_id, caller, moved)


for _name, _verb in lifecycle.VERBS.items():
    _add_verb(_name, _verb)


def _move(database: Database, search_id: UUID, caller: Caller, move: Callable[[Session], SearchRow]) -> Response:
    with database.session() as session:
        caller.check_may_move(searches.lock(session, search_id))
        move(session)
    return seen(f"/searches/{search_id}")


def _report(database: Database, search_id: UUID, query: TrialQuery) -> Report:
    with database.session() as session:
        row = searches.get(session, search_id)
        view = SearchView.of(row)
        result = None if row.result is None else codec.result_from_json(row.result)
        rows = trial_lists.sorted_page(
            session, search_id, query.column, descending=query.descending, state=query.state, page=query.page
        )
        best = None if view.status.is_final else trial_lists.best(session, search_id)
        key = keys.get(session, row.key_id)
        return Report(
            view=view,
            key_name=key.name,
            max_degradation=searches.threshold(row),
            counts=trials.counts(session, search_id),
            lines=[_line(trial, view.spec) for trial in rows[:ROWS_PER_PAGE]],
            has_more=len(rows) > ROWS_PER_PAGE,
            best=None if best is None else _line(best, view.spec),
            result=result,
            plane=_plane(session, row, view.spec, result),
            last_event=events.last_no(session, search_id),
            ways=[] if result is None else _ways(session, search_id, view.spec, result),
        )


def _plane(session: Session, row: SearchRow, spec: SearchSpec, result: SearchResult | None) -> Plane | None:
    if result is not None:
        drawn = [point.candidate for point in result.front]
        drawn += [result.fastest.candidate, result.baseline.candidate]
        drawn += [entry.candidate for entry in result.full_by_steps]
        return plane_of_result(result, _addresses(row.id, trial_lists.named(session, row.id, drawn).values()))
    judged = trial_lists.judged(session, row.id)
    return plane_of_trials(judged, searches.threshold(row), spec.tasks.metric, _addresses(row.id, judged))


def _ways(session: Session, search_id: UUID, spec: SearchSpec, result: SearchResult) -> list[comparison.Way]:
    parts = comparison.part_candidates(len(result.baseline.units), result.baseline.steps)
    known = trial_lists.named(session, search_id, [text for texts in parts.values() for text in texts])
    return comparison.ways(result, spec, known)


def _addresses(search_id: UUID, rows: Iterable[TrialRow]) -> Address:
    numbers = {row.candidate: row.number for row in rows}

    def address(candidate: str) -> str | None:
        return trial_path(search_id, numbers[candidate]) if candidate in numbers else None

    return address


def trial_path(search_id: UUID, number: int) -> str:
    """Where a candidate's page is."""
    return f"/searches/{search_id}/trials/{number}"


def _line(row: TrialRow, spec: SearchSpec) -> TrialLine:
    rate = spec.baseline.rate
    if rate is None and spec.meta_training is not None:
        rate = spec.meta_training.inner_rate
    grid = grid_of(row.candidate, list(spec.units), rate)
    return TrialLine(TrialView.of(row), grid, row.blocks * spec.episodes.block)


def _answered(report: Report, max_degradation: float | None) -> dict[str, Any]:
    """What is said of an answer, where there is one."""
    result = report.result
    if result is None:
        return {"summary": None, "grid": None}
    fastest = result.fastest
    rate = fastest.rates[0] / fastest.rate_factors[0] if fastest.rates else None
    other = None if max_degradation is None else answer_at(result, max_degradation)
    return {
        "summary": answer.summary(result),
        "grid": grid_of(fastest.candidate, fastest.units, rate),
        "facts": answer.facts(result, report.view.spec),
        "retrained": None if result.retrained is None else answer.retrained_sentence(result.retrained, result),
        "range": answer.answerable_range(result),
        "asked": max_degradation,
        "other": None if other is None else answer.threshold_sentence(other, result),
    }


def _phases(view: SearchView) -> list[PhaseRow]:
    shown = [phase for phase in Phase if phase not in RETRAINING or view.spec.retrain]
    is_open = not view.status.is_final
    return [PhaseRow(phase, view.phase_seconds.get(phase), is_open and phase == view.phase) for phase in shown]


def _left(view: SearchView) -> str:
    """How long it may still take, in words."""
    if view.status != SearchStatus.RUNNING or view.left_s is None:
        return ""
    return f"{words.about(view.left_s)} left"


def _said(view: SearchView) -> str:
    """What a screen reader is told when it changes: not every percent."""
    if view.status.is_final:
        ended = {SearchStatus.SUCCEEDED: "has an answer", SearchStatus.FAILED: "failed"}
        return f"The search {ended.get(view.status, 'was cancelled')}."
    if view.phase is None:
        return f"The search is {view.status}."
    tens = int(view.share * 10) * 10
    return f"{view.status.capitalize()}: {words.phase(view.phase)}, over {tens} % done."


def _may_move(caller: Caller, view: SearchView) -> bool:
    is_own = view.submitted_by == caller.key_id
    return caller.scope.allows(Scope.ADMIN) or (is_own and caller.scope.allows(Scope.SUBMIT))


def _verbs(view: SearchView) -> list[str]:
    """What can be asked of a search as it stands."""
    if view.status.is_final:
        return []
    offered = ["resume"] if view.status == SearchStatus.PAUSED else ["pause"]
    # Before its model is there a search has nothing to answer from.
    if not view.stopping and view.phase not in (None, Phase.META_TRAINING):
        offered.append("stop")
    return [*offered, "cancel"]


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1
    if not 0 <= number < 2**31:
        raise NotFound("candidate", text)
    return number
