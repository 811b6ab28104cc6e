"""The evaluator's process: owns one device, computes what arrives on a pipe, dies with its parent.

Two things end it with its parent: the kernel's parent-death signal, and a thread that waits for the end of a pipe whose
other end only the parent holds. It is spawned, never forked, so no thread or CUDA state comes along.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import structlog

from search_service import logs
from search_service.domain.errors import LambdaSearchError
from workers.runtime.work import Outcome, Progress, Work

PR_SET_PDEATHSIG = 1
CPU_SLOTS = 16
"""Evaluators that may share a host's CPU: its scheduler divides the cores, each evaluator holds about half a GiB."""
REPORT_INTERVAL = 0.25  # seconds

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorSettings:
    """What a child is started with."""

    device: str
    """``cpu``, ``cuda:0`` or ``auto``."""
    threads: int
    """Lanes of a CPU (see ``workers.adaptation.lanes``)."""
    artifacts_url: str
    data_dir: Path | None
    lock_dir: Path
    compile_cache: Path


@dataclass(frozen=True, slots=True)
class Assignment:
    """Work, and for which search, phase, token and step it is: what the child's log lines say too."""

    work: Work
    about: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ready:
    """The child holds its device."""

    fingerprint: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """The child waits for its device, which another process holds."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The work raised."""

    kind: str
    message: str
    trace: str
    deliberate: bool
    """Whether it is one of our own errors; after any other the child's state is not to be trusted."""


Message = Ready | Waiting | Progress | Outcome | Failure


def child_main(settings: EvaluatorSettings, parent: int, pipe: Connection, lifeline: Connection) -> None:
    """Entry point of the spawned process."""
    _die_with_parent(parent, lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    logs.configure("evaluator")

    import torch

    from workers.adaptation.device import device_identity, devices_for
    from workers.adaptation.lanes import Lanes
    from workers.adaptation.memory import keep_freed_memory
    from workers.adaptation.runtime import use_compile_cache
    from workers.runtime.artifacts import Artifacts
    from workers.runtime.host_locks import DeviceSlot
    from workers.runtime.laboratory import Laboratory

    logs.adopt("torch")
    keeps_freed_memory = keep_freed_memory()
    torch.set_num_threads(1)
    use_compile_cache(settings.compile_cache)
    devices = devices_for(settings.device)
    slots = [
        DeviceSlot(settings.lock_dir, device_identity(device), CPU_SLOTS if device.type == "cpu" else 1)
        for device in devices
    ]
    free = next((number for number, slot in enumerate(slots) if slot.try_acquire()), None)
    if free is None:
        pipe.send(Waiting())
        slots[0].acquire()
    device = devices[free or 0]
    lanes = Lanes(settings.threads if device.type == "cpu" else 1)
    laboratory = Laboratory(device, Artifacts(settings.artifacts_url), settings.data_dir, settings.lock_dir, lanes)
    pipe.send(Ready({**laboratory.fingerprint(), "keeps_freed_memory": keeps_freed_memory}))
    while True:
        try:
            assignment: Assignment = pipe.recv()
        except EOFError:
            return
        with structlog.contextvars.bound_contextvars(**assignment.about):
            started = time.monotonic()
            kind = type(assignment.work).__name__
            try:
                pipe.send(laboratory.perform(assignment.work, _Reporter(pipe)))
                log.info("computed", work=kind, seconds=round(time.monotonic() - started, 3))
            except Exception as error:  # whatever the work raised belongs to the parent, which ends the search
                log.warning("work failed", work=kind, reason=f"{type(error).__name__}: {error}")
                deliberate = isinstance(error, LambdaSearchError)
                pipe.send(Failure(type(error).__name__, str(error), traceback.format_exc(), deliberate))


class _Reporter:
    """Sends progress, at most every ``REPORT_INTERVAL``, and at once when another kind of work begins."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._next = 0.0
        self._unit = ""

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next or progress.unit != self._unit:
            self._pipe.send(progress)
            self._next = now + REPORT_INTERVAL
            self._unit = progress.unit


def _die_with_parent(parent: int, lifeline: Connection) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    if os.getppid() != parent:  # the parent died before the signal was set
        os._exit(1)
