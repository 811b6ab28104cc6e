"""Processes that the command line starts: they end when told, and with their parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from search_service.cli.exits import Interrupted, interruptible
from search_service.cli.local_stack import PortTaken, StackPlan, local_stack
from search_service.cli.processes import Child, ChildDied, module_environment, stop_all
from search_service.settings import Settings

SLEEP = "import time; print('here', flush=True); time.sleep(60)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def until(condition: Callable[[], bool], limit: float = 20.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.02)


def python(script: str, tmp_path: Path) -> Child:
    child = Child("sleeper", [sys.executable, "-c", script], os.environ, tmp_path / "logs" / "child.log")
    until(lambda: not child.is_running or "here" in child.log.read_text())
    return child


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder that the server's own user can walk to; pytest's cannot be, under root."""
    with tempfile.TemporaryDirectory(prefix="lambda-search-tests-") as folder:
        yield Path(folder)


def test_a_child_that_dies_is_explained(tmp_path: Path) -> None:
    child = python("print('here'); print('it was the butler'); raise SystemExit(3)", tmp_path)
    until(lambda: not child.is_running)
    with pytest.raises(ChildDied, match="the sleeper ended with exit code 3") as caught:
        child.check()
    assert "it was the butler" in str(caught.value)
    assert str(child.log) in str(caught.value)


def test_a_child_that_was_killed_is_explained(tmp_path: Path) -> None:
    child = python(SLEEP, tmp_path)
    child.check()
    os.kill(child.pid, signal.SIGKILL)
    until(lambda: not child.is_running)
    with pytest.raises(ChildDied, match="was killed by SIGKILL"):
        child.check()


def test_children_stop_when_asked_and_are_killed_when_deaf(tmp_path: Path) -> None:
    children = [python(SLEEP, tmp_path / "a"), python(DEAF, tmp_path / "b")]
    began = time.monotonic()
    stop_all(children, grace=0.5)
    assert not any(child.is_running for child in children)
    assert 0.4 < time.monotonic() - began < 5
    stop_all(children)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_a_killed_parent_takes_its_children_along(tmp_path: Path) -> None:
    script = f"""
import os, sys, time
from pathlib import Path
from search_service.cli.processes import Child
child = Child("c", [sys.executable, "-c", {DEAF!r}], os.environ, Path({str(tmp_path / "log")!r}))
print(child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=module_environment()
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    until(lambda: "here" in (tmp_path / "log").read_text())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_a_killed_parent_leaves_no_postgres_and_no_folder(short_folder: Path) -> None:
    home = short_folder / "home"
    script = f"""
import time
from pathlib import Path
from search_service.cli.postgres_keeper import kept_postgres
with kept_postgres(Path({str(home)!r}) / "postgres", Path({str(short_folder / "log")!r}), Path({str(home)!r})) as url:
    print(url, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=module_environment()
    )
    assert parent.stdout is not None
    assert parent.stdout.readline().startswith("postgresql://")
    postmaster = int((home / "postgres" / "postmaster.pid").read_text().split()[0])
    assert psutil.pid_exists(postmaster)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not psutil.pid_exists(postmaster))
    until(lambda: not home.exists())


def be_told_to_stop(ended: list[str]) -> None:
    """Get SIGTERM, and SIGINT while stopping."""
    with interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            ended.append("in order")


def test_the_first_signal_interrupts_and_further_ones_do_not_disturb(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended: list[str] = []
    with pytest.raises(Interrupted) as caught:
        be_told_to_stop(ended)
    assert ended == ["in order"]
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert "already stopping" in capsys.readouterr().err


def test_a_port_that_is_taken_is_found_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plan = StackPlan(settings=Settings(home=tmp_path / "home"), logs=tmp_path / "logs", port=port)
        with pytest.raises(PortTaken, match=f"port {port} on 127.0.0.1"), local_stack(plan, print):
            pass
    assert list(tmp_path.iterdir()) == []
