"""The tokens by which a search advances. Lock the search's row before any of its tokens. Never commits."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from search_service.domain.errors import NotFound
from search_service.domain.search import Phase
from search_service.storage.database import server_time
from search_service.storage.tables import TokenRow


class TokenState(StrEnum):
    """Where a token stands; every state but ``ended`` is live."""

    IN_QUEUE = "in_queue"
    HELD = "held"
    RUNNING = "running"
    ENDED = "ended"


def create(session: Session, search_id: UUID, phase: Phase, count: int) -> list[TokenRow]:
    """Make ``count`` more tokens of a phase, ``in_queue`` at step 0; the caller defers a job for each.

    Numbers go on from the phase's last token: a phase that works in rounds makes new tokens for each.
    """
    first = count_of(session, search_id, phase)
    rows = [
        TokenRow(search_id=search_id, phase=phase, no=number, step=0, claim_no=0, attempts=0, state=TokenState.IN_QUEUE)
        for number in range(first, first + count)
    ]
    session.add_all(rows)
    session.flush()
    return rows


def lock(session: Session, search_id: UUID, phase: Phase, no: int) -> TokenRow:
    """The token, locked until the transaction ends.

    Raises:
        NotFound: there is none.
    """
    row = session.get(TokenRow, (search_id, phase, no), with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound("token", f"{search_id}/{phase}/{no}")
    return row


def live_count(session: Session, search_id: UUID, phase: Phase) -> int:
    """How many tokens of a phase have not ended."""
    query = select(func.count()).where(
        TokenRow.search_id == search_id, TokenRow.phase == phase, TokenRow.state != TokenState.ENDED
    )
    return session.scalars(query).one()


def count_of(session: Session, search_id: UUID, phase: Phase) -> int:
    """How many tokens a phase has had."""
    query = select(func.count()).where(TokenRow.search_id == search_id, TokenRow.phase == phase)
    return session.scalars(query).one()


def steps_taken(session: Session, search_id: UUID, phase: Phase, first_no: int) -> int:
    """How many steps the tokens of a phase from number ``first_no`` on have closed."""
    query = select(func.coalesce(func.sum(TokenRow.step), 0)).where(
        TokenRow.search_id == search_id, TokenRow.phase == phase, TokenRow.no >= first_no
    )
    return session.scalars(query).one()


def live(session: Session) -> Sequence[TokenRow]:
    """Every token that has not ended, unlocked, for the reaper; lock search and token before acting on one."""
    query = (
        select(TokenRow)
        .where(TokenRow.state != TokenState.ENDED)
        .order_by(TokenRow.search_id, TokenRow.phase, TokenRow.no)
    )
    return session.scalars(query).all()


def lock_live_of(session: Session, search_id: UUID) -> Sequence[TokenRow]:
    """The tokens of a search that have not ended, locked."""
    query = (
        select(TokenRow)
        .where(TokenRow.search_id == search_id, TokenRow.state != TokenState.ENDED)
        .order_by(TokenRow.phase, TokenRow.no)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return session.scalars(query).all()


def claim(session: Session, row: TokenRow, worker_id: UUID, batch: dict[str, Any] | None) -> int:
    """Take a token's present step for a worker; the claim number that closing the step must show."""
    row.claim_no += 1
    row.attempts += 1
    row.state = TokenState.RUNNING
    row.worker_id = worker_id
    row.batch = batch
    row.claimed_at = server_time(session)
    return row.claim_no


def advance(row: TokenRow) -> None:
    """Put a token in the queue at its next step; the caller defers the job."""
    row.step += 1
    row.attempts = 0
    _release(row, TokenState.IN_QUEUE)


def hold(row: TokenRow) -> None:
    """Let a token wait, without a job, for something that is not a worker."""
    _release(row, TokenState.HELD)


def requeue(row: TokenRow) -> None:
    """Put a held token, or one whose job was lost, back in the queue at the same step; the caller defers the job."""
    _release(row, TokenState.IN_QUEUE)


def end(row: TokenRow) -> None:
    """No more work for this token."""
    _release(row, TokenState.ENDED)


def _release(row: TokenRow, state: TokenState) -> None:
    row.state = state
    row.worker_id = None
    row.job_id = None
    row.batch = None
