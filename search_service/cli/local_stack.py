"""The whole service on this machine: Postgres, API, workers and dashboard, started and stopped in order.

with local_stack(StackPlan(settings=Settings(), workers=1, port=0), print) as stack:
    Client(stack.url).submit(...)
    stack.check()  # now and then: raises when a process has died
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx

from search_service.cli.postgres_keeper import kept_postgres
from search_service.cli.processes import Child, module_command, module_environment, quoted_end, stop_all
from search_service.client import Client
from search_service.domain.errors import LambdaSearchError
from search_service.domain.keys import NewKey, Scope
from search_service.profile import KEY_FILE, read_local_key
from search_service.settings import ENV_PREFIX, Settings
from search_service.storage import keys, workers
from search_service.storage.database import Database
from search_service.storage.migrate import migrate

API_LIMIT = 30.0  # seconds until the API is ready
WORKER_LIMIT = 60.0  # seconds until every worker has announced itself
DASHBOARD_LIMIT = 30.0  # seconds until the dashboard answers
POLL_INTERVAL = 0.1  # seconds
BACKLOG = 2048  # connections that wait while the API starts

Say = Callable[[str], None]


class PortTaken(LambdaSearchError):
    """Something else listens on the port."""

    def __init__(self, host: str, port: int, reason: str) -> None:
        self.host = host
        self.port = port
        super().__init__(f"port {port} on {host} cannot be used ({reason}): free it, or choose another")


class NotReady(LambdaSearchError):
    """A process runs but does not get ready."""

    def __init__(self, name: str, limit_s: float, log: Path, hint: str = "") -> None:
        self.name = name
        self.limit_s = limit_s
        super().__init__(f"the {name} has not become ready within {limit_s:.0f} s{hint}; {quoted_end(log)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StackPlan:
    """What to start, and where."""

    settings: Settings
    """What every process is told; without a database, an embedded Postgres is started in ``home``."""
    logs: Path
    """Folder of the processes' output."""
    host: str = "127.0.0.1"
    port: int = 0
    """Port of the API; 0 takes a free one."""
    workers: int = 1
    dashboard_port: int | None = None
    """Port of the dashboard; None starts none."""
    remove_home: bool = False
    """Whether ``home`` goes once the embedded Postgres has stopped."""


class LocalStack:
    """The processes that run, and where they answer."""

    def __init__(self, url: str, key: str, database_url: str, dashboard_url: str | None) -> None:
        self.url = url
        self.key = key
        self.database_url = database_url
        self.dashboard_url = dashboard_url
        self.children: list[Child] = []

    def check(self) -> None:
        """Raise if a process has ended.

        Raises:
            ChildDied: one has; the message shows the end of its log.
        """
        for child in self.children:
            child.check()


@contextmanager
def local_stack(plan: StackPlan, say: Say) -> Iterator[LocalStack]:
    """Start everything, wait until all of it is ready, and stop it in the opposite order at the end.

    Call it from the main thread: children die with the thread that starts them.

    Args:
        plan: what to start.
        say: told what is going on, in one line each.

    Raises:
        DatabaseUnavailable: Postgres does not start or answer.
        PortTaken: the API's or the dashboard's port is in use.
        ChildDied: a process ended while it started.
        NotReady: a process does not get ready.
    """
    with ExitStack() as running:
        listening = running.enter_context(closing(_listen(plan.host, plan.port)))
        port: int = listening.getsockname()[1]
        if plan.dashboard_port is not None:
            _listen(plan.host, plan.dashboard_port).close()
        database_url = running.enter_context(_database(plan, say))
        dashboard_url = None if plan.dashboard_port is None else _url(plan.host, plan.dashboard_port)
        settings = plan.settings.model_copy(update={"database_url": database_url, "dashboard_url": dashboard_url})
        migrate(database_url)
        stack = LocalStack(
            url=_url(plan.host, port),
            key=local_key(database_url, settings.home / KEY_FILE),
            database_url=database_url,
            dashboard_url=dashboard_url,
        )
        environment = _environment(settings)
        database = running.enter_context(closing(Database(database_url)))
        earlier = _announced(database)
        say(f"starting the API and {_count(plan.workers, 'worker')}")
        stack.children += _start(running, [_api(plan, listening, port, environment)])
        listening.close()
        members = [_worker(plan, number, environment) for number in range(1, plan.workers + 1)]
        if plan.dashboard_port is not None:
            members.append(_dashboard(plan, plan.dashboard_port, environment))
        stack.children += _start(running, members)

        _wait_for_api(stack)
        if stack.dashboard_url is not None:
            _wait_for_dashboard(stack, stack.dashboard_url)
        _wait_for_workers(stack, database, earlier, plan.workers)
        running.callback(say, "stopping")
        yield stack


def local_key(database_url: str, file: Path) -> str:
    """The key of whoever runs this, an admin's: kept in a file that only they can read, made if it is not there."""
    secret = read_local_key(file)
    with closing(Database(database_url)) as database, database.session() as session:
        row, secret = keys.create(session, NewKey(name="local user", scope=Scope.ADMIN), secret)
        if row.revoked_at is not None:
            _, secret = keys.create(session, NewKey(name="local user", scope=Scope.ADMIN))
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(secret + "\n")
    return secret


def _start(running: ExitStack, starters: list[Callable[[], Child]]) -> list[Child]:
    """Start processes that will be stopped side by side."""
    children: list[Child] = []
    running.callback(lambda: stop_all(children))
    for starter in starters:
        children.append(starter())
    return children


def _api(plan: StackPlan, listening: socket.socket, port: int, environment: dict[str, str]) -> Callable[[], Child]:
    descriptor = str(listening.fileno())
    # It inherits the socket that is already bound, so nobody can take the port in between.
    arguments = ["api", "--host", plan.host, "--port", str(port), "--fd", descriptor]
    command = module_command("search_service.cli", *arguments)
    return lambda: Child("API", command, environment, plan.logs / "api.log", pass_fds=[listening.fileno()])


def _worker(plan: StackPlan, number: int, environment: dict[str, str]) -> Callable[[], Child]:
    name = "worker" if plan.workers == 1 else f"worker {number}"
    arguments = []
    if plan.workers > 1 and plan.settings.threads is None:
        arguments = ["--threads", str(max(1, _cores() // plan.workers))]
    command = module_command("workers.runtime", *arguments)
    return lambda: Child(name, command, environment, plan.logs / f"worker-{number}.log")


def _dashboard(plan: StackPlan, port: int, environment: dict[str, str]) -> Callable[[], Child]:
    command = module_command("workers.dashboard", "--host", plan.host, "--port", str(port))
    return lambda: Child("dashboard", command, environment, plan.logs / "dashboard.log")


@contextmanager
def _database(plan: StackPlan, say: Say) -> Iterator[str]:
    if plan.settings.database_url is not None:
        yield plan.settings.database_url
        return
    say("starting Postgres")
    home = plan.settings.home
    with kept_postgres(
        home / "postgres", plan.logs / "postgres-keeper.log", home if plan.remove_home else None
    ) as database_url:
        yield database_url


def _environment(settings: Settings) -> dict[str, str]:
    """Every setting written out, so that all processes agree wherever each default would come from."""
    told = settings.model_dump(mode="json", exclude_none=True, exclude={"key", "admin_key"})
    settings_environment = {
        f"{ENV_PREFIX}{name.upper()}": value if isinstance(value, str) else json.dumps(value)
        for name, value in told.items()
    }
    return module_environment({**os.environ, **settings_environment, "PYTHONUNBUFFERED": "1"})


def _wait_for_api(stack: LocalStack) -> None:
    with Client(stack.url) as client:
        _wait(client.is_ready, stack, "API", API_LIMIT)


def _wait_for_dashboard(stack: LocalStack, url: str) -> None:
    def answers() -> bool:
        try:
            return httpx.get(url, timeout=2.0, trust_env=False).status_code < 500
        except httpx.TransportError:
            return False

    _wait(answers, stack, "dashboard", DASHBOARD_LIMIT)


def _wait_for_workers(stack: LocalStack, database: Database, earlier: set[UUID], count: int) -> None:
    # A device computes for as many workers as it has room for; one more waits until another ends.
    hint = " (does another worker on this machine hold the device?)"
    _wait(lambda: len(_announced(database) - earlier) >= count, stack, "worker", WORKER_LIMIT, hint)


def _wait(condition: Callable[[], bool], stack: LocalStack, name: str, limit: float, hint: str = "") -> None:
    deadline = time.monotonic() + limit
    while not condition():
        stack.check()
        if time.monotonic() > deadline:
            child = next(child for child in stack.children if child.name.startswith(name))
            raise NotReady(child.name, limit, child.log, hint)
        time.sleep(POLL_INTERVAL)


def _announced(database: Database) -> set[UUID]:
    with database.session() as session:
        return {worker.id for worker in workers.announced(session)}


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortTaken(host, port, error.strerror or str(error)) from error


def _url(host: str, port: int) -> str:
    """Where this machine itself reaches what listens on ``host``."""
    reached = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
