"""Commands that run parts of the service: up, api, worker, dashboard, migrate."""

from __future__ import annotations

import signal
import socket
import sys
import time
from types import FrameType
from typing import Annotated

import typer

from search_service.cli.environment import become, is_installed, read_settings, require
from search_service.cli.exits import Interrupted, interruptible
from search_service.domain.errors import DatabaseUnavailable
from search_service.domain.keys import NewKey, Scope
from search_service.profile import DEFAULT_URL, KEY_FILE

CHECK_INTERVAL = 0.5  # seconds between two looks at the processes
DASHBOARD_PORT = 8080
API_GRACE = 5  # seconds that requests under way get at the end

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of commands that hand their arguments on."""


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API; 0 takes a free one.", show_default="8000")] = None,
    dashboard_port: Annotated[int, typer.Option(help="Port of the dashboard.", min=1)] = DASHBOARD_PORT,
    dashboard: Annotated[bool, typer.Option(help="Whether to start the Optuna dashboard.")] = True,
    workers: Annotated[int, typer.Option(help="How many workers to start.", min=1)] = 1,
) -> None:
    """Run everything on this machine until Ctrl-C: Postgres, API, worker, dashboard.

    Postgres is an embedded one in LAMBDA_SEARCH_HOME, unless LAMBDA_SEARCH_DATABASE_URL names another.
    """
    from search_service.cli.local_stack import StackPlan, local_stack

    settings = read_settings()
    require("worker")
    if dashboard and not is_installed("dashboard"):
        _say("no dashboard: pip install 'lambda-search[dashboard]'")
        dashboard = False
    plan = StackPlan(
        settings=settings,
        logs=settings.home / "logs",
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        workers=workers,
        dashboard_port=dashboard_port if dashboard else None,
    )
    try:
        with interruptible(), local_stack(plan, _say) as stack:
            print(f"report     {stack.url}        documentation of the API {stack.url}/docs")
            print(f"key        {settings.home / KEY_FILE}        lambda-search finds it there; sign in with it")
            if stack.dashboard_url is not None:
                print(f"dashboard  {stack.dashboard_url}")
            print(f"data       {settings.home}        logs {plan.logs}")
            print(f"next       {next_command(stack.url)} submit FILE --watch")
            print("Ctrl-C stops everything.", flush=True)
            while True:
                stack.check()
                time.sleep(CHECK_INTERVAL)
    except Interrupted:
        _say("stopped")


def api(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.", show_default="8000")] = None,
    fd: Annotated[int | None, typer.Option(hidden=True, help="A listening socket that was inherited.")] = None,
) -> None:
    """Run the API until SIGTERM or Ctrl-C."""
    from search_service import logs, telemetry
    from search_service.api.server import api_server

    settings = read_settings()
    logs.configure("api")
    telemetry.start("lambda-search-api")
    server = api_server(
        settings,
        host=settings.host if host is None else host,
        port=settings.port if port is None else port,
        grace_s=API_GRACE,
    )
    # uvicorn shuts down on these and raises them again afterwards.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    server.run(sockets=None if fd is None else [socket.socket(fileno=fd)])


def worker(context: typer.Context) -> None:
    """Run one worker on one device until SIGTERM or Ctrl-C; `worker -- --help` lists its options."""
    require("worker")
    become("workers.runtime", *context.args)


def dashboard(context: typer.Context) -> None:
    """Run the Optuna dashboard until SIGTERM or Ctrl-C; `dashboard -- --help` lists its options."""
    require("dashboard")
    become("workers.dashboard", *context.args)


def migrate() -> None:
    """Bring the database to the schema that this version needs."""
    from search_service.storage.migrate import migrate as bring_up_to_date

    settings = read_settings()
    if settings.database_url is None:
        raise DatabaseUnavailable("no database is named: set LAMBDA_SEARCH_DATABASE_URL to the database to migrate")
    bring_up_to_date(settings.database_url)
    if settings.admin_key is not None:
        _register(settings.database_url, settings.admin_key)
    print("the database is up to date")


def next_command(url: str) -> str:
    """How to call the command line so that it asks this service."""
    return "lambda-search" if url == DEFAULT_URL else f"LAMBDA_SEARCH_URL={url} lambda-search"


def _register(database_url: str, admin_key: str) -> None:
    """Let the key that was chosen outside be an admin's."""
    from contextlib import closing

    from search_service.storage import keys
    from search_service.storage.database import Database

    with closing(Database(database_url)) as database, database.session() as session:
        keys.create(session, NewKey(name="first admin", scope=Scope.ADMIN), admin_key)


def _ended(number: int, frame: FrameType | None) -> None:
    """End as asked, which is a success."""
    sys.exit(0)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
