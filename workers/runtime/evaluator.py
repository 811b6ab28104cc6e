"""The worker's side of an evaluator: starts the child, hands it work, kills it when the work is no longer wanted."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import structlog

from search_service.domain.errors import EvaluatorFailed
from workers.runtime.evaluator_child import Assignment, EvaluatorSettings, Failure, Message, Ready, Waiting, child_main
from workers.runtime.work import Outcome, Progress, Work

CHECK_INTERVAL = 0.5  # seconds between looks at whether the work is still wanted

log = structlog.get_logger(__name__)


class WorkUnwanted(Exception):
    """Raised by a check: nobody wants this work's outcome any more."""


class EvaluatorDied(EvaluatorFailed):
    """The child process ended while it computed: killed, out of memory, or a crash in native code."""

    def __init__(self, exitcode: int | None) -> None:
        self.exitcode = exitcode
        how = f"killed by signal {-exitcode}" if exitcode is not None and exitcode < 0 else f"exit code {exitcode}"
        super().__init__(f"the evaluator process died ({how}); out of memory is the usual cause")


class WorkFailed(EvaluatorFailed):
    """The work raised an error."""

    def __init__(self, failure: Failure) -> None:
        self.kind = failure.kind
        self.trace = failure.trace
        self.deliberate = failure.deliberate
        super().__init__(failure.message if failure.deliberate else f"{failure.kind}: {failure.message}")


class Evaluator:
    """One device's evaluator child, kept warm between pieces of work.

    Use it from one thread that lives as long as the process: the kernel's parent-death signal follows the thread that
    started the child.
    """

    def __init__(self, settings: EvaluatorSettings) -> None:
        self.settings = settings
        self.fingerprint: dict[str, Any] = {}
        self._process: BaseProcess | None = None
        self._pipe: Connection | None = None
        self._lifeline: Connection | None = None
        self._next_check = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self, check: Callable[[], None] = lambda: None) -> None:
        """Start the child unless it runs, and wait until it holds the device; ``check`` may raise to give up.

        Raises:
            EvaluatorDied: it ended before it was ready.
        """
        if self._process is not None and self._process.is_alive():
            return
        self.kill()
        context = multiprocessing.get_context("spawn")
        pipe, child_pipe = context.Pipe()
        child_lifeline, lifeline = context.Pipe(duplex=False)
        process = context.Process(
            target=child_main,
            args=(self.settings, os.getpid(), child_pipe, child_lifeline),
            name=f"evaluator-{self.settings.device}",
            daemon=True,
        )
        process.start()
        child_pipe.close()
        child_lifeline.close()
        self._process, self._pipe, self._lifeline = process, pipe, lifeline
        while True:
            message = self._receive(check)
            if isinstance(message, Ready):
                self.fingerprint = message.fingerprint
                return
            if isinstance(message, Waiting):
                log.warning("device in use by another worker, waiting for it", device=self.settings.device)

    def perform(self, work: Work, on_progress: Callable[[Progress], None], check: Callable[[], None]) -> Outcome:
        """Have the child compute ``work``.

        Args:
            work: what to compute.
            on_progress: called with what the child reports.
            check: called about every ``CHECK_INTERVAL``; raises (usually :class:`WorkUnwanted`) to stop. The child is
                then killed, because native code cannot be interrupted.

        Raises:
            EvaluatorDied: the child ended.
            WorkFailed: the work raised.
        """
        self.start(check)
        assert self._pipe is not None
        self._pipe.send(Assignment(work, structlog.contextvars.get_contextvars()))
        try:
            while True:
                message: Message = self._receive(check)
                if isinstance(message, Progress):
                    on_progress(message)
                elif isinstance(message, Failure):
                    raise WorkFailed(message)
                elif not isinstance(message, Ready | Waiting):
                    return message
        except WorkFailed as error:
            if not error.deliberate:
                self.kill()
            raise
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End the child now."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        for connection in (self._pipe, self._lifeline):
            if connection is not None:
                connection.close()
        self._process = self._pipe = self._lifeline = None

    def _receive(self, check: Callable[[], None]) -> Any:
        assert self._pipe is not None
        assert self._process is not None
        while True:
            # The next check is due whatever arrives meanwhile: a child that reports often must not put it off.
            if time.monotonic() >= self._next_check:
                check()
                self._next_check = time.monotonic() + CHECK_INTERVAL
            try:
                if self._pipe.poll(max(0.0, self._next_check - time.monotonic())):
                    return self._pipe.recv()
            except (EOFError, ConnectionResetError) as error:
                self._process.join(5)
                raise EvaluatorDied(self._process.exitcode) from error
