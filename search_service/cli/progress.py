"""How a search goes: bars on a terminal, a line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from search_service.client import Client, SearchView
from search_service.domain.search import Phase, SearchStatus

LINE_INTERVAL = 10.0  # seconds between two lines of the same phase
BEST_INTERVAL = 2.0  # seconds between two looks at the candidates

LABELS = {phase: phase.value.replace("_", "-") for phase in Phase}

SELDOM = (Phase.RETRAINING, Phase.RETRAINED_CERTIFICATE)
"""Phases that most searches do not have."""


class Show(Protocol):
    """Shows how a search goes; entered while there is something to show."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, view: SearchView) -> None:
        """Show a search as it stands now."""

    def say(self, text: str) -> None:
        """Show one line beside the progress."""


def progress_on_stderr(client: Client | None = None) -> Show:
    """Bars if stderr is a terminal, lines if not; the best candidate so far is read through ``client``."""
    console = Console(stderr=True)
    return _Bars(console, client) if console.is_terminal else _Lines(client)


class BestSoFar:
    """The fastest timed candidate that is still in, in words."""

    def __init__(self, client: Client | None) -> None:
        self._client = client
        self._text = ""
        self._next_look = 0.0

    def text(self, view: SearchView) -> str:
        """What it is now; empty before candidates are timed."""
        if self._client is None or view["phase"] != Phase.CERTIFICATE or time.monotonic() < self._next_look:
            return self._text
        self._next_look = time.monotonic() + BEST_INTERVAL
        timed = [
            (trial["speedup"], trial["candidate"], trial["degradation"])
            for state in ("survived", "qualified")
            for trial in self._client.trials(view["id"], state)
            if trial["speedup"] is not None
        ]
        if timed:
            speedup, pattern, degradation = max(timed)
            loss = "" if degradation is None else f", degradation {degradation:+.4f} on validation classes"
            self._text = f"best so far {pattern}: speedup {speedup:.1f}x{loss}"
        return self._text


class _Lines:
    def __init__(self, client: Client | None) -> None:
        self._best = BestSoFar(client)
        self._phase: str | None = None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def __call__(self, view: SearchView) -> None:
        phase = view["phase"] or view["status"]
        over = SearchStatus(view["status"]).is_final
        if not over and phase == self._phase and time.monotonic() < self._next_line:
            return
        self._phase = phase
        self._next_line = time.monotonic() + LINE_INTERVAL
        clock = f"[{view['elapsed_s']:5.0f} s]"
        if over or not view["phase"]:
            self.say(f"{clock} {view['status']}")
            return
        parts = [f"{LABELS[Phase(phase)]} {_counted(view)}".rstrip(), _message(view), self._best.text(view)]
        self.say(f"{clock} {'; '.join(part for part in parts if part)}")


class _Bars:
    def __init__(self, console: Console, client: Client | None) -> None:
        self._best = BestSoFar(client)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            _CountColumn(),
            TextColumn("[dim]{task.fields[message]}", markup=True),
            console=console,
            expand=False,
        )
        self._tasks: dict[Phase, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        self._progress.console.print(text, style="dim", highlight=False, markup=False)

    def __call__(self, view: SearchView) -> None:
        for phase in Phase:
            if phase not in self._tasks and (phase not in SELDOM or phase in (view["phase"], *view["phase_seconds"])):
                self._tasks[phase] = self._add(phase)
        now = None if view["phase"] is None else Phase(view["phase"])
        over = SearchStatus(view["status"]).is_final
        for phase, task in self._tasks.items():
            if phase == now and not (over and view["status"] == SearchStatus.SUCCEEDED):
                done, total, _ = _numbers(view)
                message = " ".join(filter(None, [_message(view), self._best.text(view)]))
                counted = _counted(view)
                self._progress.update(task, completed=done, total=total, message=message, counted=counted)
            elif phase.value in view["phase_seconds"] or view["status"] == SearchStatus.SUCCEEDED:
                seconds = view["phase_seconds"].get(phase.value)
                took = "" if seconds is None else f"{seconds:.1f} s"
                self._progress.update(task, completed=1, total=1, message="", counted=took)

    def _add(self, phase: Phase) -> TaskID:
        return self._progress.add_task(LABELS[phase], total=1, completed=0, message="", counted="")


class _CountColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["counted"]), style="cyan")


def _numbers(view: SearchView) -> tuple[float, float, str]:
    progress = view["progress"]
    return float(progress.get("done", 0)), float(progress.get("total", 0)) or 1.0, str(progress.get("unit", ""))


def _counted(view: SearchView) -> str:
    """``120 of 300 iterations``, or a percentage where a share is counted."""
    done, total, unit = _numbers(view)
    if not unit:
        return ""
    return f"{done / total:.0%}" if unit == "share" else f"{done:.0f} of {total:.0f} {unit}"


def _message(view: SearchView) -> str:
    return str(view["progress"].get("message", ""))
