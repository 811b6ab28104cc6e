"""Who asks, and whether they may: API keys and sessions of browsers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from search_service.api.context import AppSettings, Db
from search_service.domain.errors import Forbidden, Unauthenticated
from search_service.domain.keys import DEFAULT_MAX_QUEUED, Scope
from search_service.guard import COOKIE, check_same_origin, find_key, is_meant
from search_service.storage.tables import ApiKeyRow, SearchRow

_bearer = HTTPBearer(auto_error=False, description="An API key: `lambda-search keys create`.")
_cookie = APIKeyCookie(name=COOKIE, auto_error=False, description="A browser's session, from `/sign-in`.")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    key_id: UUID
    name: str
    scope: Scope
    max_queued: int

    @classmethod
    def of(cls, row: ApiKeyRow) -> Caller:
        """Whoever holds a key."""
        return cls(row.id, row.name, Scope(row.scope), row.max_queued or DEFAULT_MAX_QUEUED)

    def check_may_move(self, search: SearchRow) -> None:
        """Refuse to let a key move another one's search, unless it is an admin's.

        Raises:
            Forbidden: it is another one's.
        """
        if search.key_id != self.key_id and not self.scope.allows(Scope.ADMIN):
            raise Forbidden(f"search {search.id} was submitted with another key; only an admin's key may move it")


def caller_of(
    request: Request,
    database: Db,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    cookie: Annotated[str | None, Depends(_cookie)],
) -> Caller:
    """Whoever asks, by key or by session.

    Raises:
        Unauthenticated: no key, or none that is in force.
        Forbidden: a session is used from a foreign page.
    """
    row = find_key(database, None if bearer is None else bearer.credentials, cookie)
    if row is None:
        raise Unauthenticated("send an API key that is in force: `Authorization: Bearer KEY`, or sign in at /sign-in")
    if bearer is None:
        check_same_origin(request)
    request.state.key_name = row.name  # for the log
    return Caller.of(row)


def _needs(scope: Scope) -> Callable[[Caller], Caller]:
    def allowed(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
        if not caller.scope.allows(scope):
            raise Forbidden(f"key '{caller.name}' has scope '{caller.scope}', this needs '{scope}'")
        return caller

    return allowed


async def check_host(request: Request, settings: AppSettings) -> None:
    """Refuse requests under a name that this service does not go by.

    Raises:
        HTTPException: 421, it does not.
    """
    if not is_meant(request, settings.allowed_hosts):
        said = request.headers.get("host", "")
        raise HTTPException(
            421, f"this service does not go by the name '{said}': allow it in LAMBDA_SEARCH_ALLOWED_HOSTS"
        )


Reader = Annotated[Caller, Depends(_needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(_needs(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(_needs(Scope.ADMIN))]
