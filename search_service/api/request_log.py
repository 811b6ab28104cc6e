"""What is noted of every request: its id in each log line, one line when it ends, and its count."""

from __future__ import annotations

import logging
import re
import time

import structlog
from asgi_correlation_id import correlation_id
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_service import telemetry
from search_service.api.metrics import ApiMetrics

UNLOGGED = frozenset({"/livez", "/readyz"})
"""Routes that are asked every few seconds and tell nothing."""
CLIENT_GONE = 499
"""Status noted where whoever asked went away before the answer began."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# The standard library's: it is silent where the application runs inside of something else.
_logger = logging.getLogger(__name__)


def is_sane_id(request_id: str) -> bool:
    """Whether a request's id that came from outside can stand in headers and logs."""
    return _SANE_ID.fullmatch(request_id) is not None


class RequestLog:
    """ASGI middleware; nothing but the one that sets the request's id is outside of it, so it sees every answer.

    Args:
        app: the application.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: ApiMetrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request and note it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status, begun_s = CLIENT_GONE, None

        async def watched(message: Message) -> None:
            nonlocal status, begun_s
            if message["type"] == "http.response.start":
                status, begun_s = message["status"], time.perf_counter() - started
                if search := scope.get("path_params", {}).get("search_id"):
                    telemetry.describe(telemetry.SEARCH, search)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=correlation_id.get()):
            try:
                await self.app(scope, receive, watched)
            finally:
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path_format", None)
                self._metrics.count(scope["method"], route, status, seconds if begun_s is None else begun_s)
                if route not in UNLOGGED:
                    noted = {
                        "method": scope["method"],
                        "route": route,
                        "status": status,
                        "seconds": round(seconds, 4),
                        "key": scope.get("state", {}).get("key_name"),
                    }
                    _logger.info("request", extra=noted)
