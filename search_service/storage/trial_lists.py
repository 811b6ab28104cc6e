"""Trials in the orders, and as many, as people look at. Never commits."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from search_service.domain.trial import TrialState
from search_service.storage.tables import TrialRow

ROWS_PER_PAGE = 50
MOST_POINTS = 1500
"""Candidates that a picture of a running search holds; beyond that points cover each other."""


class TrialColumn(StrEnum):
    """What candidates are sorted by."""

    STATE = "state"
    """What became of them: those proved first, those not yet looked at last; within that the fastest first."""
    NUMBER = "number"
    LATENCY = "latency"
    SPEEDUP = "speedup"
    QUALITY = "quality"
    DEGRADATION = "degradation"
    TASKS = "tasks"


DECIDED = (
    TrialState.QUALIFIED,
    TrialState.UNRESOLVED,
    TrialState.UNQUALIFIED,
    TrialState.SURVIVED,
    TrialState.DROPPED,
    TrialState.PENDING,
)

_LATENCY: ColumnElement[Any] = func.coalesce(TrialRow.latency_s, TrialRow.predicted_latency_s)
_RANK = case({state.value: rank for rank, state in enumerate(DECIDED)}, value=TrialRow.state, else_=len(DECIDED))
_COLUMNS: dict[TrialColumn, ColumnElement[Any]] = {
    TrialColumn.STATE: _RANK,
    TrialColumn.NUMBER: TrialRow.number.expression,
    TrialColumn.LATENCY: _LATENCY,
    TrialColumn.SPEEDUP: TrialRow.speedup.expression,
    TrialColumn.QUALITY: TrialRow.quality.expression,
    TrialColumn.DEGRADATION: TrialRow.degradation.expression,
    TrialColumn.TASKS: TrialRow.blocks.expression,
}


def _median_ratio(search_id: UUID) -> ScalarSelect[Any]:
    both = aliased(TrialRow)
    ratio = both.latency_s / both.predicted_latency_s
    known = (both.search_id == search_id, both.latency_s.is_not(None), both.predicted_latency_s > 0)
    return select(func.percentile_cont(0.5).within_group(ratio)).where(*known).scalar_subquery()


def _ratio(search_id: UUID) -> ColumnElement[Any]:
    return func.coalesce(_median_ratio(search_id), 1.0)


def sorted_page(
    session: Session, search_id: UUID, column: TrialColumn, *, descending: bool, state: TrialState | None, page: int
) -> Sequence[TrialRow]:
    """Trials in an order, those without a figure last; one more than a page holds tells that there is a next one.

    Args:
        session: where to look.
        search_id: whose trials.
        column: what to sort by.
        descending: whether the largest come first.
        state: only those in this state.
        page: which page, from 1.
    """
    key = _COLUMNS[column]
    order = (key.desc() if descending else key.asc()).nulls_last()
    query = select(TrialRow).where(TrialRow.search_id == search_id)
    if state is not None:
        query = query.where(TrialRow.state == state)
    query = query.order_by(order, _LATENCY.asc().nulls_last(), TrialRow.number)
    return session.scalars(query.offset((page - 1) * ROWS_PER_PAGE).limit(ROWS_PER_PAGE + 1)).all()


def judged(session: Session, search_id: UUID) -> Sequence[TrialRow]:
    """Trials with a figure of quality, what became of them first, as many as a picture holds."""
    query = select(TrialRow).where(TrialRow.search_id == search_id, TrialRow.degradation.is_not(None))
    return session.scalars(query.order_by(_RANK, _LATENCY, TrialRow.number).limit(MOST_POINTS)).all()


def front(session: Session, search_id: UUID) -> Sequence[TrialRow]:
    """Judged trials that lose less than every faster one does, fastest first, as many as a picture holds.

    Latencies are the measured ones; or as long as there is none the predicted, of the eager runtime, times the
    ratio of the two among the trials that have both.
    """
    latency = func.coalesce(TrialRow.latency_s, TrialRow.predicted_latency_s * _ratio(search_id))
    order = (latency, TrialRow.degradation, TrialRow.candidate)
    least = func.min(TrialRow.degradation).over(order_by=order, rows=(None, -1))
    judged_ones = (
        select(TrialRow.number, TrialRow.degradation, least.label("least"))
        .where(TrialRow.search_id == search_id, TrialRow.degradation.is_not(None), latency.is_not(None))
        .subquery()
    )
    is_on_it = or_(judged_ones.c.least.is_(None), judged_ones.c.degradation < judged_ones.c.least)
    query = (
        select(TrialRow)
        .join(judged_ones, judged_ones.c.number == TrialRow.number)
        .where(TrialRow.search_id == search_id, is_on_it)
    )
    return session.scalars(query.order_by(*order).limit(MOST_POINTS)).all()


def latency_ratio(session: Session, search_id: UUID) -> float | None:
    """Measured over predicted latency, the median of the trials that have both; None where none has."""
    return session.scalar(select(_median_ratio(search_id)))


def best(session: Session, search_id: UUID) -> TrialRow | None:
    """The fastest trial that is proved, or else that has survived so far."""
    hopeful = TrialRow.state.in_([TrialState.QUALIFIED, TrialState.SURVIVED])
    latency = func.coalesce(TrialRow.latency_s, TrialRow.predicted_latency_s * _ratio(search_id))
    query = select(TrialRow).where(TrialRow.search_id == search_id, hopeful)
    return session.scalars(query.order_by(_RANK, latency, TrialRow.number).limit(1)).first()


def named(session: Session, search_id: UUID, texts: Sequence[str]) -> dict[str, TrialRow]:
    """Trials of these candidates, by the candidate's text."""
    query = select(TrialRow).where(TrialRow.search_id == search_id, TrialRow.candidate.in_(list(texts)))
    return {row.candidate: row for row in session.scalars(query)}


def numbered(session: Session, search_id: UUID, number: int) -> TrialRow | None:
    """The trial of a number."""
    return session.get(TrialRow, (search_id, number))
