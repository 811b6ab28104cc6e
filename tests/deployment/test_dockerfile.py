"""The images: what each installs, whom it runs as, and that its healthcheck tells well from ill."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

IMAGES = ["service", "dashboard", "worker"]
EXTRAS = {"service": set(), "dashboard": {"dashboard"}, "worker": {"worker"}}
STALE_S = 60.0
"""Age of a heartbeat file that is surely too old."""


def healthcheck(stages: dict[str, Any], image: str) -> list[str]:
    """The healthcheck's command, with this interpreter in place of the image's."""
    (check,) = stages[image].values("HEALTHCHECK")
    executable, *arguments = json.loads(check.partition("CMD ")[2])
    assert executable == "python"
    return [sys.executable, *arguments]


def is_healthy(command: list[str], **environment: str) -> bool:
    run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=30)
    return run.returncode == 0


@contextmanager
def server_answering(status: int) -> Iterator[int]:
    """A web server that answers every GET with this status; gives its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_every_stage_starts_from_the_base_image_or_another_stage(stages: dict[str, Any]) -> None:
    for stage in stages.values():
        assert stage.base == "${BASE_IMAGE}" or stage.base in stages, stage.name


@pytest.mark.parametrize("image", IMAGES)
def test_images_do_not_run_as_root(stages: dict[str, Any], image: str) -> None:
    user = stages[image].values("USER")[-1]
    assert user not in {"root", "0"}
    (account,) = [value for value in stages["runtime"].values("RUN") if "useradd" in value]
    assert f"--uid {user} " in account


@pytest.mark.parametrize("image", IMAGES)
def test_images_install_the_extras_they_need_and_no_others(stages: dict[str, Any], image: str) -> None:
    (packages,) = [value for value in stages[image].values("COPY") if value.startswith("--from=")]
    builder = stages[packages.removeprefix("--from=").split()[0]]
    (install,) = [value for value in builder.values("RUN") if "/wheels/*.whl" in value]
    assert "-c constraints.txt" in install
    extras = re.findall(r"\[([a-z,]+)\]", install)
    assert {extra for group in extras for extra in group.split(",")} == EXTRAS[image]
    mentions_torch = any(re.search(r"\btorch\b", value) for value in builder.values("RUN"))
    assert mentions_torch == (image == "worker")


def test_the_worker_has_a_compiler(stages: dict[str, Any]) -> None:
    assert any("g++" in value for value in stages["worker"].values("RUN"))
    assert not any("g++" in value for image in ("service", "dashboard") for value in stages[image].values("RUN"))


@pytest.mark.parametrize("image", ["service", "dashboard"])
@pytest.mark.parametrize(("status", "healthy"), [(200, True), (401, None), (503, False)])
def test_http_healthchecks(stages: dict[str, Any], image: str, status: int, healthy: bool | None) -> None:
    (own_port,) = stages[image].values("EXPOSE")
    if healthy is None:  # asking for a key: well for the dashboard, but /livez asks for none
        healthy = image == "dashboard"
    with server_answering(status) as port:
        command = [part.replace(own_port, str(port)) for part in healthcheck(stages, image)]
        assert is_healthy(command) == healthy
    assert not is_healthy(command), "nobody listens there any more"


def test_the_worker_is_well_while_its_heartbeat_is_fresh(stages: dict[str, Any], tmp_path: Path) -> None:
    command = healthcheck(stages, "worker")
    heartbeat = tmp_path / "heartbeat"
    assert not is_healthy(command, LAMBDA_SEARCH_HEARTBEAT_FILE=str(heartbeat)), "never written"
    heartbeat.touch()
    assert is_healthy(command, LAMBDA_SEARCH_HEARTBEAT_FILE=str(heartbeat))
    long_ago = time.time() - STALE_S
    os.utime(heartbeat, (long_ago, long_ago))
    assert not is_healthy(command, LAMBDA_SEARCH_HEARTBEAT_FILE=str(heartbeat))
