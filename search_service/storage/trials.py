"""The trials of a search: its candidates, and how far each has been judged. Never commits.

Whoever changes trials holds the lock on their search's row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from uuid import UUID

from sqlalchemy import Select, and_, case, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from search_service.domain.events import EventKind
from search_service.domain.trial import TrialState
from search_service.storage.tables import EventRow, SearchRow, TrialRow

ROWS_PER_INSERT = 5000


@dataclass(frozen=True, slots=True)
class NewTrial:
    """A candidate to be judged."""

    candidate: str
    batch_group: str
    predicted_latency_s: float


def add_many(session: Session, search_id: UUID, new: Iterable[NewTrial]) -> int:
    """Store pending trials, numbered in the order given after those there are; those already stored stay as they are.

    Args:
        session: where to store them.
        search_id: whose trials they are.
        new: the candidates.

    Returns:
        How many are new.
    """
    trials = list(new)
    wanted = {trial.candidate for trial in trials}
    of_search = TrialRow.search_id == search_id
    stored = set(session.scalars(select(TrialRow.candidate).where(of_search, TrialRow.candidate.in_(wanted))))
    first = session.scalars(select(func.coalesce(func.max(TrialRow.number), -1)).where(of_search)).one() + 1
    added = [trial for trial in trials if trial.candidate not in stored]
    values = [
        {"search_id": search_id, "number": number, "state": TrialState.PENDING, **asdict(trial)}
        for number, trial in enumerate(added, start=first)
    ]
    for start in range(0, len(values), ROWS_PER_INSERT):
        session.execute(insert(TrialRow), values[start : start + ROWS_PER_INSERT])
    return len(values)


COPIED = (
    "number",
    "candidate",
    "predicted_latency_s",
    "batch_group",
    "blocks",
    "quality",
    "degradation",
    "degradation_se",
    "latency_s",
    "speedup",
    "reason",
    "confirmation",
)


def copy(session: Session, search_id: UUID, states: Mapping[TrialRow, TrialState]) -> None:
    """Store another search's trials as a search's own, each in the state given."""
    values = [
        {"search_id": search_id, "state": state, **{name: getattr(row, name) for name in COPIED}}
        for row, state in states.items()
    ]
    for start in range(0, len(values), ROWS_PER_INSERT):
        session.execute(insert(TrialRow), values[start : start + ROWS_PER_INSERT])


def page(
    session: Session,
    search_id: UUID,
    *,
    limit: int,
    after: int | None = None,
    state: TrialState | None = None,
) -> Sequence[TrialRow]:
    """Trials by number, those above ``after``; only those in ``state`` if one is given."""
    query = select(TrialRow).where(TrialRow.search_id == search_id).order_by(TrialRow.number).limit(limit)
    if after is not None:
        query = query.where(TrialRow.number > after)
    if state is not None:
        query = query.where(TrialRow.state == state)
    return session.scalars(query).all()


def reserved_blocks(session: Session, search_id: UUID) -> int:
    """Validation blocks that a search's trials have been judged on or are being judged on."""
    blocks = TrialRow.blocks + case((TrialRow.token_no.is_not(None), 1), else_=0)
    return session.scalars(select(func.coalesce(func.sum(blocks), 0)).where(TrialRow.search_id == search_id)).one()


def of_search(
    session: Session, search_id: UUID, states: Iterable[TrialState] = tuple(TrialState)
) -> Sequence[TrialRow]:
    """Every trial of a search in one of ``states``, by number."""
    query = (
        select(TrialRow)
        .where(TrialRow.search_id == search_id, TrialRow.state.in_(list(states)))
        .order_by(TrialRow.number)
    )
    return session.scalars(query).all()


def take_group(
    session: Session,
    search_id: UUID,
    token_no: int,
    horizon_s: float,
    most_new: int | None = None,
    most: int | None = None,
) -> Sequence[TrialRow]:
    """Reserve for a token the pending trials that are judged together next: those predicted to be fastest.

    Args:
        session: of the caller, who holds the lock on the search's row.
        search_id: whose trials.
        token_no: who judges them.
        horizon_s: trials predicted to be slower wait.
        most_new: how many trials may be judged that never were; any number unless said.
        most: how many may be judged at all.

    Returns:
        The trials by number, all of one group and with the same number of judged blocks; none when nothing is free.
    """
    free = _free(search_id, horizon_s, most_new)
    first = session.scalars(free.order_by(TrialRow.predicted_latency_s, TrialRow.number).limit(1)).first()
    if first is None:
        return []
    group = free.where(TrialRow.batch_group == first.batch_group, TrialRow.blocks == first.blocks)
    limits = [limit for limit in (most_new if first.blocks == 0 else None, most) if limit is not None]
    if limits:
        group = group.limit(min(limits))
    rows = session.scalars(group.order_by(TrialRow.number).with_for_update()).all()
    for row in rows:
        row.token_no = token_no
    return rows


def free_groups(session: Session, search_id: UUID, horizon_s: float, most_new: int | None = None) -> int:
    """How many groups :func:`take_group` could reserve now."""
    groups = _free(search_id, horizon_s, most_new).with_only_columns(TrialRow.batch_group, TrialRow.blocks).distinct()
    return session.scalars(select(func.count()).select_from(groups.subquery())).one()


def judged_count(session: Session, search_id: UUID) -> int:
    """Trials that have been judged on a block, or are being judged on their first."""
    begun = or_(TrialRow.blocks > 0, TrialRow.token_no.is_not(None))
    return session.scalars(select(func.count()).where(TrialRow.search_id == search_id, begun)).one()


def _free(search_id: UUID, horizon_s: float, most_new: int | None) -> Select[TrialRow]:
    """Pending trials that no token has reserved, as far as the horizon."""
    query = select(TrialRow).where(
        TrialRow.search_id == search_id, TrialRow.state == TrialState.PENDING, TrialRow.token_no.is_(None)
    )
    if most_new is not None and most_new <= 0:
        query = query.where(TrialRow.blocks > 0)
    return query if math.isinf(horizon_s) else query.where(TrialRow.predicted_latency_s <= horizon_s)


def taken(session: Session, search_id: UUID, token_no: int) -> Sequence[TrialRow]:
    """The trials that a token has reserved, by number."""
    query = select(TrialRow).where(TrialRow.search_id == search_id, TrialRow.token_no == token_no)
    return session.scalars(query.order_by(TrialRow.number)).all()


def counts(session: Session, search_id: UUID) -> dict[TrialState, int]:
    """How many trials of a search stand in each state; states without any are there with 0."""
    query = select(TrialRow.state, func.count()).where(TrialRow.search_id == search_id).group_by(TrialRow.state)
    found = {TrialState(state): number for state, number in session.execute(query)}
    return {state: found.get(state, 0) for state in TrialState}


def latency_ratios(session: Session, search_id: UUID) -> Sequence[float]:
    """Measured over predicted latency of each trial of a search that was timed."""
    query = select(TrialRow.latency_s / TrialRow.predicted_latency_s).where(
        TrialRow.search_id == search_id, TrialRow.latency_s.is_not(None), TrialRow.predicted_latency_s > 0
    )
    return [ratio for ratio in session.scalars(query) if ratio is not None]


def unmirrored(session: Session, search_id: UUID, *, is_final: bool, limit: int) -> Sequence[TrialRow]:
    """Trials that the Optuna study lacks and whose figures change no more, by number.

    A survivor may still be timed and tested, so it is listed once the search is final; so is what was judged and left.
    """
    if is_final:
        settled = or_(TrialRow.state != TrialState.PENDING, TrialRow.blocks > 0)
    else:
        settled = TrialRow.state.in_(
            [TrialState.DROPPED, TrialState.QUALIFIED, TrialState.UNQUALIFIED, TrialState.UNRESOLVED]
        )
    query = select(TrialRow).where(TrialRow.search_id == search_id, ~TrialRow.mirrored, settled)
    return session.scalars(query.order_by(TrialRow.number).limit(limit)).all()


def mirror_lag_s(session: Session) -> float:
    """Age in seconds of the oldest finished trial that the Optuna study lacks; 0 where it lacks none.

    A trial is finished when it was decided about for good, which an event tells, or else with its search.
    """
    decided = and_(
        EventRow.search_id == TrialRow.search_id,
        EventRow.kind == EventKind.TRIAL,
        EventRow.data["candidate"].astext == TrialRow.candidate,
        EventRow.data["state"].astext == TrialRow.state,
    )
    age = func.clock_timestamp() - func.min(func.least(EventRow.at, SearchRow.finished_at))
    query = (
        select(func.extract("epoch", age))
        .select_from(TrialRow)
        .join(SearchRow, SearchRow.id == TrialRow.search_id)
        .outerjoin(EventRow, and_(decided, TrialRow.state != TrialState.SURVIVED))
        .where(
            ~TrialRow.mirrored,
            TrialRow.state != TrialState.PENDING,
            or_(TrialRow.state != TrialState.SURVIVED, SearchRow.finished_at.is_not(None)),
        )
    )
    return max(0.0, float(session.scalars(query).one() or 0.0))


def has_mirrored(session: Session, search_id: UUID) -> bool:
    """Whether the Optuna study shows any trial of the search."""
    return session.scalar(select(exists().where(TrialRow.search_id == search_id, TrialRow.mirrored))) is True


def forget_mirrored(session: Session, search_id: UUID) -> bool:
    """Let the Optuna study show all of a search's trials anew, because it is gone; whether it had shown any."""
    query = update(TrialRow).where(TrialRow.search_id == search_id, TrialRow.mirrored)
    return session.execute(query.values(mirrored=False).returning(TrialRow.number)).first() is not None


def mark_mirrored(session: Session, search_id: UUID, numbers: Iterable[int]) -> None:
    """Remember that the Optuna study shows these trials."""
    query = update(TrialRow).where(TrialRow.search_id == search_id, TrialRow.number.in_(list(numbers)))
    session.execute(query.values(mirrored=True))
