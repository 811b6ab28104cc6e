"""API keys and the sessions of browsers that signed in with one. Never commits.

A key is 32 random bytes and is stored as its SHA-256 only: there is nothing to guess, so no slow hash is needed, and
whoever reads the table cannot use what stands there.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from search_service.domain.errors import NotFound
from search_service.domain.keys import NewKey
from search_service.storage.database import server_time
from search_service.storage.tables import ApiKeyRow, SessionRow

PREFIX = "lsk_"
"""Of every key, so that one in the wrong place is recognised."""
SHOWN = len(PREFIX) + 6
"""Characters of a key that are kept to tell it from others."""
SEEN_INTERVAL = timedelta(minutes=1)
"""How exact ``last_used_at`` is: it is written no more often."""
SESSION_LIFETIME = timedelta(days=7)


def create(session: Session, new: NewKey, secret: str | None = None) -> tuple[ApiKeyRow, str]:
    """Make a key.

    Args:
        session: where to store it.
        new: what it allows.
        secret: the key itself, where it was chosen elsewhere; an existing key with it is returned as it is.

    Returns:
        The row, and the key itself, which is not stored.
    """
    secret = secret or PREFIX + secrets.token_urlsafe(32)
    values = {
        "id": uuid4(),
        "name": new.name,
        "scope": new.scope,
        "shown": secret[:SHOWN],
        "digest": digest(secret),
        "expires_at": new.expires_at,
        "max_queued": new.max_queued,
        "max_running": new.max_running,
    }
    session.execute(insert(ApiKeyRow).values(values).on_conflict_do_nothing(index_elements=["digest"]))
    row = session.scalars(select(ApiKeyRow).where(ApiKeyRow.digest == values["digest"])).one()
    return row, secret


def find(session: Session, secret: str) -> ApiKeyRow | None:
    """The key, if it is one that is in force."""
    return _in_force(session, ApiKeyRow.digest == digest(secret))


def get(session: Session, key_id: UUID) -> ApiKeyRow:
    """A key by its id.

    Raises:
        NotFound: there is none.
    """
    row = session.get(ApiKeyRow, key_id)
    if row is None:
        raise NotFound("key", str(key_id))
    return row


def every(session: Session) -> Sequence[ApiKeyRow]:
    """All keys that a person may hold, oldest first."""
    return session.scalars(select(ApiKeyRow).where(ApiKeyRow.digest != "").order_by(ApiKeyRow.created_at)).all()


def revoke(session: Session, key_id: UUID) -> ApiKeyRow:
    """Refuse a key from now on, and end its sessions. Revoking again changes nothing.

    Raises:
        NotFound: there is none.
    """
    row = get(session, key_id)
    if not row.digest:
        raise NotFound("key", str(key_id))
    if row.revoked_at is None:
        row.revoked_at = server_time(session)
    session.execute(delete(SessionRow).where(SessionRow.key_id == key_id))
    return row


def open_session(session: Session, key: ApiKeyRow) -> tuple[str, datetime]:
    """A browser's session on a key: its secret, which is not stored, and when it ends."""
    secret = secrets.token_urlsafe(32)
    now = server_time(session)
    session.execute(delete(SessionRow).where(SessionRow.expires_at < now))
    session.add(SessionRow(digest=digest(secret), key_id=key.id, expires_at=now + SESSION_LIFETIME))
    return secret, now + SESSION_LIFETIME


def of_session(session: Session, secret: str) -> ApiKeyRow | None:
    """The key that a browser's session was opened with, if both are in force."""
    owner = (
        select(SessionRow.key_id)
        .where(SessionRow.digest == digest(secret), SessionRow.expires_at > func.now())
        .scalar_subquery()
    )
    return _in_force(session, ApiKeyRow.id == owner)


def close_session(session: Session, secret: str) -> None:
    """End a browser's session."""
    session.execute(delete(SessionRow).where(SessionRow.digest == digest(secret)))


def digest(secret: str) -> str:
    """SHA-256 of a key or of a session's secret, as hexadecimal text."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _in_force(session: Session, condition: ColumnElement[bool]) -> ApiKeyRow | None:
    now = func.now()
    query = select(ApiKeyRow).where(
        condition,
        ApiKeyRow.digest != "",
        ApiKeyRow.revoked_at.is_(None),
        or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
    )
    row = session.scalars(query).one_or_none()
    if row is not None and _is_long_unseen(session, row):
        session.execute(update(ApiKeyRow).where(ApiKeyRow.id == row.id).values(last_used_at=now))
    return row


def _is_long_unseen(session: Session, row: ApiKeyRow) -> bool:
    if row.last_used_at is None:
        return True
    return datetime.now(row.last_used_at.tzinfo) - row.last_used_at > SEEN_INTERVAL
