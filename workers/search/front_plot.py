"""``python -m workers.search.front_plot RESULT.json OUT.png``: latency against quality, and the answer as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pydantic import ValidationError

from search_service.domain.result import FrontPoint, PatternFigures, SearchResult
from search_service.storage.codec import result_from_json

WIDTH, HEIGHT = 1200, 750  # pixels
DPI = 100

INK = "#1f2933"
MUTED = "#7b8794"
GRID = "#e4e7eb"
ANSWER = "#0b7285"
FRONT = "#74a9cf"
FULL = "#343a40"
LOSS = "#c92a2a"
FROZEN = "#eef1f4"

QUALITY_LABELS = {
    "accuracy": "quality: accuracy (fraction of queries)",
    "negative_mse": "quality: negative mean squared error",
}
MARGIN = 0.08  # of the span of qualities, above and below what must be seen
FAR_BELOW = 1.2  # spans below the rest from which the empty pattern is named at the edge and not drawn to scale
HALO = [withStroke(linewidth=3, foreground="white")]
LABELLED_FRONT = 4  # front points that are named


def draw(result: SearchResult, title: str = "") -> Figure:
    """Draw a result; what is validation and what is confirmation is told apart in the legend.

    Validation classes may be easier or harder than confirmation classes, so the front is drawn by its degradation.

    Args:
        result: what to draw.
        title: what to call the search; its tasks unless said.
    """
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 10.5, "text.color": INK}):
        figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
        plane = figure.add_axes((0.075, 0.2, 0.6, 0.65))
        side = figure.add_axes((0.765, 0.53, 0.2, 0.285))
        figure.text(0.075, 0.95, title or _tasks(result), fontsize=16, fontweight="bold", va="center")
        figure.text(0.075, 0.905, _subtitle(result, bool(title)), fontsize=11, color=MUTED, va="center")
        _draw_plane(plane, result)
        _draw_pattern(side, result.fastest)
        _write_figures(figure, result)
    return figure


def _draw_plane(axes: Axes, result: SearchResult) -> None:
    fastest, baseline = result.fastest, result.baseline
    threshold = baseline.quality.estimate - result.max_degradation
    full = [figures for figures in result.full_by_steps if figures.pattern != baseline.pattern]

    front = sorted(result.front, key=lambda point: point.latency_s)
    axes.step(
        [point.latency_s * 1e3 for point in front],
        [_height(result, point) for point in front],
        where="post",
        marker="o",
        markersize=6,
        color=FRONT,
        linewidth=1.4,
        label="front: baseline less degradation (validation classes)",
        zorder=3,
    )
    axes.plot(
        *_coordinates(full),
        linestyle=":",
        marker="s",
        markersize=7,
        color=FULL,
        markerfacecolor="white",
        label="full pattern, fewer steps (confirmation classes)",
        zorder=4,
    )
    axes.plot(
        *_coordinates([baseline]),
        linestyle="none",
        marker="s",
        markersize=10,
        color=FULL,
        label="baseline (confirmation classes)",
        zorder=5,
    )
    axes.axhline(
        threshold, color=LOSS, linestyle="--", linewidth=1.4, label="threshold: baseline less max_degradation", zorder=2
    )
    if fastest.latency_s is not None:
        quality = fastest.quality
        axes.errorbar(
            [fastest.latency_s.median * 1e3],
            [quality.estimate],
            yerr=[[quality.estimate - quality.low], [quality.high - quality.estimate]],
            xerr=[
                [(fastest.latency_s.median - fastest.latency_s.p10) * 1e3],
                [(fastest.latency_s.p90 - fastest.latency_s.median) * 1e3],
            ],
            marker="*",
            markersize=21,
            color=ANSWER,
            markeredgecolor="white",
            markeredgewidth=1.2,
            capsize=4,
            linewidth=1.8,
            linestyle="none",
            label="the answer, 95% interval, p10 to p90 (confirmation classes)",
            zorder=6,
        )
    _frame(axes, result, threshold)
    _name_points(axes, result, full)


def _frame(axes: Axes, result: SearchResult, threshold: float) -> None:
    """Limits, scales and the empty pattern, which is named at the edge where it would flatten all the rest."""
    shown = [threshold, *(_height(result, point) for point in result.front)]
    for figures in [result.fastest, result.baseline, *result.full_by_steps]:
        shown += [figures.quality.low, figures.quality.high]
    low, high = min(shown), max(shown)
    span = max(high - low, 1e-6)
    empty = result.empty.quality.estimate
    if empty >= low - FAR_BELOW * span:
        axes.axhline(empty, color=MUTED, linewidth=1.4, linestyle=(0, (1, 2)), label="empty pattern, no adaptation")
        low = min(low, empty)
        span = high - low
        bottom = low - MARGIN * span
    else:
        bottom = low - 3 * MARGIN * span
        line = bottom + 0.9 * MARGIN * span
        axes.axhline(
            line, color=MUTED, linewidth=1.4, linestyle=(0, (1, 2)), label="empty pattern, no adaptation (not to scale)"
        )
        text = f"↓ empty pattern, no adaptation: {empty:.3f}, below this picture"
        axes.annotate(
            text, (0.01, line), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", color=MUTED
        )
    axes.set_ylim(bottom, high + 2 * MARGIN * span)
    axes.set_xscale("log")
    left, right = _latency_limits(result)
    axes.set_xlim(left, right)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    metric = result.baseline.quality.metric
    axes.set_xlabel("latency of one adaptation (ms, median, log scale)", color=INK)
    axes.set_ylabel(QUALITY_LABELS.get(metric, f"quality: {metric}"), color=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, which="both", length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(GRID)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.07, -0.125), ncols=2, fontsize=9.5, frameon=False, columnspacing=2.5
    )


def _latency_limits(result: SearchResult) -> tuple[float, float]:
    timed = [result.fastest, result.baseline, *result.full_by_steps]
    latencies = [figures.latency_s.median * 1e3 for figures in timed if figures.latency_s is not None]
    latencies += [point.latency_s * 1e3 for point in result.front]
    if not latencies:
        return 0.1, 10.0
    spread = max(max(latencies) / min(latencies), 1.5)
    return min(latencies) / spread**0.14, max(latencies) * spread**0.12


def _name_points(axes: Axes, result: SearchResult, full: list[PatternFigures]) -> None:
    fastest = result.fastest
    for figures in full:
        if figures.candidate != fastest.candidate:
            _name(axes, figures, f"full@{figures.steps}", (0, -19), FULL, centred=True)
    _name(axes, result.baseline, f"baseline\n{result.baseline.pattern}", (0, 12), FULL, centred=True)
    _name(axes, fastest, fastest.candidate, (13, -17), ANSWER, bold=True)
    already = {figures.candidate for figures in [fastest, result.baseline, *full]}
    unnamed = [point for point in result.front if point.candidate not in already]
    for point in sorted(unnamed, key=lambda point: point.degradation)[:LABELLED_FRONT]:
        axes.annotate(
            point.candidate,
            (point.latency_s * 1e3, _height(result, point)),
            (-4, 4),  # up and to the left of a point of the front there is none
            textcoords="offset points",
            fontsize=8.5,
            color=MUTED,
            ha="right",
            path_effects=HALO,
        )


def _name(
    axes: Axes,
    figures: PatternFigures,
    text: str,
    offset: tuple[float, float],
    colour: str,
    bold: bool = False,
    centred: bool = False,
) -> None:
    if figures.latency_s is not None:
        axes.annotate(
            text,
            (figures.latency_s.median * 1e3, figures.quality.estimate),
            offset,
            textcoords="offset points",
            fontsize=12 if bold else 9.5,
            fontweight="bold" if bold else "normal",
            color=colour,
            ha="center" if centred else "left",
            path_effects=HALO,
            zorder=7,
        )


def _draw_pattern(axes: Axes, fastest: PatternFigures) -> None:
    """The answer as a grid: one row per inner step, one column per unit."""
    units, rows = fastest.units, fastest.rows
    for step, row in enumerate(rows):
        for unit, digit in enumerate(row):
            face = ANSWER if digit == "1" else FROZEN
            axes.add_patch(Rectangle((unit + 0.05, step + 0.05), 0.9, 0.9, facecolor=face, edgecolor="none"))
    axes.set_xlim(0, len(units))
    axes.set_ylim(max(len(rows), 1), 0)
    axes.set_aspect("equal", anchor="N")
    tilt = {"rotation": 35, "ha": "right"} if len(units) > 3 else {"ha": "center"}
    axes.set_xticks([unit + 0.5 for unit in range(len(units))], units, **tilt)
    axes.set_yticks([step + 0.5 for step in range(len(rows))], [f"step {step + 1}" for step in range(len(rows))])
    axes.tick_params(colors=INK, length=0, labelsize=9.5)
    axes.spines[:].set_visible(False)
    axes.set_title("the answer: updated units", loc="left", fontsize=11, color=INK, pad=10)


def _write_figures(figure: Figure, result: SearchResult) -> None:
    """The answer's figures, each with the name of its kind."""
    fastest, split = result.fastest, result.speedup_split
    lines: list[tuple[str, str]] = []
    if fastest.speedup is not None:
        lines.append(("speedup", f"{fastest.speedup.estimate:.1f}x"))
    if fastest.speedup_over_plain is not None:
        lines.append(("speedup_over_plain", f"{fastest.speedup_over_plain.estimate:.1f}x"))
    lines.append(("   from fewer steps", f"{split.steps:.2f}x"))
    lines.append(("   from fewer units (rows)", f"{split.rows:.2f}x"))
    lines.append(("   from the engine", f"{split.engine:.2f}x"))
    lines.append(("degradation", f"{fastest.degradation.estimate:+.4f}"))
    if fastest.degradation.upper_bound is not None:
        lines.append(("its upper bound", f"{fastest.degradation.upper_bound:+.4f}"))
    lines.append(("max_degradation", f"{result.max_degradation:.4g}"))
    lines.append(("confidence", f"{result.confidence:.4g}"))
    for number, (name, text) in enumerate(lines):
        y = 0.395 - 0.04 * number
        figure.text(0.725, y, name, color=MUTED, fontsize=10.5)
        figure.text(0.975, y, text, color=INK, fontsize=10.5, ha="right", fontweight="bold")


def _height(result: SearchResult, point: FrontPoint) -> float:
    """Where a front point stands: by its degradation, since other classes are of another difficulty altogether."""
    return result.baseline.quality.estimate - point.degradation


def _coordinates(figures: list[PatternFigures]) -> tuple[list[float], list[float]]:
    timed = [(entry.latency_s.median * 1e3, entry.quality.estimate) for entry in figures if entry.latency_s is not None]
    return [latency for latency, _ in timed], [quality for _, quality in timed]


def _tasks(result: SearchResult) -> str:
    tasks: dict[str, Any] = result.checkpoint.get("tasks") or {}
    if not tasks:
        return f"search {result.search_id}"
    ways = f"{tasks['ways']}-way " if tasks.get("ways") else ""
    return f"{tasks.get('family', '')}, {ways}{tasks.get('shots', '?')}-shot"


def _subtitle(result: SearchResult, with_tasks: bool) -> str:
    confirmed = result.confirmed
    classes = "" if confirmed.classes is None else f"{confirmed.classes} classes, "
    tasks = [_tasks(result)] if with_tasks and result.checkpoint.get("tasks") else []
    confirmation = f"confirmed on {classes}{confirmed.episodes} episodes"
    return "  ·  ".join([*tasks, confirmation, f"{result.device.get('class', 'device unknown')}, {result.runtime}"])


def main(
    result: Annotated[Path, typer.Argument(metavar="RESULT.json", help="A result document.")],
    picture: Annotated[Path, typer.Argument(metavar="OUT.png", help="Where the picture goes.")],
    title: Annotated[str, typer.Option(help="What to call the search; its tasks unless said.")] = "",
) -> None:
    """Draw the front of a search."""
    try:
        document = result_from_json(json.loads(result.read_text(encoding="utf-8")))
        draw(document, title).savefig(picture, format="png", dpi=DPI)
    except ValidationError as error:
        first = error.errors()[0]
        print(f"{result} is no result document: {'.'.join(map(str, first['loc']))}: {first['msg']}", file=sys.stderr)
        raise typer.Exit(1) from error
    except (OSError, ValueError) as error:
        print(f"{result} cannot be drawn: {error}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
