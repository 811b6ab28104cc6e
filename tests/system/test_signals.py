"""SIGTERM ends every process soon, in good order and with exit code 0, whatever it is doing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse

from search_service.cli.serve import API_GRACE
from search_service.domain.keys import NewKey
from search_service.storage import keys, tokens
from tests.system.conftest import Stack, small_spec, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SOON = 4.0  # seconds; less than API_GRACE, so that nothing was cut off
assert SOON < API_GRACE


class Api:
    """An API process and its log."""

    def __init__(self, stack: Stack) -> None:
        self.log = stack.home / "api.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "search_service.cli", "api", "--port", "0"],
                env=stack.environment(),
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: "http://127.0.0.1:" in self.log.read_text(), "the API to say its address")
        port = self.log.read_text().split("http://127.0.0.1:", 1)[1].split()[0]
        with stack.database.session() as session:
            _, self.key = keys.create(session, NewKey(name="tests"))
        self.url = f"http://127.0.0.1:{port}"

    def client(self) -> httpx.Client:
        """A client that sends a key."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=20)

    def lines(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def api(stack: Stack) -> Iterator[Api]:
    api = Api(stack)
    yield api
    if api.process.poll() is None:
        api.process.kill()
        api.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_api_ends_soon_though_a_stream_is_open(stack: Stack, api: Api, number: signal.Signals) -> None:
    search = stack.submit(small_spec())
    kinds: list[str] = []
    with api.client() as client, connect_sse(client, "GET", f"/v1/searches/{search}/events") as source:
        asked_at = 0.0
        # Were the stream cut off, this would raise httpx.RemoteProtocolError.
        for event in source.iter_sse():
            kinds.append(event.event)
            if event.event == "progress":
                asked_at = time.monotonic()
                api.process.send_signal(number)
    assert "submitted" in kinds
    assert api.process.wait(20) == 0
    assert time.monotonic() - asked_at < SOON
    # Every line is JSON, and none complains.
    lines = api.lines()
    assert {line["level"] for line in lines} == {"info"}
    (ended,) = [line for line in lines if line["event"] == "request"]
    assert ended["route"] == "/v1/searches/{search_id}/events"
    assert ended["status"] == 200
    assert ended["key"] == "tests"


def test_a_worker_gives_its_step_back(stack: Stack) -> None:
    worker = stack.start_worker()
    endless = small_spec(meta_training={"iterations": 1_000_000, "inner_steps": 2, "inner_rate": 0.001})
    search = stack.submit(endless)
    wait_until(lambda: bool(stack.search(search).progress.get("done")), f"training; {stack.logs()}")
    assert worker.stop() == 0, stack.logs()
    with stack.database.session() as session:
        assert [token.state for token in tokens.live(session)] == ["in_queue"]


def test_up_stops_everything_it_started(database_url: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "LAMBDA_SEARCH_DATABASE_URL": database_url,
        "LAMBDA_SEARCH_HOME": str(tmp_path),
        "LAMBDA_SEARCH_LOCK_DIR": str(tmp_path / "locks"),
    }
    command = [sys.executable, "-m", "search_service.cli", "up", "--port", "0", "--no-dashboard"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as up:
        assert up.stdout is not None
        said = next(line for line in up.stdout if line.startswith("report"))
        url = said.split()[1]
        assert httpx.get(f"{url}/livez").status_code == 200
        up.terminate()
        assert up.wait(30) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/livez")
    for name in ("api", "worker-1"):
        lines = [json.loads(line) for line in (tmp_path / "logs" / f"{name}.log").read_text().splitlines()]
        assert lines, name
        assert {line["level"] for line in lines} <= {"info"}, lines
