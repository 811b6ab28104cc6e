"""Locks between processes of one host: one evaluator per device, and silence while someone measures latency.

All are ``flock`` locks on files, which the kernel releases when their holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

WAIT_INTERVAL = 0.1  # seconds between tries


class DeviceSlot:
    """The right to compute on a device: held by one process at a time, for as long as it lives.

    A GPU is one slot; a CPU, which can be shared, is several.

    Args:
        folder: where the lock files are, shared by all workers of the host.
        device: ``cpu`` or ``cuda:0``.
        slots: how many processes may hold it at once.
    """

    def __init__(self, folder: Path, device: str, slots: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"{device.replace(':', '-')}-{number}.lock" for number in range(slots)]
        self._file: IO[str] | None = None

    def try_acquire(self) -> bool:
        """Take a free slot, if there is one."""
        for path in self._paths:
            file = path.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                continue
            self._file = file
            return True
        return False

    def acquire(self, waiting: Callable[[], None] = lambda: None) -> None:
        """Wait for a slot; ``waiting`` is called at each try that fails and may raise."""
        while not self.try_acquire():
            waiting()
            time.sleep(WAIT_INTERVAL)


class TimingLock:
    """Readers compute, one writer measures latency alone on the host.

    A writer closes the gate first, so that readers who come later wait, and then waits for those inside.

    Args:
        folder: where the lock files are, shared by all workers of the host.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._gate = os.open(folder / "timing-gate.lock", os.O_RDWR | os.O_CREAT, 0o666)
        self._room = os.open(folder / "timing-room.lock", os.O_RDWR | os.O_CREAT, 0o666)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold the room with other readers."""
        self._enter()
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)

    def give_way(self) -> None:
        """Called now and then while :meth:`computing`: if someone wants to measure, step outside until it is done."""
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self._enter()
        else:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def someone_measures(self) -> bool:
        """Whether latency is being measured on this host now; for those who can put their own work off."""
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        return False

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Hold the room alone."""
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def _enter(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        try:
            fcntl.flock(self._room, fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)
