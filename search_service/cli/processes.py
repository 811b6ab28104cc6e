"""Child processes that end when they should: in order when asked, and with their parent however that one dies."""

from __future__ import annotations

import ctypes
import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from search_service.domain.errors import LambdaSearchError

STOP_GRACE = 10.0  # seconds between SIGTERM and SIGKILL
SHOWN_LINES = 15  # of the log of a child that died
POLL_INTERVAL = 0.05  # seconds
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_ROOT = Path(__file__).parents[2]
"""What holds the packages: a folder of installed packages, or a checkout."""


class ChildDied(LambdaSearchError):
    """A process that should run has ended by itself; carries the end of its log."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        self.name = name
        self.code = code
        self.log = log
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        super().__init__(f"the {name} {how}; {quoted_end(log)}")


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours in this interpreter; a folder of that name here is not mistaken for it."""
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment in which ``module_command`` finds our packages, also in a checkout that is not installed."""
    if str(_ROOT) in (*site.getsitepackages(), site.getusersitepackages()):
        return dict(environment)
    path = os.pathsep.join(filter(None, [str(_ROOT), environment.get("PYTHONPATH", "")]))
    return {**environment, "PYTHONPATH": path}


class Child:
    """A running process whose output goes to a log file.

    It has a session of its own, so that Ctrl-C reaches its parent alone. On Linux the kernel kills it when the thread
    that started it ends: start children from the main thread.

    Args:
        name: what to call it.
        command: what to run.
        environment: its whole environment.
        log: its output is appended there.
        pass_fds: file descriptors that it inherits.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        pass_fds: Iterable[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
                preexec_fn=_die_with_parent(),
            )

    @property
    def pid(self) -> int:
        """Its process id, and that of its process group."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise if it has ended.

        Raises:
            ChildDied: it has.
        """
        code = self._process.poll()
        if code is not None:
            raise ChildDied(self.name, code, self.log)

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.is_running:
            self._process.terminate()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within ``seconds``."""
        try:
            self._process.wait(max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Send SIGKILL to it and to what it started, and wait for its end."""
        if self.is_running:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def stop_all(children: Sequence[Child], grace: float = STOP_GRACE) -> None:
    """Stop children side by side: SIGTERM, and SIGKILL for those that are still there after ``grace`` seconds."""
    for child in children:
        child.ask_to_stop()
    deadline = time.monotonic() + grace
    for child in children:
        if not child.wait(deadline - time.monotonic()):
            child.kill()


def quoted_end(log: Path) -> str:
    """Where a log is, and its last lines."""
    lines = "".join(f"\n  | {line}" for line in last_lines(log))
    return f"the end of its log {log}:{lines or ' (it is empty)'}"


def last_lines(log: Path, count: int = SHOWN_LINES) -> list[str]:
    """The last lines of a log; none if it cannot be read."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:]
    except OSError:
        return []


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Loaded here: after the fork only what is certain not to take a lock may be called.
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            # The parent died before the kernel was told.
            os._exit(1)

    return in_child
