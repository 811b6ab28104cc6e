"""The composition root of the API process: settings, database, routes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import anyio.to_thread
from asgi_correlation_id import CorrelationIdMiddleware
from fastapi import Depends, FastAPI
from starlette.types import ASGIApp

from search_service.api import events, health, keys, metrics, problems, reference, searches
from search_service.api.access import caller_of, check_host
from search_service.api.body_limit import BodyLimit
from search_service.api.change_feed import ChangeFeed
from search_service.api.metrics import ApiMetrics
from search_service.api.request_log import UNLOGGED, RequestLog, is_sane_id
from search_service.api.schemas import Problem
from search_service.domain.errors import DatabaseUnavailable
from search_service.pages import routes as pages
from search_service.settings import Settings
from search_service.storage.database import Database

PROTECTED: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No API key that is in force"},
    403: {"model": Problem, "description": "The key does not allow this"},
    421: {"model": Problem, "description": "The service does not go by that name"},
}

THREADS = max(4, 2 * (os.cpu_count() or 1))
"""Requests that are worked on side by side, each on a connection kept open.

They share one interpreter: on two cores 20 clients submit 209 searches a second with 4 threads, 130 with 40.
"""

DESCRIPTION = """\
A model meta-trained with MAML adapts to a new task from a few examples, again and again. A **Λ-pattern** says which
units of the network are updated at which inner step. Submit a search; it finds the fastest Λ-pattern whose quality loss
stays under your threshold, and proves it on tasks the search never saw.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The API as an ASGI application; ``uvicorn --factory search_service.api.app:create_app`` serves it.

    Args:
        settings: read from the environment unless given.

    Raises:
        DatabaseUnavailable: no database is named, or its URL cannot be read.
    """
    settings = settings or Settings()
    if settings.database_url is None:
        raise DatabaseUnavailable(
            "no database is named: set LAMBDA_SEARCH_DATABASE_URL, or let `lambda-search up` start one"
        )
    database = Database(settings.database_url, THREADS)
    feed = ChangeFeed(database.conninfo)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        await feed.start()
        yield
        await feed.stop()
        database.close()

    app = _Api(
        title="Lambda Search",
        version=_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # A span per request where search_service.telemetry set a tracer; FastAPI configures nothing by itself.
        telemetry={
            "auto_configure": False,
            "operation_spans": False,
            "exclude": lambda scope: scope.get("path") in UNLOGGED,
        },
        responses={
            500: {"model": Problem, "description": "The service failed"},
            503: {"model": Problem, "description": "The database does not answer"},
        },
    )
    app.state.settings = settings
    app.state.database = database
    app.state.change_feed = feed
    app.state.metrics = ApiMetrics()
    problems.install(app)
    app.add_middleware(BodyLimit)
    app.include_router(health.router)
    # Before anything else is looked at: under which name, and who asks.
    guarded = [Depends(check_host), Depends(caller_of)]
    for router in (searches.router, events.router, keys.router):
        app.include_router(router, responses=PROTECTED, dependencies=guarded)
    app.include_router(reference.router, dependencies=guarded)
    app.include_router(pages.router)
    # Under any name: Prometheus asks pods by their addresses, with a key, which no foreign page can send.
    app.include_router(metrics.router)
    return app


class _Api(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """What FastAPI builds, and around it, so that answers to its own failures are noted too, the request's id."""
        noted = RequestLog(super().build_middleware_stack(), self.state.metrics)
        return CorrelationIdMiddleware(noted, validator=is_sane_id)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document, whose errors are problems and not what FastAPI takes them for."""
        if self.openapi_schema is None:
            document = super().openapi()
            for path in document["paths"].values():
                for operation in path.values():
                    _describe_problems(operation["responses"])
            for unused in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(unused, None)
            self.openapi_schema = document
        return self.openapi_schema


def _describe_problems(responses: dict[str, Any]) -> None:
    # FastAPI promises a 422 of its own wherever a path has a parameter; a search's id is any text, so there is none.
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for status, response in responses.items():
        if int(status) >= 400:
            response["content"] = {problems.MEDIA_TYPE: response["content"].pop("application/json")}


def _version() -> str:
    try:
        return version("lambda-search")
    except PackageNotFoundError:
        # Run from a checkout that was not installed.
        return "0"
