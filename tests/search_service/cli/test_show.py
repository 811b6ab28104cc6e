"""What people see: result tables, lists and progress."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, cast

import pytest
from rich.console import Console

from search_service.cli.progress import front_table, progress_on_stderr
from search_service.cli.show import show_result
from search_service.client import Client, FrontView, SearchView

Build = Callable[..., dict[str, Any]]


def shown(document: dict[str, Any], width: int = 132) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show_result(document, console)
    return cast(io.StringIO, console.file).getvalue()


def row(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name] and "[" in line]
    return line


def test_every_figure_has_the_name_of_its_kind(result_document: Build) -> None:
    text = shown(result_document())
    kinds = ["speedup", "speedup_over_plain", "end_to_end_speedup", "latency median, ms", "accuracy", "degradation"]
    for kind in [*kinds, "upper bound", "max_degradation", "confidence", "norm_statistics"]:
        assert kind in text, kind


def test_the_rows_of_the_table(result_document: Build) -> None:
    text = shown(result_document())
    assert row(text, "fastest").split() == [
        *["fastest", "00111@2", "2", "5.8", "8.28x", "13.41x", "0.875", "[0.866,", "0.884]", "+0.0015"]
    ]
    assert row(text, "baseline").split()[1:6] == ["11111@5", "5", "48", "1.00x", "1.62x"]
    assert [row(text, f"full@{steps}").split()[2] for steps in range(1, 6)] == ["1", "2", "3", "4", "5"]
    assert row(text, "empty").split()[1:6] == ["00000", "0", "-", "-", "-"]


def test_what_the_answer_rests_on(result_document: Build) -> None:
    text = shown(result_document(warnings=["Timing was noisy"]))
    for part in [
        "423 classes, 600 episodes",
        "betting test, valid for any distribution",
        "degradation -0.0010 to +0.0040, had other classes been drawn",
        "00011, 00110: too near the threshold",
        "fewer steps 2.44x * fewer units (rows) 3.40x * engine 1.62x",
        "A made-up processor, 2 threads",
        "meta_training 301.2, baseline 6.1, calibration 12.0, search 88.4, timing 41.0, certificate 35.7, total 485.9",
        "warning: Timing was noisy",
    ]:
        assert part in text, part


def test_the_baseline_as_the_answer_is_said_plainly(result_document: Build) -> None:
    document = result_document()
    text = shown({**document, "fastest": document["baseline"]})
    assert "the baseline itself is the answer" in text


@pytest.mark.parametrize("width", [80, 100, 109, 132, 200])
def test_no_line_of_the_table_is_cut(result_document: Build, width: int) -> None:
    text = shown(result_document(), width)
    assert "…" not in text
    assert row(text, "fastest").split()[-1] == "+0.0015"


def view(**changes: Any) -> SearchView:
    return cast(
        SearchView,
        {
            "id": "x",
            "status": "running",
            "phase": "meta_training",
            "progress": {"done": 120, "total": 300, "unit": "iterations", "message": "loss [0.9]"},
            "elapsed_s": 12.3,
            "phase_seconds": {},
            **changes,
        },
    )


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_on_stderr() as progress:
        for _ in range(5):
            progress(view(status="queued", phase=None, progress={}))
        for _ in range(5):
            progress(view())
        progress(view(phase="timing", progress={"done": 0.4, "total": 1, "unit": "share"}))
        progress(view(phase="certificate", status="succeeded"))
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition("] ")[2] for line in err.splitlines()] == [
        "queued",
        "meta-training 120 of 300 iterations; loss [0.9]",
        "timing 40%",
        "succeeded",
    ]


def test_progress_on_a_terminal_is_a_bar_per_phase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with progress_on_stderr() as progress:
        progress(view())
        progress(view(phase="timing", phase_seconds={"meta_training": 30.2, "baseline": 3.0, "search": 22.0}))
    out, err = capsys.readouterr()
    assert out == ""
    for phase in ("meta-training", "baseline", "search", "timing", "certificate"):
        assert phase in err
    assert "30.2 s" in err
    assert "loss [0.9]" in err


class MadeUpFronts:
    """Stands for a client that is asked for the front."""

    def __init__(self, degradations: list[float], max_degradation: float = 0.01) -> None:
        trials = [
            {
                "candidate": f"{number + 1:05b}",
                "state": "survived" if degradation <= max_degradation else "dropped",
                "degradation": degradation,
                "degradation_se": 0.001,
                "predicted_latency_s": 0.001 * (number + 1),
                "latency_s": 0.0015 if number == 5 else None,
                "speedup": 7.25 if number == 5 else None,
            }
            for number, degradation in enumerate(degradations)
        ]
        best = next((trial for trial in trials if trial["state"] == "survived"), None)
        self._front = {"max_degradation": max_degradation, "best": best, "trials": trials, "latency_ratio": None}

    def front(self, search_id: str) -> dict[str, Any]:
        return self._front


def test_the_front_grows_under_the_bars(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    fronts = cast(Client, MadeUpFronts([0.30, 0.20, 0.10, 0.05, 0.04, 0.004, 0.001]))
    with progress_on_stderr(fronts) as progress:
        progress(view())
        assert "front so far" not in capsys.readouterr().err
        progress(view(phase="search", progress={"done": 7, "total": 31, "unit": "candidates"}))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "best so far 00110: speedup 7.2x, degradation +0.0040 on validation classes" in text
    assert "front so far" in text
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if re.match("[01]{5} ", line)}
    assert rows["00110"][:4] == ["1.5", "7.2x", "+0.0040", "±"]
    assert rows["00111"][:3] == ["~7", "+0.0010", "±"]
    assert rows["00101"][-1] == "dropped"


def test_a_long_front_is_shown_around_its_threshold() -> None:
    losing, good = [1.0 - 0.01 * at for at in range(40)], [0.009 - 0.0001 * at for at in range(40)]
    front = cast(FrontView, MadeUpFronts([*losing, *good]).front("x"))
    console = Console(file=io.StringIO(), width=140)
    console.print(front_table(front))
    text = cast(io.StringIO, console.file).getvalue()
    assert "front so far, 72 more" in text
    assert [line.rsplit(maxsplit=1)[-1] for line in text.splitlines()[2:]] == ["dropped"] * 3 + ["survived"] * 5
