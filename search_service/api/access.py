"""Who asks, and whether they may: API keys, sessions of browsers, and the names that this service goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from search_service.api.context import AppSettings, Db
from search_service.domain.errors import Forbidden, Unauthenticated
from search_service.domain.keys import DEFAULT_MAX_QUEUED, Scope
from search_service.storage import keys
from search_service.storage.tables import ApiKeyRow, SearchRow

COOKIE = "lambda_search_session"
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})

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
    caller = find_caller(request, database, bearer, cookie)
    if caller is None:
        raise Unauthenticated("send an API key that is in force: `Authorization: Bearer KEY`, or sign in at /sign-in")
    return caller


def find_caller(
    request: Request, database: Db, bearer: HTTPAuthorizationCredentials | None, cookie: str | None
) -> Caller | None:
    """Whoever asks, if it is anybody."""
    if bearer is None and cookie is None:
        return None
    with database.reading() as session:
        if bearer is not None:
            row = keys.find(session, bearer.credentials)
        else:
            row = keys.of_session(session, cookie or "")
            if row is not None:
                check_same_origin(request)
        if row is not None:
            request.state.key_name = row.name  # for the log
        return None if row is None else Caller.of(row)


def check_same_origin(request: Request) -> None:
    """Refuse what a foreign page makes a signed-in browser send.

    Raises:
        Forbidden: the request changes something and does not come from a page of this service.
    """
    if request.method in READING_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    is_own = urlsplit(origin).netloc == request.headers.get("host") if origin else site in ("same-origin", "none")
    if not is_own or site in ("cross-site", "same-site"):
        raise Forbidden("a browser's session may change things from this service's own pages only")


def _needs(scope: Scope) -> Callable[[Caller], Caller]:
    def allowed(caller: Annotated[Caller, Depends(caller_of)]) -> Caller:
        if not caller.scope.allows(scope):
            raise Forbidden(f"key '{caller.name}' has scope '{caller.scope}', this needs '{scope}'")
        return caller

    return allowed


async def check_host(request: Request, settings: AppSettings) -> None:
    """Refuse requests under a name that this service does not go by: a foreign page may point its own at this address.

    Raises:
        HTTPException: 421, it does not.
    """
    names = LOCAL_HOSTS | {name.lower() for name in settings.allowed_hosts}
    hosts = request.headers.getlist("host")
    if "*" not in names and (len(hosts) != 1 or _without_port(hosts[0]) not in names):
        said = hosts[0] if hosts else ""
        raise HTTPException(
            421, f"this service does not go by the name '{said}': allow it in LAMBDA_SEARCH_ALLOWED_HOSTS"
        )


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and (not port or port.isdigit()) else host).lower()


Reader = Annotated[Caller, Depends(_needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(_needs(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(_needs(Scope.ADMIN))]
