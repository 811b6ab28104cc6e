"""Pictures of a result: what is drawn is what was measured, and nothing from outside becomes markup."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import types
import typing
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import typer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from search_service.domain.candidate import Candidate
from search_service.domain.lambda_pattern import row_text
from search_service.domain.result import (
    Confirmed,
    Degradation,
    FrontPoint,
    Latency,
    PatternFigures,
    Quality,
    Ratio,
    SearchResult,
    SpeedupSplit,
)
from search_service.storage.codec import result_to_json
from workers.search.pictures import png
from workers.search.pictures.__main__ import main
from workers.search.pictures.contents import contents_of
from workers.search.pictures.html import page as page_of
from workers.search.pictures.naming import place_names
from workers.search.pictures.plane import Plane, Point, latency_ticks, plane_of
from workers.search.pictures.plotly_figures import PLANE_WIDTHS, grid_figure, plane_figure
from workers.search.pictures.style import LEGENDS, Cell, Kind
from workers.search.pictures.words import shorten

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
PATIENCE = 30_000  # milliseconds that a page gets to show something

UNITS = ["conv1", "conv2", "conv3", "conv4", "head"]
RATE, OVER_PLAIN, LEVEL = 0.1, 2.0, 0.9  # base rate, speedup_over_plain and quality of the baseline
MIXED = "00111/00110*2/00010*2/00011*0.5/00001*1.5:bfloat16"


def filled(kind: Any, **given: Any) -> Any:
    """A value of a dataclass with what is given; nothing, zero or empty for the rest, whatever fields it may get."""
    if not is_dataclass(kind):
        origin = typing.get_origin(kind)
        optional = origin in (types.UnionType, typing.Union) and type(None) in typing.get_args(kind)
        return None if optional else (origin or kind)()
    hints = typing.get_type_hints(kind)
    missing = [field.name for field in fields(kind) if field.name not in given]
    return kind(**{name: filled(hints[name]) for name in missing}, **given)


def figures(text: str, latency_ms: float | None, loss: float, units: list[str] = UNITS, **changes: Any) -> Any:
    candidate = Candidate.parse(text, len(units))
    baseline_ms = 40.0
    speedup = None if latency_ms is None else baseline_ms / latency_ms
    values: dict[str, Any] = {
        "pattern": candidate.pattern.text,
        "precision": candidate.precision,
        "rows": [row_text(row) for row in candidate.pattern.rows],
        "units": units,
        "steps": candidate.steps,
        "rates": [RATE * factor for factor in candidate.factors],
        "rate_factors": list(candidate.factors),
        "speedup": None if speedup is None else Ratio(estimate=speedup, low=speedup * 0.9, high=speedup * 1.1),
        "quality": Quality(metric="accuracy", estimate=LEVEL - loss, low=LEVEL - loss - 0.01, high=LEVEL - loss + 0.01),
        "degradation": Degradation(estimate=loss, low=loss - 0.002, high=loss + 0.003, upper_bound=None),
    }
    if latency_ms is not None and speedup is not None:
        median = latency_ms / 1e3
        values["latency_s"] = Latency(median=median, p10=median * 0.95, p90=median * 1.2, samples=60)
        values["speedup_over_plain"] = Ratio(
            estimate=speedup * OVER_PLAIN, low=speedup * OVER_PLAIN * 0.9, high=speedup * OVER_PLAIN * 1.1
        )
    return filled(PatternFigures, **values | changes)


def front_point(text: str, latency_ms: float, loss: float) -> FrontPoint:
    candidate = Candidate.parse(text)
    return FrontPoint(
        pattern=candidate.pattern.text,
        precision=candidate.precision,
        rate_factors=list(candidate.factors),
        latency_s=latency_ms / 1e3,
        speedup=40.0 / latency_ms,
        quality=0.87 - loss,
        degradation=loss,
        degradation_low=loss - 0.004,
        degradation_high=loss + 0.005,
    )


def result(answer: str = "00111@2", units: list[str] = UNITS, **changes: Any) -> SearchResult:
    """A search answered with this candidate, which takes 5 ms and loses 0.003."""
    ones = "1" * len(units)
    zero = figures(f"{ones}@5", 40.0, 0.0, units)
    fastest = figures(answer, 5.0, 0.003, units)
    bounded = replace(fastest, degradation=replace(fastest.degradation, upper_bound=0.0075))
    values: dict[str, Any] = {
        "search_id": "5ea4c4",
        "fastest": bounded,
        "baseline": zero,
        "empty": figures("0" * len(units), None, 0.7, units),
        "full_by_steps": [figures(ones, 9.0, 0.03, units), figures(f"{ones}@2", 17.0, 0.012, units), zero],
        "speedup_split": SpeedupSplit(steps=2.5, rows=3.2, engine=OVER_PLAIN),
        "max_degradation": 0.01,
        "confidence": 0.95,
        "method": "betting",
        "confirmed": filled(Confirmed, classes=423, episodes=600),
        "front": [
            front_point("00001", 3.0, 0.011),
            front_point("00011", 4.0, 0.006),
            front_point("00111@2", 5.0, 0.002),
        ],
        "checkpoint": {"tasks": {"family": "omniglot", "ways": 5, "shots": 1, "queries": 15}},
        "norm_statistics": "support",
        "device": {"class": "cpu"},
        "runtime": "compiled",
    }
    made = filled(SearchResult, **values | changes)
    assert isinstance(made, SearchResult)
    return made


def many_rows(steps: int, units: int, frozen: int, factors: tuple[str, ...]) -> str:
    """Rows that all differ, the first units frozen throughout."""
    draw = random.Random(0)
    rows = ("0" * frozen + "".join(draw.choices("001", k=units - frozen - 1)) + "1" for _ in range(steps))
    return "/".join(f"{row}{draw.choice(factors)}" for row in rows) + (":bfloat16" if frozen else "")


PARTS = [f"block{number}.norm.weight" for number in range(12)]
MANY = [f"layers.{number}.attention.weight" for number in range(512)]
SHAPES = {
    "1x5": result("00010"),
    "5x5": result(MIXED),
    "64x12": result(many_rows(64, 12, 3, ("", "*2", "*0.5")), PARTS),
    "3x512": result(many_rows(3, 512, 200, ("", "*2")), MANY),
    "64x512": result(many_rows(64, 512, 0, ("", "*0.125")), MANY),
    "8x10": result(many_rows(8, 10, 4, ("*1.23456", "*2")), PARTS[:10]),
}
shape = pytest.mark.parametrize("searched", SHAPES.values(), ids=SHAPES)


def drawn(searched: SearchResult, title: str = "") -> Figure:
    figure = png.draw(contents_of(searched, title))
    FigureCanvasAgg(figure).draw()
    return figure


def texts(figure: Figure) -> list[Text]:
    """Every text that is written."""
    written = {id(text): text for text in figure.findobj(Text) if isinstance(text, Text)}
    for axes in figure.axes:
        low, high = sorted(axes.get_ylim())
        for label in axes.get_yticklabels():
            if not low <= label.get_position()[1] <= high:
                del written[id(label)]  # kept by matplotlib, not drawn
    return [text for text in written.values() if text.get_text().strip() and text.get_visible()]


def points(plane: Plane, kind: Kind) -> tuple[Point, ...]:
    """The points of a kind."""
    return next(series.points for series in plane.series if series.kind == kind)


def bars(axes: Axes) -> dict[str, ErrorbarContainer]:
    """Points with bars, by what the legend says of them."""
    return {each.get_label(): each for each in axes.containers if isinstance(each, ErrorbarContainer)}


def heights_by_latency(searched: SearchResult) -> dict[Kind, dict[float, tuple[float, float, float]]]:
    """What must be drawn, straight from the result: height and ends of the bar, by latency in ms."""
    level = searched.baseline.quality.estimate

    def own(entry: PatternFigures) -> dict[float, tuple[float, float, float]]:
        assert entry.latency_s is not None
        loss = entry.degradation
        return {entry.latency_s.median * 1e3: (level - loss.estimate, level - loss.high, level - loss.low)}

    quality = searched.baseline.quality
    return {
        Kind.FRONT: {
            point.latency_s * 1e3: (
                level - point.degradation,
                level - point.degradation_high,
                level - point.degradation_low,
            )
            for point in searched.front
        },
        Kind.FULL: own(searched.full_by_steps[0]) | own(searched.full_by_steps[1]),
        Kind.PLAIN: {40.0 * OVER_PLAIN: (level, level, level)},
        Kind.BASELINE: {40.0: (quality.estimate, quality.low, quality.high)},
        Kind.ANSWER: own(searched.fastest),
    }


def test_the_png_draws_the_results_figures() -> None:
    searched = result()
    axes = drawn(searched).axes[0]
    found = bars(axes)
    for kind, expected in heights_by_latency(searched).items():
        line, _, collections = found[LEGENDS[kind]]
        upright = collections[-1].get_segments()
        seen = {
            x: (y, *sorted(segment[:, 1]))
            for x, y, segment in zip(line.get_xdata(), line.get_ydata(), upright, strict=True)
        }
        assert sorted(seen) == pytest.approx(sorted(expected))
        for x, values in expected.items():
            assert seen[min(seen, key=lambda at, x=x: abs(at - x))] == pytest.approx(values)
    across = found[LEGENDS[Kind.ANSWER]][2][0].get_segments()[0]
    assert sorted(across[:, 0]) == pytest.approx([5.0 * 0.95, 5.0 * 1.2])
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert lines["threshold: baseline less max_degradation"].get_ydata()[0] == pytest.approx(LEVEL - 0.01)
    assert lines["the answer's upper bound of degradation"].get_ydata()[0] == pytest.approx(LEVEL - 0.0075)
    assert axes.get_xscale() == "log"


def test_the_page_draws_the_results_figures() -> None:
    searched = result()
    figure = plane_figure(plane_of(searched))
    traces = {trace.name: trace for trace in figure.data}
    for kind, expected in heights_by_latency(searched).items():
        trace = traces[LEGENDS[kind]]
        assert list(trace.x) == pytest.approx(sorted(expected))
        assert list(trace.y) == pytest.approx([expected[x][0] for x in sorted(expected)])
        low = [y - less for y, less in zip(trace.y, trace.error_y.arrayminus, strict=True)]
        high = [y + more for y, more in zip(trace.y, trace.error_y.array, strict=True)]
        assert low == pytest.approx([expected[x][1] for x in sorted(expected)])
        assert high == pytest.approx([expected[x][2] for x in sorted(expected)])
    answer = traces[LEGENDS[Kind.ANSWER]]
    assert answer.error_x.array[0] == pytest.approx(1.0)
    assert answer.error_x.arrayminus[0] == pytest.approx(0.25)
    assert traces["the answer's upper bound of degradation"].y[0] == pytest.approx(LEVEL - 0.0075)
    levels = {line.name: line.y0 for line in figure.layout.shapes}
    assert levels["threshold"] == pytest.approx(LEVEL - 0.01)
    assert figure.layout.xaxis.type == "log"
    # Whatever the unit of the axis: every point lies within it.
    low, high = figure.layout.xaxis.range
    assert all(low < math.log10(x) < high for trace in figure.data for x in trace.x)


def test_pointing_at_a_point_says_everything_about_it() -> None:
    traces = {trace.name: trace for trace in plane_figure(plane_of(result())).data}
    (answer,) = traces[LEGENDS[Kind.ANSWER]].hovertext
    for part in [
        "00111@2",
        "latency 5 ms (p10 4.75, p90 6)",
        "speedup 8.00x (7.20x to 8.80x)",
        "speedup_over_plain 16.0x (14.4x to 17.6x)",
        "quality 0.8970 (0.8870 to 0.9070)",
        "degradation +0.0030 (+0.0010 to +0.0060)",
        "its upper bound +0.0075",
    ]:
        assert part in answer
    fastest_of_front = traces[LEGENDS[Kind.FRONT]].hovertext[0]
    for part in ["00001", "latency 3 ms", "speedup 13.3x", "speedup_over_plain 26.7x", "(+0.0070 to +0.0160)"]:
        assert part in fastest_of_front
    assert "the baseline's" in traces[LEGENDS[Kind.PLAIN]].hovertext[0]


@shape
def test_the_grid_is_the_pattern(searched: SearchResult) -> None:
    fastest = searched.fastest
    grid = contents_of(searched).grid
    meshes = [mesh for axes in drawn(searched).axes[1:] for mesh in axes.findobj(QuadMesh)]
    (in_png,) = [mesh.get_array().reshape(fastest.steps, len(fastest.units)) for mesh in meshes]
    in_page = grid_figure(grid).data[0].z
    lowest = min(row.index("1") for row in fastest.rows)
    for step, row in enumerate(fastest.rows):
        for unit, digit in enumerate(row):
            below = unit < lowest and fastest.precision == "bfloat16"
            expected = Cell.UPDATED if digit == "1" else Cell.LOWERED if below else Cell.FROZEN
            assert in_png[step, unit] == in_page[step][unit] == expected


@shape
def test_rates_that_are_not_the_base_rate_stand_beside_their_rows(searched: SearchResult) -> None:
    fastest = searched.fastest
    grid = contents_of(searched).grid
    said = {step: run.text for run in grid.runs for step in range(run.first, run.last + 1)}
    for step, (rate, factor) in enumerate(zip(fastest.rates, fastest.rate_factors, strict=True)):
        if factor == 1:
            assert step not in said
        else:
            assert said[step] == f"×{factor:g} = {rate:.4g}"
    assert any(note.startswith(f"inner rate {RATE:g}") for note in grid.notes)
    written = Counter(text.get_text() for text in texts(drawn(searched)))
    annotated = Counter(entry.text for entry in grid_figure(grid).layout.annotations)
    for text, times in Counter(run.text for run in grid.runs).items():
        assert written[text] == annotated[text] == times


def test_the_grid_says_what_is_computed_in_bfloat16() -> None:
    written = "\n".join(text.get_text() for text in texts(drawn(result(MIXED))))
    markup = page_of(contents_of(result(MIXED)))
    for said in ("frozen prefix in bfloat16", "in bfloat16: conv1 to conv2 (2 of 5 units)"):
        assert said in written
        assert said in markup
    assert "bfloat16" not in "\n".join(text.get_text() for text in texts(drawn(result())))
    assert contents_of(result(MIXED)).grid.said(1, 2) == "step 2, conv3: updated, rate 0.2 (×2)"
    assert contents_of(result(MIXED)).grid.said(1, 1) == "step 2, conv2: frozen prefix in bfloat16"


@shape
def test_no_text_covers_another_or_leaves_the_picture(searched: SearchResult) -> None:
    figure = drawn(searched, "a search with a name that is as long as the person who gave it " * 3)
    whole = figure.bbox
    boxes: list[tuple[str, Bbox]] = []
    for text in texts(figure):
        # Tilted texts stand in boxes that overlap though they do not.
        if text.get_rotation() % 90 == 0:
            boxes.append((text.get_text(), Text.get_window_extent(text)))
    assert len(boxes) > 30
    for name, box in boxes:
        assert min(box.x0, box.y0, whole.x1 - box.x1, whole.y1 - box.y1) >= 0, name
    for (one, box), (other, its_box) in combinations(boxes, 2):
        across = min(box.x1, its_box.x1) - max(box.x0, its_box.x0)
        up = min(box.y1, its_box.y1) - max(box.y0, its_box.y0)
        assert across <= 1 or up <= 5, f"'{one}' and '{other}'"  # lines of text have some air


@pytest.mark.parametrize("width", PLANE_WIDTHS)
@pytest.mark.parametrize("crowd", range(3))
def test_names_keep_clear_of_each_other_however_narrow(width: int, crowd: int) -> None:
    draw = random.Random(crowd)
    front = [
        front_point(f"{number + 1:05b}@{1 + number % 5}", draw.uniform(3, 6), draw.uniform(-0.004, 0.02))
        for number in range(30)
    ]
    plane = plane_of(result(front=front))
    placed = place_names(plane, width, 400)
    written = [place.name.text for place in placed]
    assert {"00111@2", "the answer"} & set(written)
    assert any(text.startswith("baseline") for text in written)
    figure = plane_figure(plane)
    assert [limit for limit, _ in figure.layout.meta["names"]] == list(PLANE_WIDTHS)
    left, right = figure.layout.xaxis.range
    boxes = []
    for place in placed:
        name = place.name
        wide = max(map(len, name.text.split("\n"))) * name.size * 0.55
        x = (math.log10(name.latency_ms) - left) / (right - left) * width + place.right
        x -= {"left": 0, "center": wide / 2, "right": wide}[place.side]
        low, high = plane.heights
        y = (name.height - low) / (high - low) * 400 + place.up
        half = name.size * (1 + name.text.count("\n")) / 2
        boxes.append(Bbox([[x, y - half], [x + wide, y + half]]))
        assert x >= 0
        assert x + wide <= width
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


HOSTILE = "</script><script>window.taken = true</script><img src=x onerror='taken = true'><b>$\\frac{</b>%{x}"


class Tags(HTMLParser):
    """Counts the tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag, tuple(name for name, _ in attrs)] += 1


def hostile_result() -> SearchResult:
    units = [f"{HOSTILE}{number}" for number in range(5)]
    searched = result("00111@2", units)
    device, tasks = {"class": HOSTILE}, {"tasks": {"family": HOSTILE, "ways": HOSTILE, "shots": 1}}
    quality = replace(searched.baseline.quality, metric=HOSTILE)
    baseline = replace(searched.baseline, quality=quality)
    return replace(
        searched,
        device=device,
        checkpoint=tasks,
        baseline=baseline,
        method=HOSTILE,
        runtime=HOSTILE,
        warnings=[HOSTILE],
    )


def test_hostile_names_stay_text() -> None:
    kind = result(warnings=["harmless"], checkpoint={"tasks": {"family": "f", "ways": 5, "shots": 1}})
    page = page_of(contents_of(hostile_result(), HOSTILE))
    assert Tags(page).seen == Tags(page_of(contents_of(kind, "harmless"))).seen
    assert "<script>window.taken" not in page
    # Plotly reads some markup in its texts, so those hold entities; JSON in a script hides what would end the script.
    axis = plane_figure(plane_of(hostile_result())).layout.yaxis.title.text
    assert "&lt;" in axis
    assert "<" not in axis
    grid = grid_figure(contents_of(hostile_result()).grid)
    assert not any("<" in text for text in [*grid.layout.xaxis.ticktext, *grid.data[0].hovertext[0]])

    figure = drawn(hostile_result(), HOSTILE)
    written = [text.get_text() for text in texts(figure)]
    assert shorten(HOSTILE, 68) in written
    assert not any(text.get_parse_math() for text in texts(figure) if "$" in text.get_text())


@pytest.mark.parametrize("text", ["a\x00b\x1b[31m", "a\u202eb", "\ud800", "line\nbreak"])
def test_what_cannot_be_printed_is_left_out(text: str) -> None:
    page = page_of(contents_of(result(), text))
    page.encode()
    title = contents_of(result(), text).title
    assert title.isprintable()


UNTIMED = replace(result().fastest, latency_s=None, speedup=None, speedup_over_plain=None)
INCOMPLETE = {
    "no front": result(front=[]),
    "no full pattern": result(full_by_steps=[]),
    "no checkpoint": result(checkpoint={}),
    "no device": result(device={}),
    "answer not timed": result(fastest=UNTIMED),
    "nothing timed": result(
        fastest=UNTIMED,
        baseline=replace(result().baseline, latency_s=None, speedup=None, speedup_over_plain=None),
        full_by_steps=[UNTIMED],
        front=[],
    ),
    "diverged": result(full_by_steps=[figures("11111", 9.0, math.inf), figures("11111@2", 9.5, math.nan)]),
    "no steps": result(fastest=replace(figures("00000", None, 0.7), rows=[])),
}


@pytest.mark.parametrize("searched", INCOMPLETE.values(), ids=INCOMPLETE)
def test_results_that_lack_something_are_drawn(searched: SearchResult) -> None:
    contents = contents_of(searched)
    assert len(texts(drawn(searched))) > 20
    assert contents.answer in page_of(contents)
    plane = contents.plane
    assert all(map(math.isfinite, (*plane.latencies_ms, *plane.heights, plane.threshold)))
    if searched.fastest.latency_s is None:
        assert not points(plane, Kind.ANSWER)
        assert contents.figures[0].text == "not timed"
    legends = [trace.name for trace in plane_figure(plane).data]
    assert (LEGENDS[Kind.FRONT] in legends) == bool(searched.front)


def test_the_baseline_as_the_answer() -> None:
    searched = result(fastest=result().baseline)
    plane = plane_of(searched)
    names = [place.name.text for place in place_names(plane, 700, 400)]
    assert "the baseline\n11111@5" in names
    assert not any(name.startswith("baseline") for name in names)
    assert points(plane, Kind.ANSWER)[0].height == points(plane, Kind.BASELINE)[0].height
    assert plane.proved is None


def test_an_empty_pattern_that_is_near_is_drawn_where_it_is() -> None:
    far = plane_of(result()).empty
    assert not far.to_scale
    assert "0.200" in far.text
    near = plane_of(result(empty=figures("00000", None, 0.05))).empty
    assert near.to_scale
    assert near.height == pytest.approx(LEVEL - 0.05)
    better = plane_of(result(empty=figures("00000", None, -0.05)))
    assert better.heights[1] > LEVEL + 0.05


def test_a_title_keeps_the_tasks_and_what_is_transductive_says_so() -> None:
    contents = contents_of(result(norm_statistics="query"), "drawings")
    assert contents.title == "drawings"
    for part in ("omniglot, 5-way 1-shot", "423 classes, 600 episodes (betting)", "cpu, compiled", "transductive"):
        assert part in contents.subtitle
    assert contents_of(result()).title == "omniglot, 5-way 1-shot"
    assert "transductive" not in contents_of(result()).subtitle


@pytest.mark.parametrize(("low", "high"), [(0.42, 27.0), (0.95, 1.05), (1e-3, 9e4), (6.99, 7.01), (40.0, 91.0)])
def test_ticks_of_the_latency_axis(low: float, high: float) -> None:
    ticks = latency_ticks(low, high)
    assert 3 <= len(ticks) <= 12
    assert list(ticks) == sorted(set(ticks))
    assert low <= ticks[0] < ticks[-1] <= high
    assert all(len(f"{tick:g}") <= 6 for tick in ticks)


def test_the_command_writes_what_it_is_asked_for(tmp_path: Path) -> None:
    document, picture, page = tmp_path / "result.json", tmp_path / "front.png", tmp_path / "front.html"
    document.write_text(json.dumps(result_to_json(result(MIXED))))
    arguments = [str(document), str(picture), str(page), "--title", "a title"]
    subprocess.run([sys.executable, "-m", "workers.search.pictures", *arguments], check=True)
    with Image.open(picture) as image:
        assert image.size == (png.WIDTH, png.HEIGHT)
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert colours is not None
    assert len(colours) > 50, "something is drawn"
    assert "<h1>a title</h1>" in page.read_text()


def test_the_command_says_what_it_cannot_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / "result.json"
    document.write_text('{"search_id": 3}')
    with pytest.raises(typer.BadParameter, match=r"\.html"):
        main(document, [tmp_path / "front.svg"])
    with pytest.raises(typer.Exit):
        main(document, [tmp_path / "front.png"])
    assert "is no result document: search_id" in capsys.readouterr().err
    with pytest.raises(typer.Exit):
        main(tmp_path / "nothing.json", [tmp_path / "front.html"])
    assert "cannot be drawn" in capsys.readouterr().err


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages on disk."""
    folder = tmp_path_factory.mktemp("pages")
    searched = {"mixed": SHAPES["5x5"], "wide": SHAPES["3x512"], "hostile": hostile_result()}
    for name, each in searched.items():
        contents = contents_of(each, HOSTILE if name == "hostile" else name)
        (folder / f"{name}.html").write_text(page_of(contents))
    return {name: folder / f"{name}.html" for name in searched}


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    """A page without network; what it complains of or asks for fails the test."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=BROWSER_OPTIONS)
        context = browser.new_context(offline=True)
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        yield context.new_page()
        browser.close()


@pytest.fixture
def complaints(browser_page: Page) -> Iterator[list[str]]:
    found: list[str] = []
    listeners: dict[str, Any] = {
        "console": lambda message: found.append(message.text),
        "pageerror": lambda error: found.append(str(error)),
        "request": lambda request: None if request.url.startswith("file:") else found.append(request.url),
    }
    for event, listener in listeners.items():
        browser_page.on(event, listener)  # type: ignore[call-overload]
    yield found
    for event, listener in listeners.items():
        browser_page.remove_listener(event, listener)


browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH")
OVERLAPPING = """() => {
  const texts = [...document.querySelectorAll("#plane text, h1, h2, code, th, td, li, p, .cells span")];
  const boxes = texts.filter(text => text.textContent.trim() && !text.closest("svg[aria-hidden], .modebar"))
    .map(text => [text.textContent, text.getBoundingClientRect()]);
  const covered = [];
  boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const up = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && up > 5) covered.push(`${one} | ${other}`);
  }));
  const width = document.documentElement.clientWidth;
  const cut = boxes.filter(([, box]) => box.left < 0 || box.right > width).map(([text]) => text);
  return [...covered, ...cut.map(text => `cut: ${text}`)];
}"""


@pytest.mark.browser
@browser
@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize("name", ["mixed", "wide", "hostile"])
def test_a_page_from_disk_without_network(
    browser_page: Page, complaints: list[str], pages: dict[str, Path], name: str, width: int, tmp_path: Path
) -> None:
    browser_page.set_viewport_size({"width": width, "height": 800})
    browser_page.goto(pages[name].as_uri())
    expect(browser_page.locator("#plane .scatterlayer .trace")).to_have_count(6)
    expect(browser_page.locator("#grid .heatmaplayer image")).to_have_count(1)
    browser_page.wait_for_function("document.getElementById('plane')._fullLayout.annotations.length > 2")
    folder = Path(os.environ.get("LAMBDA_SEARCH_TEST_OUTPUT") or tmp_path)
    browser_page.screenshot(path=folder / f"pictures-{name}-{width}.png", full_page=True)

    assert complaints == []
    assert browser_page.evaluate("window.taken") is None
    assert browser_page.evaluate("document.documentElement.scrollWidth") <= width
    assert browser_page.evaluate(OVERLAPPING) == []
    if name == "mixed":
        expect(browser_page.locator("code")).to_have_text(MIXED)
        expect(browser_page.locator("#figures")).to_contain_text("speedup_over_plain")
    if name == "hostile":
        expect(browser_page.locator("h1")).to_have_text(HOSTILE)
        expect(browser_page.locator("#grid .xtick").first).to_contain_text("</sc")


@pytest.mark.browser
@browser
def test_pointing_and_zooming(browser_page: Page, complaints: list[str], pages: dict[str, Path]) -> None:
    browser_page.set_viewport_size({"width": 1200, "height": 800})
    browser_page.goto(pages["mixed"].as_uri())
    plane = browser_page.locator("#plane")
    expect(plane.locator(".scatterlayer .trace")).to_have_count(6)
    whole = plane.locator(".nsewdrag").bounding_box()
    assert whole is not None

    star = plane.locator(".scatterlayer .trace").nth(4).locator(".point").bounding_box()
    assert star is not None
    browser_page.mouse.move(star["x"] + star["width"] / 2, star["y"] + star["height"] / 2)
    expect(plane.locator(".hoverlayer")).to_contain_text("speedup_over_plain 16.0x (14.4x to 17.6x)")

    x, y = star["x"] + star["width"] / 2, star["y"] + star["height"] / 2
    browser_page.mouse.move(x - 40, y - 40)
    browser_page.mouse.down()
    browser_page.mouse.move(x + 40, y + 40, steps=4)
    browser_page.mouse.up()
    browser_page.wait_for_function("document.querySelectorAll('#plane .xtick').length >= 3")
    ticks = [float(text) for text in plane.locator(".xtick").all_text_contents()]
    assert 3.5 < min(ticks) < max(ticks) < 7, ticks
    buttons = plane.locator(".modebar-btn").evaluate_all("each => each.map(button => button.dataset.title)")
    assert not [button for button in buttons if re.search("cloud|share|edit", button, re.IGNORECASE)]
    assert complaints == []
