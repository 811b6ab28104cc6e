"""How a search goes: bars on a terminal, a line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

from rich import box
from rich.bar import Bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from search_service import words
from search_service.client import Client, FrontView, SearchView, TrialView
from search_service.domain.search import Phase, SearchStatus

LINE_INTERVAL = 10.0  # seconds between two lines of the same phase
FRONT_INTERVAL = 2.0  # seconds between two looks at the front
FRONT_ROWS = 8  # candidates of the front that are shown
ROWS_OVER = 3  # of them, at least so many that lose too much
BAR_WIDTH = 20  # characters
REFRESH_RATE = 4  # pictures a second

LABELS = {phase: phase.value.replace("_", "-") for phase in Phase}

JUDGING = (Phase.SEARCH, Phase.TIMING, Phase.CERTIFICATE)
"""Phases in which the front moves."""
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
    """Bars and the front if stderr is a terminal, lines if not; the front is read through ``client``."""
    console = Console(stderr=True)
    return _Bars(console, client) if console.is_terminal else _Lines(client)


class FrontSoFar:
    """The front as it grows, looked at now and then."""

    def __init__(self, client: Client | None) -> None:
        self._client = client
        self._front: FrontView | None = None
        self._next_look = 0.0

    def look(self, view: SearchView) -> FrontView | None:
        """What it is now; None before anything is judged."""
        if self._client is None or view["phase"] not in JUDGING or time.monotonic() < self._next_look:
            return self._front
        self._next_look = time.monotonic() + FRONT_INTERVAL
        front = self._client.front(view["id"])
        self._front = front if front["trials"] else None
        return self._front


def best_so_far(front: FrontView | None) -> str:
    """The best candidate so far, in words; empty before one has been timed."""
    best = None if front is None else front["best"]
    if best is None or best["speedup"] is None:
        return ""
    loss = "" if best["degradation"] is None else f", degradation {best['degradation']:+.4f} on validation classes"
    return f"best so far {best['candidate']}: speedup {best['speedup']:.1f}x{loss}"


def front_table(front: FrontView) -> Table:
    """The front around the threshold: the slowest of those that lose too much, and the fastest of the others.

    A bar shows the degradation: its middle is the threshold.
    """
    threshold = front["max_degradation"] or 0.0
    over = [trial for trial in front["trials"] if (trial["degradation"] or 0.0) > threshold]
    under = front["trials"][len(over) :]
    shown = [*over[-max(ROWS_OVER, FRONT_ROWS - len(under)) :], *under][:FRONT_ROWS]
    best = None if front["best"] is None else front["best"]["candidate"]
    hidden = len(front["trials"]) - len(shown)
    more = f", {hidden} more" if hidden else ""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    table.add_column(f"front so far{more}", overflow="ellipsis", no_wrap=True)
    table.add_column("latency, ms", justify="right")
    table.add_column("speedup", justify="right")
    table.add_column("degradation (validation)", no_wrap=True)
    table.add_column(f"of {2 * threshold:.4g}", width=BAR_WIDTH)
    table.add_column("state")
    for trial in shown:
        loss, error = trial["degradation"] or 0.0, trial["degradation_se"] or 0.0
        table.add_row(
            Text(trial["candidate"]),
            latency_ms(trial, front["latency_ratio"] or 1.0),
            "" if trial["speedup"] is None else f"{trial['speedup']:.1f}x",
            f"{loss:+.4f} ± {words.Z95 * error:.4f}",
            Bar(2 * threshold, 0, max(loss, 0.0), color="green" if loss <= threshold else "red"),
            trial["state"],
            style="bold" if trial["candidate"] == best else "",
        )
    return table


def latency_ms(trial: TrialView, ratio: float = 1.0) -> str:
    """The measured latency, or else the predicted one times ``ratio``, marked."""
    if trial["latency_s"] is not None:
        return f"{trial['latency_s'] * 1e3:.3g}"
    return "-" if trial["predicted_latency_s"] is None else f"~{trial['predicted_latency_s'] * ratio * 1e3:.3g}"


class _Lines:
    def __init__(self, client: Client | None) -> None:
        self._front = FrontSoFar(client)
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
        parts = [
            f"{LABELS[Phase(phase)]} {counted(view['progress'])}".rstrip(),
            _message(view),
            best_so_far(self._front.look(view)),
        ]
        self.say(f"{clock} {'; '.join(part for part in parts if part)}")


class _Bars:
    def __init__(self, console: Console, client: Client | None) -> None:
        self._front = FrontSoFar(client)
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=30, table_column=Column(no_wrap=True)),
            _CountColumn(table_column=Column(no_wrap=True)),
            TextColumn("[dim]{task.fields[message]}", markup=True),
            console=console,
            expand=False,
        )
        self._live = Live(self._progress, console=console, refresh_per_second=REFRESH_RATE)
        self._tasks: dict[Phase, TaskID] = {}

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._live.console.print(text, style="dim", highlight=False, markup=False)

    def __call__(self, view: SearchView) -> None:
        for phase in Phase:
            if phase not in self._tasks and (phase not in SELDOM or phase in (view["phase"], *view["phase_seconds"])):
                self._tasks[phase] = self._add(phase)
        now = None if view["phase"] is None else Phase(view["phase"])
        over = SearchStatus(view["status"]).is_final
        front = self._front.look(view)
        for phase, task in self._tasks.items():
            if phase == now and not (over and view["status"] == SearchStatus.SUCCEEDED):
                done, total, _ = _numbers(view["progress"])
                message = _message(view)
                count = counted(view["progress"])
                self._progress.update(task, completed=done, total=total, message=message, counted=count)
            elif phase.value in view["phase_seconds"] or view["status"] == SearchStatus.SUCCEEDED:
                seconds = view["phase_seconds"].get(phase.value)
                took = "" if seconds is None else f"{seconds:.1f} s"
                self._progress.update(task, completed=1, total=1, message="", counted=took)
        # Once it is over the answer says more than the way to it.
        shown: list[RenderableType] = (
            [] if front is None or over else ["", Text(best_so_far(front), style="green"), front_table(front)]
        )
        self._live.update(Group(self._progress, *shown))

    def _add(self, phase: Phase) -> TaskID:
        return self._progress.add_task(LABELS[phase], total=1, completed=0, message="", counted="")


class _CountColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields["counted"]), style="cyan")


def counted(progress: dict[str, Any]) -> str:
    """``120 of 300 iterations``, or a percentage where a share is counted."""
    done, total, unit = _numbers(progress)
    if not unit:
        return ""
    return f"{done / total:.0%}" if unit == "share" else f"{done:.0f} of {total:.0f} {unit}"


def _numbers(progress: dict[str, Any]) -> tuple[float, float, str]:
    return float(progress.get("done", 0)), float(progress.get("total", 0)) or 1.0, str(progress.get("unit", ""))


def _message(view: SearchView) -> str:
    return str(view["progress"].get("message", ""))
