"""The Optuna dashboard on the study's storage, for looking only: ``python -m workers.dashboard``.

optuna-dashboard has no login, no Host check, and routes that delete. In front of it stands a gate that lets reading
requests through, and only those that name this host: a foreign page that points its own name at this address is
refused. Imports no torch.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable
from types import FrameType
from typing import Annotated

import optuna_dashboard
import typer
import uvicorn
from a2wsgi import WSGIMiddleware
from a2wsgi.asgi_typing import ASGIApp, Receive, Scope, Send
from optuna.storages import BaseStorage

from search_service import logs
from search_service.domain.errors import DatabaseUnavailable
from search_service.settings import ENV_PREFIX, Settings
from search_service.storage.database import Database
from workers.search.study import open_study_storage

READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})

HTTP_THREADS = 8
SHUTDOWN_TIMEOUT = 5  # seconds that requests under way get to finish
UNUSABLE = 2  # exit status where the dashboard cannot start as told


class Gate:
    """Lets requests through that only read and that name an allowed host; answers ``/livez`` itself.

    Args:
        app: the ASGI application behind.
        allowed_hosts: what a Host header may name, without port; IPv6 addresses in brackets.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str]) -> None:
        self._app = app
        self._allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            raise NotImplementedError(f"the dashboard speaks HTTP only, not {scope['type']}")
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if scope["path"] == "/livez" and scope["method"] in READING_METHODS:
            await _answer(send, 200, "alive")
        elif len(hosts) != 1:
            await _answer(send, 400, "a request must have one Host header")
        elif _host_name(hosts[0]) not in self._allowed_hosts:
            await _answer(
                send,
                421,
                f"'{hosts[0]}' is not a name of this dashboard; allow it with --allowed-host where it should be",
            )
        elif scope["method"] not in READING_METHODS:
            await _answer(
                send,
                405,
                f"the dashboard only shows; {scope['method']} is refused",
                [(b"allow", ", ".join(sorted(READING_METHODS)).encode())],
            )
        else:
            await self._app(scope, receive, send)


def create_app(storage: BaseStorage, allowed_hosts: Iterable[str] = ()) -> Gate:
    """The dashboard as an ASGI application, at ``/``.

    Args:
        storage: Optuna's storage.
        allowed_hosts: what a Host header may name beside the names of this machine for itself.
    """
    dashboard = WSGIMiddleware(optuna_dashboard.wsgi(storage), workers=HTTP_THREADS)
    return Gate(dashboard, LOCAL_HOSTS | {_bracketed(host) for host in allowed_hosts})


cli = typer.Typer(add_completion=False)


@cli.command()
def main(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help="A name under which browsers may ask, beside localhost and --host; may be repeated."),
    ] = None,
) -> None:
    """Show the Optuna studies of every search, for looking only."""
    logs.configure("dashboard")
    url = Settings().database_url
    if url is None:
        raise _unusable(f"no database: set {ENV_PREFIX}DATABASE_URL to postgresql://user:password@host:port/database")
    try:
        database = Database(url)
        storage = open_study_storage(database)
    except DatabaseUnavailable as error:
        raise _unusable(str(error)) from error
    names = {*(allowed_host or ()), *({host} - ANY_ADDRESS)}
    config = uvicorn.Config(
        create_app(storage, names),
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
            name = "localhost" if self.config.host in ANY_ADDRESS else _bracketed(self.config.host)
            typer.echo(f"Optuna dashboard: http://{name}:{port}")


async def _answer(send: Send, status: int, message: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    body = f"{message}\n".encode()
    described = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*described, *headers]})
    await send({"type": "http.response.body", "body": body})


def _host_name(header: str) -> str:
    """A Host header without its port."""
    name, colon, port = header.rpartition(":")
    return (name if colon and (not port or port.isdigit()) else header).lower()


def _bracketed(host: str) -> str:
    """A host as URLs and Host headers write it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _unusable(reason: str) -> typer.Exit:
    typer.echo(f"the dashboard cannot start: {reason}", err=True)
    return typer.Exit(UNUSABLE)


def _stop(number: int, frame: FrameType | None) -> None:
    """End as asked, which is a success."""
    raise SystemExit(0)


if __name__ == "__main__":
    cli()
