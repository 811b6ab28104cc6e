"""Signing in with an API key, and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.security import APIKeyCookie
from starlette.responses import Response

from search_service.api.context import Db
from search_service.guard import COOKIE, check_same_origin
from search_service.pages import security
from search_service.pages.routing import SIGN_IN, PageRoute, seen
from search_service.pages.templates import page
from search_service.storage import keys
from search_service.storage.keys import SESSION_LIFETIME

MOST_CHARACTERS = 1000  # of a key; ours have 47

router = APIRouter(route_class=PageRoute)

SessionCookie = Annotated[str | None, Depends(APIKeyCookie(name=COOKIE, auto_error=False))]
Next = Annotated[str | None, Query(alias="next")]


@router.get(SIGN_IN)
def ask_for_key(request: Request, wanted: Next = None) -> Response:
    """The form; or, for who comes from a foreign page, a way on that the browser sends its cookie along with."""
    path = security.local_path(wanted)
    if wanted is not None and security.comes_from_elsewhere(request):
        return page(request, "way_on", None, path=path)
    return page(request, "sign_in", None, path=path, refusal=None)


@router.post(SIGN_IN)
def sign_in(
    request: Request,
    database: Db,
    earlier: SessionCookie,
    key: Annotated[str, Form(max_length=MOST_CHARACTERS)] = "",
    wanted: Annotated[str | None, Form(alias="next")] = None,
) -> Response:
    """Open a session on a key. Only our own form may: else a foreign page could sign a browser in with its own key."""
    check_same_origin(request)
    path = security.local_path(wanted)
    with database.session() as session:
        row = keys.find(session, key.strip())
        if row is None:
            refusal = "This key is not in force. Check that all of it was pasted, and that it is not revoked."
            response: Response = page(request, "sign_in", None, 401, path=path, refusal=refusal)
            response.headers["WWW-Authenticate"] = 'Bearer realm="lambda-search"'
            return response
        if earlier is not None:
            keys.close_session(session, earlier)
        secret, _ = keys.open_session(session, row)
    response = seen(path)
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(SESSION_LIFETIME.total_seconds()),
        path="/",
        secure=security.is_secure(request),
        httponly=True,
        samesite="strict",
    )
    return response


@router.post("/sign-out")
def sign_out(request: Request, database: Db, cookie: SessionCookie) -> Response:
    """Close the session; a copy of its cookie opens nothing any more."""
    check_same_origin(request)
    if cookie is not None:
        with database.session() as session:
            keys.close_session(session, cookie)
    response = seen(SIGN_IN)
    response.delete_cookie(COOKIE, path="/", secure=security.is_secure(request), httponly=True, samesite="strict")
    return response
