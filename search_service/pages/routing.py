"""Routes that answer browsers: errors are pages, whoever is not signed in is led there, and every answer is guarded."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from search_service.api import problems
from search_service.domain.errors import FieldProblem, LambdaSearchError, Unauthenticated
from search_service.guard import READING_METHODS
from search_service.pages import security
from search_service.pages.templates import page
from search_service.storage import codec

SIGN_IN = "/sign-in"
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Handler:
        """The route's handler."""
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                response = await answer(request)
            except Unauthenticated as error:
                response = _ask_to_sign_in(request, error)
            except Exception as error:
                response = _problem(request, error)
            for name, value in security.HEADERS.items():
                response.headers.setdefault(name, value)
            return response

        return guarded


def seen(path: str) -> RedirectResponse:
    """Leads a browser on after a form was sent: loading the next page again sends nothing again."""
    return RedirectResponse(path, 303)


def _ask_to_sign_in(request: Request, error: Unauthenticated) -> Response:
    if request.method not in READING_METHODS or "authorization" in request.headers:
        # What was typed would be lost on the way to the form.
        return _problem(request, error)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return seen(f"{SIGN_IN}?{urlencode({'next': wanted})}")


def _problem(request: Request, error: Exception) -> Response:
    kind, detail, fields = _described(request, error)
    response = page(request, "problem", None, kind.status, title=kind.title, detail=detail, fields=fields, kind=kind)
    response.headers.update(problems.HEADERS.get(kind.status, {}))
    return response


def _described(request: Request, error: Exception) -> tuple[problems.ProblemKind, str, list[FieldProblem]]:
    if isinstance(error, LambdaSearchError):
        kind = problems.kind_of(error)
        if kind is not problems.INTERNAL_ERROR:
            return kind, str(error), []
    if isinstance(error, RequestValidationError):
        found = [{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]
        return problems.INVALID_PARAMETER, "", codec.explain(found, whole="request")
    if isinstance(error, HTTPException):
        fallback = problems.ProblemKind(error.status_code, "refused", "The request cannot be answered")
        return problems.STATUSES.get(error.status_code, fallback), str(error.detail), []
    return problems.INTERNAL_ERROR, problems.log_incident(request, error), []
