"""A result as a PNG, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from workers.search.pictures import style
from workers.search.pictures.contents import Contents, Line
from workers.search.pictures.grid import CellSize, Grid
from workers.search.pictures.naming import place_names
from workers.search.pictures.plane import Plane, Series
from workers.search.pictures.style import CELL_COLOURS, COLOURS, MARKER_SIZES, Cell, Kind, text_width
from workers.search.pictures.words import shorten, wrapped

DPI = 100
POINTS = 72 / DPI  # points of a pixel

WIDTH, HEIGHT = 1200, 770  # pixels; a grid that goes below adds to the height
PLANE = (90, 105, 720, 495)  # left, top, width, height in pixels
SIDE = 872, 1170  # left and right edge of what stands beside the plane
STEP_LABELS = 58  # pixels left of the grid
BELOW = 90, 1170  # left edge of the cells of a grid below the plane, and right edge of their rates
LINE_STEP = 25.0  # pixels from one figure to the next, where there is room

MARKERS = {Kind.FRONT: "o", Kind.FULL: "s", Kind.PLAIN: "X", Kind.BASELINE: "s", Kind.ANSWER: "*"}
HATCH = "///"
HALO = [withStroke(linewidth=3, foreground=style.PAPER)]


def write_png(contents: Contents, file: Path) -> None:
    """Draw and keep."""
    with _settings():
        draw(contents).savefig(file, format="png", dpi=DPI)


def draw(contents: Contents) -> Figure:
    """Draw: the plane, the answer's figures, and its grid beside the plane or, if large, below it."""
    with _settings():
        grid = contents.grid
        extra = 0 if grid.is_beside else _height_below(grid)
        figure = Figure(figsize=(WIDTH / DPI, (HEIGHT + extra) / DPI), dpi=DPI, facecolor=style.PAPER)
        _write(figure, PLANE[0], 38, shorten(contents.title, 68), size=22, weight="bold")
        for number, line in enumerate(wrapped(contents.subtitle, 140, 2)):
            _write(figure, PLANE[0], 68 + 19 * number, line, size=14, color=style.MUTED)
        _draw_plane(_axes(figure, *PLANE), contents.plane)
        if grid.is_beside:
            bottom = _draw_grid_beside(figure, contents)
        else:
            _draw_grid_below(figure, contents)
            bottom = PLANE[1] - 10
        _write_figures(figure, contents.figures, bottom + 30)
    return figure


def _settings() -> AbstractContextManager[None]:
    return matplotlib.rc_context(
        {
            "font.family": style.FONT,
            "font.size": style.TEXT_SIZE * POINTS,
            "text.color": style.INK,
            "text.parse_math": False,  # a name with dollars is a name
            "hatch.linewidth": 0.8,
        }
    )


def _draw_plane(axes: Axes, plane: Plane) -> None:
    for order, series in enumerate(plane.series, start=3):
        if series.points:
            _draw_series(axes, series, order)
    axes.axhline(
        plane.threshold, color=style.LOSS, linestyle="--", linewidth=1.4, label=style.LEGEND_THRESHOLD, zorder=2
    )
    if plane.proved is not None:
        latency, height = plane.proved
        axes.plot(
            [latency],
            [height],
            linestyle="none",
            marker="_",
            markersize=15,
            markeredgewidth=2.5,
            color=style.LOSS,
            label=style.LEGEND_PROVED,
            zorder=7,
        )
    empty = plane.empty
    legend = style.LEGEND_EMPTY + ("" if empty.to_scale else " (not to scale)")
    axes.axhline(empty.height, color=style.MUTED, linewidth=1.4, linestyle=(0, (1, 2)), label=legend, zorder=2)
    _annotate(axes, empty.text, (0.01, empty.height), (0, 3), xycoords=("axes fraction", "data"), color=style.MUTED)
    for placed in place_names(plane, PLANE[2], PLANE[3]):
        name = placed.name
        _annotate(
            axes,
            name.text,
            (name.latency_ms, name.height),
            (placed.right * POINTS, placed.up * POINTS),
            ha=placed.side,
            va="center",
            color=style.MUTED if name.kind == Kind.FRONT else COLOURS[name.kind],
            fontsize=name.size * POINTS,
            fontweight="bold" if name.kind == Kind.ANSWER else "normal",
            zorder=10,
        )
    _frame(axes, plane)


def _draw_series(axes: Axes, series: Series, order: int) -> None:
    kind, points = series.kind, series.points
    colour = COLOURS[kind]
    latencies = [point.latency_ms for point in points]
    heights = [point.height for point in points]
    if kind == Kind.FRONT:
        axes.step(latencies, heights, where="post", color=colour, linewidth=1.4, zorder=order)
    if kind == Kind.FULL:
        axes.plot(latencies, heights, color=colour, linewidth=1.2, linestyle=":", zorder=order)
    axes.errorbar(
        latencies,
        heights,
        yerr=_ends([(p.height - p.low, p.high - p.height) for p in points]),
        xerr=_ends([(p.latency_ms - p.latency_low_ms, p.latency_high_ms - p.latency_ms) for p in points])
        if kind == Kind.ANSWER
        else None,
        fmt=MARKERS[kind],
        markersize=MARKER_SIZES[kind] * POINTS * (1.15 if kind == Kind.ANSWER else 1),
        color=colour,
        markerfacecolor=style.PAPER if kind == Kind.FULL else colour,
        markeredgecolor=style.PAPER if kind == Kind.ANSWER else colour,
        ecolor=colour,
        elinewidth=2.0 if kind == Kind.ANSWER else 1.0,
        capsize=4 if kind == Kind.ANSWER else 2,
        label=series.legend,
        zorder=order,
    )


def _ends(bars: Sequence[tuple[float, float]]) -> list[list[float]]:
    """Lengths of bars below and above, as matplotlib takes them."""
    return [[max(low, 0.0) for low, _ in bars], [max(high, 0.0) for _, high in bars]]


def _frame(axes: Axes, plane: Plane) -> None:
    axes.set_xscale("log")
    axes.set_xlim(*plane.latencies_ms)
    axes.set_ylim(*plane.heights)
    axes.xaxis.set_major_locator(FixedLocator(plane.latency_ticks_ms))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(plane.latency_label, color=style.INK)
    axes.set_ylabel(plane.height_label, color=style.INK)
    axes.grid(color=style.LINES, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=style.MUTED, which="both", length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(style.LINES)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.07, -0.085),
        title=style.LEGEND_BARS,
        title_fontsize=9,
        alignment="left",
        ncols=2,
        fontsize=9,
        frameon=False,
        columnspacing=1.6,
        handlelength=1.8,
        markerscale=0.7,
    )


def _draw_grid_beside(figure: Figure, contents: Contents) -> float:
    """Draw the grid in the upper right; returns where it ends."""
    grid = contents.grid
    left, right = SIDE
    top = PLANE[1] + 42
    _write(figure, left, PLANE[1], _grid_title(grid), size=15.5)
    _write(figure, left, PLANE[1] + 22, shorten(contents.answer, 34), weight="bold", color=style.ANSWER)
    bottom = _draw_cells(figure, grid, left + STEP_LABELS, top, right - left - STEP_LABELS - grid.rate_room)
    return _write_below_grid(figure, grid, left, bottom, columns=2, characters=46)


def _draw_grid_below(figure: Figure, contents: Contents) -> None:
    grid = contents.grid
    left, right = BELOW
    _write(figure, left, HEIGHT + 20, _grid_title(grid), size=15.5)
    _write(figure, left + 330, HEIGHT + 20, shorten(contents.answer, 80), weight="bold", color=style.ANSWER)
    bottom = _draw_cells(figure, grid, left, HEIGHT + 42, right - left - grid.rate_room)
    _write_below_grid(figure, grid, left, bottom, columns=3, characters=150)


def _height_below(grid: Grid) -> int:
    size = grid.cell_size(BELOW[1] - BELOW[0] - grid.rate_room)
    return round(42 + len(grid.cells) * size.height + _unit_label_height(grid, size) + 30 + 19 * len(grid.notes) + 25)


def _unit_label_height(grid: Grid, size: CellSize) -> float:
    """About how many pixels the labels of the columns take."""
    ticks, angle = grid.unit_ticks(size)
    longest = max(text_width(tick.text, style.SMALL_SIZE) for tick in ticks)
    return {0: 26.0, 40: 22 + 0.65 * longest, 90: 20 + longest}[angle]


def _grid_title(grid: Grid) -> str:
    steps, units = len(grid.cells), len(grid.units)
    return f"the answer: {steps} {'step' if steps == 1 else 'steps'} × {units} {'unit' if units == 1 else 'units'}"


def _draw_cells(figure: Figure, grid: Grid, left: float, top: float, room: float) -> float:
    """Draw cells, labels and rates; returns where the labels end."""
    steps, units = len(grid.cells), len(grid.units)
    size = grid.cell_size(room)
    axes = _axes(figure, left, top, units * size.width, max(steps, 1) * size.height)
    axes.set_xlim(0, units)
    axes.set_ylim(max(steps, 1), 0)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=style.INK, length=0, labelsize=style.SMALL_SIZE * POINTS)
    unit_ticks, angle = grid.unit_ticks(size)
    turned: dict[str, Any] = {"rotation": angle, "va": "baseline"}
    if angle:
        turned |= {"rotation_mode": "anchor", "ha": "right", "va": "center" if angle == 90 else "top"}
    axes.tick_params(axis="x", pad=(5 if angle else 16) * POINTS)
    axes.set_xticks([tick.index + 0.5 for tick in unit_ticks], [tick.text for tick in unit_ticks], **turned)
    step_ticks = grid.step_ticks(size)
    axes.set_yticks([tick.index + 0.5 for tick in step_ticks], [tick.text for tick in step_ticks])
    if steps:
        axes.pcolormesh(
            [[int(cell) for cell in row] for row in grid.cells],
            cmap=ListedColormap([CELL_COLOURS[cell] for cell in Cell]),
            vmin=min(Cell) - 0.5,
            vmax=max(Cell) + 0.5,
            edgecolors=style.PAPER if size.gap else "none",
            linewidth=size.gap * POINTS,
        )
        if grid.lowered:
            axes.add_patch(
                Rectangle((0, 0), grid.lowered, steps, hatch=HATCH, fill=False, linewidth=0, edgecolor=style.PAPER)
            )
    else:
        axes.text(0, 0.5, "no step", color=style.MUTED, va="center")
    for run in grid.runs:
        middle = (run.first + run.last + 1) / 2
        axes.plot(
            [units, units],
            [run.first + 0.12, run.last + 0.88],
            color=style.INK,
            linewidth=1.5,
            clip_on=False,
            transform=axes.transData + ScaledTranslation(5 / DPI, 0, figure.dpi_scale_trans),
        )
        _annotate(axes, run.text, (units, middle), (10 * POINTS, 0), va="center", fontsize=style.SMALL_SIZE * POINTS)
    return top + max(steps, 1) * size.height + _unit_label_height(grid, size)


def _write_below_grid(figure: Figure, grid: Grid, left: float, top: float, columns: int, characters: int) -> float:
    """Write what the colours mean, and the notes; returns where they end."""
    y = top + 4
    for number, (cell, text) in enumerate(grid.legend):
        x = left + (number % columns) * 130
        y = top + 4 + 19 * (number // columns)
        patch = Patch(facecolor=CELL_COLOURS[cell], edgecolor=style.PAPER, hatch=HATCH if cell == Cell.LOWERED else "")
        figure.legend(
            handles=[patch],
            labels=[text],
            loc="center left",
            bbox_to_anchor=_place(figure, x, y),
            borderpad=0,
            borderaxespad=0,
            handlelength=1.2,
            frameon=False,
            fontsize=style.SMALL_SIZE * POINTS,
        )
    for note in grid.notes:
        for line in wrapped(note, characters, 2):
            y += 19
            _write(figure, left, y, line, size=style.SMALL_SIZE, color=style.MUTED)
    return y


def _write_figures(figure: Figure, lines: Sequence[Line], top: float) -> None:
    """The answer's figures, each with the name of its kind."""
    step = min(LINE_STEP, (HEIGHT - 20 - top) / max(len(lines) - 1, 1))
    for number, line in enumerate(lines):
        y = top + step * number
        _write(figure, SIDE[0] + (16 if line.part else 0), y, line.name, color=style.MUTED)
        _write(figure, SIDE[1], y, line.text, ha="right", weight="bold")


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in pixels from the upper left corner."""
    across, up = _place(figure, left, top + height)
    total = figure.get_size_inches() * DPI
    return figure.add_axes((across, up, width / total[0], height / total[1]))


def _place(figure: Figure, x: float, y: float) -> tuple[float, float]:
    """Pixels from the upper left corner, as fractions from the lower left one."""
    width, height = figure.get_size_inches() * DPI
    return x / width, 1 - y / height


def _write(figure: Figure, x: float, y: float, text: str, size: float = style.TEXT_SIZE, **how: Any) -> None:
    figure.text(*_place(figure, x, y), text, va="center", fontsize=size * POINTS, **how)


def _annotate(axes: Axes, text: str, place: tuple[float, float], offset: tuple[float, float], **how: Any) -> None:
    axes.annotate(text, place, offset, textcoords="offset points", path_effects=HALO, annotation_clip=False, **how)
