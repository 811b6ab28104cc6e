"""Errors as ``application/problem+json`` (RFC 9457): one table from error to status, type and title."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from asgi_correlation_id import correlation_id
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from search_service.api.paging import InvalidCursor
from search_service.domain import errors
from search_service.domain.errors import FieldProblem, LambdaSearchError
from search_service.storage import codec

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:lambda-search:problem:"
HEADERS = {
    401: {"WWW-Authenticate": 'Bearer realm="lambda-search"'},
    429: {"Retry-After": "30"},
    503: {"Retry-After": "5"},
}
"""What else problems of a status say: which key is asked for, and after how many seconds to try again."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """How an error is answered."""

    status: int
    slug: str
    title: str


INVALID_SPEC = ProblemKind(422, "invalid-spec", "The search spec cannot be run")
INVALID_PARAMETER = ProblemKind(422, "invalid-parameter", "A parameter is not valid")
MALFORMED_JSON = ProblemKind(400, "malformed-json", "The body is not JSON")
INTERNAL_ERROR = ProblemKind(500, "internal-error", "The service failed")

PROBLEMS: dict[type[LambdaSearchError], ProblemKind] = {
    errors.InvalidSpec: INVALID_SPEC,
    errors.UnreadableSpec: INVALID_SPEC,
    errors.InvalidPattern: ProblemKind(422, "invalid-pattern", "This is not a Λ-pattern"),
    errors.DatasetUnavailable: ProblemKind(422, "dataset-unavailable", "The dataset cannot be used"),
    InvalidCursor: INVALID_PARAMETER,
    errors.Unauthenticated: ProblemKind(401, "unauthenticated", "An API key is needed"),
    errors.Forbidden: ProblemKind(403, "forbidden", "The key does not allow this"),
    errors.TooManyQueued: ProblemKind(429, "too-many-queued", "The key has too many searches waiting"),
    errors.VersionChanged: ProblemKind(412, "version-changed", "The search has changed"),
    errors.IdempotencyConflict: ProblemKind(422, "idempotency-conflict", "The idempotency key was used before"),
    errors.NotFound: ProblemKind(404, "not-found", "There is nothing of this name"),
    errors.IllegalMove: ProblemKind(409, "illegal-move", "The search is over"),
    errors.ResultNotReady: ProblemKind(409, "result-not-ready", "The search has no result yet"),
    errors.SearchFailed: ProblemKind(409, "search-failed", "The search failed"),
    errors.SearchCancelled: ProblemKind(409, "search-cancelled", "The search was cancelled"),
    errors.DatabaseUnavailable: ProblemKind(503, "database-unavailable", "The database cannot be used"),
    LambdaSearchError: INTERNAL_ERROR,
}
"""Which problem answers which error; an error that is not listed is answered as its nearest base."""

STATUSES = {
    400: ProblemKind(400, "bad-request", "The request cannot be read"),
    404: ProblemKind(404, "no-such-path", "There is no such path"),
    405: ProblemKind(405, "method-not-allowed", "This path does not take this method"),
    413: ProblemKind(413, "content-too-large", "The body is too large"),
    421: ProblemKind(421, "unknown-host", "This service does not go by that name"),
    415: ProblemKind(415, "unsupported-media-type", "The body must be JSON"),
}
"""Problems that the framework itself finds."""


class ProblemResponse(Response):
    """A problem document."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        kind: ProblemKind,
        detail: str,
        *,
        instance: str,
        fields: Sequence[FieldProblem] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        document: dict[str, Any] = {
            "type": TYPE_PREFIX + kind.slug,
            "title": kind.title,
            "status": kind.status,
            "detail": detail,
            "instance": instance,
        }
        if request_id := correlation_id.get():
            document["request_id"] = request_id
        if fields:
            document["errors"] = [asdict(field) for field in fields]
        # ASCII, since what callers sent and we repeat may hold halves of characters that UTF-8 cannot write.
        super().__init__(json.dumps(document), status_code=kind.status, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Let ``app`` answer every error as a problem."""
    app.add_exception_handler(LambdaSearchError, _deliberate)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _from_framework)
    app.add_exception_handler(Exception, _unexpected)


def kind_of(error: LambdaSearchError) -> ProblemKind:
    """The table's row for an error."""
    return next(PROBLEMS[base] for base in type(error).__mro__ if base in PROBLEMS)


async def _deliberate(request: Request, error: Exception) -> Response:
    assert isinstance(error, LambdaSearchError)
    kind = kind_of(error)
    if kind is INTERNAL_ERROR:
        return await _unexpected(request, error)
    headers = HEADERS.get(kind.status)
    return ProblemResponse(kind, str(error), instance=request.url.path, fields=fields_of(error), headers=headers)


def log_incident(request: Request, error: Exception) -> str:
    """Log an error that nobody expected, and say where to find it."""
    incident = uuid4().hex
    _logger.error("incident %s: %s %s failed", incident, request.method, request.url.path, exc_info=error)
    return f"this is our fault, not yours; the log tells more under incident {incident}"


def fields_of(error: LambdaSearchError) -> Sequence[FieldProblem]:
    """Which fields an error is about, as far as it is about fields."""
    match error:
        case errors.InvalidSpec():
            return [FieldProblem(error.field, error.reason)]
        case errors.UnreadableSpec():
            return error.problems
        case errors.DatasetUnavailable():
            return [FieldProblem("tasks.family", error.reason)]
        case InvalidCursor():
            return [FieldProblem("cursor", str(error))]
        case _:
            return []


async def _unreadable(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = list(error.errors())
    instance = request.url.path
    for problem in found:
        if problem["type"] == "json_invalid":
            reason = problem["ctx"]["error"]
            return ProblemResponse(MALFORMED_JSON, f"{reason} at character {problem['loc'][-1]}", instance=instance)
    kind = INVALID_SPEC if any(problem["loc"][0] == "body" for problem in found) else INVALID_PARAMETER
    # The first part of a location says where it was sent (body, query), which the kind already tells.
    fields = codec.explain([{**problem, "loc": problem["loc"][1:]} for problem in found])
    detail = "; ".join(f"{field.field}: {field.reason}" for field in fields)
    return ProblemResponse(kind, detail, instance=instance, fields=fields)


async def _from_framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    kind = STATUSES.get(error.status_code) or ProblemKind(error.status_code, phrase.lower().replace(" ", "-"), phrase)
    detail = str(error.detail)
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path} is nothing that this service answers"
    return ProblemResponse(kind, detail, instance=request.url.path, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return ProblemResponse(INTERNAL_ERROR, log_incident(request, error), instance=request.url.path)
