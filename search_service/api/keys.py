"""API keys: made, listed and revoked by admins."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Path

from search_service.api.access import Admin, Reader
from search_service.api.context import Db
from search_service.api.schemas import PREFIX, KeyList, KeyView, MadeKey, OwnKey, Problem
from search_service.domain.keys import NewKey
from search_service.storage import keys

router = APIRouter(prefix=f"{PREFIX}/keys", tags=["keys"])

_ABSENT: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such key"}}
_REFUSED: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The body is not JSON"},
    422: {"model": Problem, "description": "A field cannot be what it is"},
}


@router.post("", status_code=201, responses=_REFUSED)
def create_key(new: Annotated[NewKey, Body()], _: Admin, database: Db) -> MadeKey:
    """Make a key. The answer is the only place where it stands: keep it."""
    with database.session() as session:
        row, secret = keys.create(session, new)
        session.refresh(row)
        return MadeKey(key=secret, **KeyView.of(row).model_dump())


@router.get("")
def list_keys(_: Admin, database: Db) -> KeyList:
    """List every key, oldest first; the keys themselves are not stored."""
    with database.session() as session:
        return KeyList(keys=[KeyView.of(row) for row in keys.every(session)])


@router.get("/self")
def own_key(caller: Reader) -> OwnKey:
    """Tell what the key that asks is called, and what it allows."""
    return OwnKey(id=caller.key_id, name=caller.name, scope=caller.scope)


@router.post("/{key_id}:revoke", responses=_ABSENT)
def revoke_key(key_id: Annotated[UUID, Path(description="The key's id.")], _: Admin, database: Db) -> KeyView:
    """Refuse a key from now on. Revoking again changes nothing."""
    with database.session() as session:
        row = keys.revoke(session, key_id)
        session.flush()
        return KeyView.of(row)
