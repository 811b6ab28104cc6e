"""The picture of a result."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from search_service.storage.codec import result_from_json
from workers.search.front_plot import HEIGHT, WIDTH, draw

Build = Callable[..., dict[str, Any]]


def texts(document: dict[str, Any], title: str = "") -> str:
    """Everything that is written in the picture."""
    figure = draw(result_from_json(document), title)
    written = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        legend = axes.get_legend()
        written += [text.get_text() for text in [*axes.texts, *(legend.get_texts() if legend else [])]]
        written += [axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")]
        written += [label.get_text() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]]
    return "\n".join(written)


def test_the_command_writes_a_picture_of_the_right_size(tmp_path: Path, result_document: Build) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result_document()))
    arguments = [str(tmp_path / "result.json"), str(tmp_path / "front.png"), "--title", "a title"]
    subprocess.run([sys.executable, "-m", "workers.search.front_plot", *arguments], check=True)
    with Image.open(tmp_path / "front.png") as picture:
        assert picture.size == (WIDTH, HEIGHT) == (1200, 750)
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 50, "something is drawn"


def test_it_says_what_is_what(result_document: Build) -> None:
    written = texts(result_document())
    for part in [
        "omniglot, 5-way 1-shot",
        "423 classes, 600 episodes",
        "latency of one adaptation (ms, median, log scale)",
        "quality: accuracy",
        "front: baseline less degradation (validation classes)",
        "baseline (confirmation classes)",
        "threshold",
        "empty pattern",
        "00111@2",
        "full@1",
        "speedup_over_plain",
        "conv1",
        "step 2",
    ]:
        assert part in written, part


def test_a_title_of_ones_own_keeps_the_tasks(result_document: Build) -> None:
    written = texts(result_document(), "drawings")
    assert "drawings" in written
    assert "omniglot, 5-way 1-shot" in written


def test_an_empty_pattern_that_is_near_is_drawn_where_it_is(result_document: Build) -> None:
    document = result_document()
    assert "not to scale" in texts(document)
    document["empty"]["quality"] |= {"estimate": 0.85, "low": 0.84, "high": 0.86}
    assert "not to scale" not in texts(document)


@pytest.mark.parametrize(
    "changes", [{"front": []}, {"checkpoint": {}}, {"full_by_steps": []}, {"device": {}}], ids=lambda c: next(iter(c))
)
def test_results_that_lack_something_are_drawn(result_document: Build, changes: dict[str, Any]) -> None:
    assert texts(result_document(**changes))


def test_the_baseline_as_the_answer(result_document: Build) -> None:
    document = result_document()
    assert "11111@5" in texts({**document, "fastest": document["baseline"]})


def test_what_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"search_id": 3}')
    arguments = [str(tmp_path / "result.json"), str(tmp_path / "front.png")]
    done = subprocess.run(
        [sys.executable, "-m", "workers.search.front_plot", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "is no result document: search_id" in done.stderr
