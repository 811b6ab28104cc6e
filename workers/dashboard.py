"""The Optuna dashboard on the study's storage, behind the service's keys: ``python -m workers.dashboard``.

optuna-dashboard has no login, no Host check, and routes that delete. In front of it stands a gate that asks for a key
or for the session of the report page, lets only admins change anything, and refuses foreign pages: those that point
their own name at this address, and those that make a browser send what it knows. Imports no torch.
"""

from __future__ import annotations

import base64
import signal
import socket
from collections.abc import Iterable, Mapping
from types import FrameType
from typing import Annotated, cast

import optuna_dashboard
import structlog
import typer
import uvicorn
from a2wsgi import WSGIMiddleware
from fastapi.security.utils import get_authorization_scheme_param
from optuna.storages import BaseStorage
from starlette import types as asgi
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from search_service import logs
from search_service.domain.errors import DatabaseUnavailable, Forbidden
from search_service.domain.keys import Scope
from search_service.guard import COOKIE, READING_METHODS, bracketed, check_same_origin, find_key, is_meant
from search_service.settings import ENV_PREFIX, Settings
from search_service.storage.database import Database
from workers.search.study_storage import open_study_storage

ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
CHALLENGE = {"www-authenticate": 'Basic realm="lambda-search: an API key as the password, any name", charset="UTF-8"'}

HEADERS = {"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
"""What browsers are told to refuse: a foreign page that frames this one could lure an admin into a click."""

HTTP_THREADS = 8
SHUTDOWN_TIMEOUT = 5  # seconds that requests under way get to finish
UNUSABLE = 2  # exit status where the dashboard cannot start as told

log = structlog.get_logger(__name__)


class Gate:
    """Lets requests through that a key allows; answers ``/livez`` itself.

    A key comes as ``Authorization: Bearer KEY``, as the password of HTTP's basic login under any name, which browsers
    ask for, or by the session of a browser that signed in on the report page.

    Args:
        app: the ASGI application behind.
        database: where the keys are.
        names: what the dashboard goes by beside the names of this machine for itself; see
            :func:`search_service.guard.is_meant`.
    """

    def __init__(self, app: asgi.ASGIApp, database: Database, names: Iterable[str] = ()) -> None:
        self._app = app
        self._database = database
        self._names = tuple(names)

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"the dashboard speaks HTTP only, not {scope['type']}")

        async def send_guarded(message: asgi.Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = await self._own_answer(Request(scope))
        await (answer or self._app)(scope, receive, send_guarded)

    async def _own_answer(self, request: Request) -> Response | None:
        """What is answered without the dashboard; None where it may answer."""
        reads = request.method in READING_METHODS
        if request.url.path == "/livez" and reads:
            return _say(200, "alive")
        if not is_meant(request, self._names):
            said = request.headers.get("host", "")
            return _say(421, f"the dashboard does not go by the name '{said}': allow it in {ENV_PREFIX}ALLOWED_HOSTS")
        scheme, secret = _sent(request)
        try:
            key = await run_in_threadpool(find_key, self._database, secret, request.cookies.get(COOKIE))
        except DatabaseUnavailable as error:
            return _say(503, str(error), {"retry-after": "5"})
        if key is None:
            return _say(401, "sign in on the report page, or give an API key as the password", CHALLENGE)
        if reads:
            return None
        if not Scope(key.scope).allows(Scope.ADMIN):
            return _say(403, f"key '{key.name}' has scope '{key.scope}': it may look only, '{Scope.ADMIN}' may change")
        if scheme != "bearer":  # which browsers never send by themselves
            try:
                check_same_origin(request)
            except Forbidden as error:
                return _say(403, str(error))
        log.info("study changed", method=request.method, path=request.url.path, key_name=key.name)
        return None


def create_app(storage: BaseStorage, database: Database, names: Iterable[str] = ()) -> Gate:
    """The dashboard as an ASGI application, at ``/``.

    Args:
        storage: Optuna's storage.
        database: where the keys are.
        names: what it goes by beside the names of this machine for itself.
    """
    dashboard = WSGIMiddleware(optuna_dashboard.wsgi(storage), workers=HTTP_THREADS)
    return Gate(cast(asgi.ASGIApp, dashboard), database, names)


cli = typer.Typer(add_completion=False)


@cli.command()
def main(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
) -> None:
    """Show the Optuna studies of every search to holders of a key; only admins change anything."""
    logs.configure("dashboard")
    settings = Settings()
    url = settings.database_url
    if url is None:
        raise _unusable(f"no database: set {ENV_PREFIX}DATABASE_URL to postgresql://user:password@host:port/database")
    try:
        database = Database(url)
        storage = open_study_storage(database)
    except DatabaseUnavailable as error:
        raise _unusable(str(error)) from error
    config = uvicorn.Config(
        create_app(storage, database, {*settings.allowed_hosts, *({host} - ANY_ADDRESS)}),
        host=host,
        port=port,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT,
    )
    # uvicorn shuts down on these and raises them again afterwards.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        _Server(config).run()
    finally:
        storage.engine.dispose()
        database.close()


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            name = "localhost" if self.config.host in ANY_ADDRESS else bracketed(self.config.host)
            typer.echo(f"Optuna dashboard: http://{name}:{port}")


def _sent(request: Request) -> tuple[str, str | None]:
    """How a request carries a key, and the key."""
    scheme, value = get_authorization_scheme_param(request.headers.get("authorization"))
    match scheme.lower():
        case "bearer":
            return "bearer", value
        case "basic":
            try:
                return "basic", base64.b64decode(value, validate=True).decode().partition(":")[2]
            except ValueError:  # what stands there cannot be read
                return "basic", ""
        case other:
            return other, None


def _say(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"{message}\n", status, headers)


def _unusable(reason: str) -> typer.Exit:
    typer.echo(f"the dashboard cannot start: {reason}", err=True)
    return typer.Exit(UNUSABLE)


def _stop(number: int, frame: FrameType | None) -> None:
    """End as asked, which is a success."""
    raise SystemExit(0)


if __name__ == "__main__":
    cli()
