"""The plane and the grid as Plotly figures: every point, bar and cell answers to whoever points at it."""

from __future__ import annotations

from html import escape
from math import log10
from typing import Any

import plotly.graph_objects as go

from workers.search.pictures import style
from workers.search.pictures.grid import Grid
from workers.search.pictures.naming import place_names
from workers.search.pictures.plane import Plane, Point, Series
from workers.search.pictures.style import (
    CELL_COLOURS,
    COLOURS,
    DASHED,
    DOTTED,
    FONTS,
    MARKER_SIZES,
    Cell,
    Kind,
    text_width,
)
from workers.search.pictures.words import wrapped

PLANE_WIDTHS = (240, 400, 560, 700)  # pixels between the axes; names are placed for each, the page takes what fits
PLANE_HEIGHT = 400  # pixels between the axes, or a little more
PLANE_MARGINS = {"l": 66, "r": 14, "t": 30, "b": 52}
GRID_WIDTH_BESIDE, GRID_WIDTH_BELOW = 336, 1130  # pixels of the whole grid, labels and rates included
STEP_LABELS = 62  # pixels left of the cells
MOST_UNIT_LABEL = 140  # pixels
HOVER_CHARACTERS, HOVER_LINES = 44, 4  # of a candidate's text
BAR_HEIGHT = 28  # pixels of the buttons to zoom with

HOVER = {
    "bgcolor": style.PAPER,
    "bordercolor": style.MUTED,
    "align": "left",
    "font": {"family": FONTS, "size": style.SMALL_SIZE, "color": style.INK},
}
SYMBOLS = {
    Kind.FRONT: "circle",
    Kind.FULL: "square-open",
    Kind.PLAIN: "x",
    Kind.BASELINE: "square",
    Kind.ANSWER: "star",
}


def plane_figure(plane: Plane) -> go.Figure:
    """The front: one trace for each kind of point, a line each for the threshold and the empty pattern."""
    figure = go.Figure([_trace(series) for series in plane.series if series.points])
    if plane.proved is not None:
        latency, height = plane.proved
        figure.add_scatter(
            name=style.LEGEND_PROVED,
            x=[latency],
            y=[height],
            mode="markers",
            marker={"symbol": "line-ew", "size": 16, "line": {"width": 3, "color": style.LOSS}},
            hoverinfo="text",
            hovertext=[f"{escape(style.LEGEND_PROVED)}: as quality, {height:.4f}"],
        )
    _add_level(figure, plane.threshold, style.LOSS, DASHED, "threshold")
    _add_level(figure, plane.empty.height, style.MUTED, DOTTED, "empty")
    font = {"size": style.TEXT_SIZE, "color": style.INK}
    names = [[width, _annotations(plane, width)] for width in PLANE_WIDTHS]
    ticks = {"tickfont": {"color": style.MUTED}, "gridcolor": style.LINES, "linecolor": style.LINES, "showline": True}
    figure.update_layout(
        template="none",
        font={"family": FONTS, "size": style.TEXT_SIZE, "color": style.INK},
        margin=PLANE_MARGINS,
        showlegend=False,
        hovermode="closest",
        hoverlabel=HOVER,
        dragmode="zoom",
        annotations=names[-1][1],
        meta={"names": names},
        xaxis={
            "type": "log",
            "range": [log10(limit) for limit in plane.latencies_ms],
            "title": {"text": plane.latency_label, "standoff": 8, "font": font},
            "tickformat": "~r",
            "tickvals": list(plane.latency_ticks_ms),
            "zeroline": False,
            **ticks,
        },
        yaxis={
            "range": list(plane.heights),
            "title": {"text": escape(plane.height_label, quote=False), "standoff": 6, "font": font},
            "automargin": False,
            "zeroline": False,
            "nticks": 8,
            **ticks,
        },
    )
    return figure


def grid_figure(grid: Grid) -> go.Figure:
    """The pattern: a heatmap of what happens to each unit at each step, with the rates at its right."""
    steps, units = len(grid.cells), len(grid.units)
    rates = grid.rate_room
    size = grid.cell_size((GRID_WIDTH_BESIDE if grid.is_beside else GRID_WIDTH_BELOW) - STEP_LABELS - rates)
    unit_ticks, angle = grid.unit_ticks(size)
    step_ticks = grid.step_ticks(size)
    longest = max(text_width(tick.text, style.SMALL_SIZE) for tick in unit_ticks)
    bottom = 26 if angle == 0 else min(longest * (1.0 if angle == 90 else 0.7) + 18, MOST_UNIT_LABEL)
    colours = [[edge / len(Cell), CELL_COLOURS[cell]] for cell in Cell for edge in (cell, cell + 1)]
    figure = go.Figure()
    if steps:
        figure.add_heatmap(
            z=[[int(cell) for cell in row] for row in grid.cells],
            zmin=min(Cell) - 0.5,
            zmax=max(Cell) + 0.5,
            colorscale=colours,
            showscale=False,
            xgap=size.gap,
            ygap=size.gap,
            hoverinfo="text",
            hovertext=[
                [escape(grid.said(step, unit), quote=False) for unit in range(units)] for step in range(len(grid.cells))
            ],
        )
    else:
        figure.add_annotation(text="no step", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)
    for run in grid.runs:
        figure.add_shape(
            type="line",
            xref="paper",
            xsizemode="pixel",
            xanchor=1,
            x0=4,
            x1=4,
            y0=run.first - 0.4,
            y1=run.last + 0.4,
            line={"color": style.INK, "width": 1.5},
        )
        figure.add_annotation(
            text=run.text,
            x=1,
            y=(run.first + run.last) / 2,
            xref="paper",
            yref="y",
            xanchor="left",
            xshift=7,
            showarrow=False,
            font={"size": style.SMALL_SIZE},
        )
    top = 4 if grid.is_beside else BAR_HEIGHT
    axis = {
        "showgrid": False,
        "zeroline": False,
        "fixedrange": grid.is_beside,
        "ticks": "",
        "tickfont": {"size": style.SMALL_SIZE},
    }
    figure.update_layout(
        template="none",
        font={"family": FONTS, "size": style.TEXT_SIZE, "color": style.INK},
        width=round(STEP_LABELS + units * size.width + rates),
        height=round(top + max(steps, 1) * size.height + bottom),
        margin={"l": STEP_LABELS, "r": rates, "t": top, "b": bottom},
        hoverlabel=HOVER,
        xaxis={
            "range": [-0.5, units - 0.5],
            "tickmode": "array",
            "tickvals": [tick.index for tick in unit_ticks],
            "ticktext": [escape(tick.text, quote=False) for tick in unit_ticks],
            "tickangle": -angle,
            **axis,
        },
        yaxis={
            "range": [max(steps, 1) - 0.5, -0.5],
            "tickmode": "array",
            "tickvals": [tick.index for tick in step_ticks],
            "ticktext": [tick.text for tick in step_ticks],
            **axis,
        },
    )
    return figure


def _trace(series: Series) -> go.Scatter:
    kind, points = series.kind, series.points
    colour = COLOURS[kind]
    lines = {
        Kind.FRONT: {"shape": "hv", "width": 1.4, "color": colour},
        Kind.FULL: {"dash": "dot", "width": 1.2, "color": colour},
    }
    bar = {
        "type": "data",
        "symmetric": False,
        "color": colour,
        "thickness": 2 if kind == Kind.ANSWER else 1,
        "width": 3,
    }
    return go.Scatter(
        name=series.legend,
        x=[point.latency_ms for point in points],
        y=[point.height for point in points],
        mode="lines+markers" if kind in lines else "markers",
        line=lines.get(kind),
        marker={
            "symbol": SYMBOLS[kind],
            "size": MARKER_SIZES[kind] * (0.85 if kind == Kind.ANSWER else 1),
            "color": colour,
            "line": {"width": 1.2, "color": style.PAPER} if kind == Kind.ANSWER else None,
        },
        error_y={
            "array": [max(point.high - point.height, 0.0) for point in points],
            "arrayminus": [max(point.height - point.low, 0.0) for point in points],
            **bar,
        },
        error_x={
            "array": [max(point.latency_high_ms - point.latency_ms, 0.0) for point in points],
            "arrayminus": [max(point.latency_ms - point.latency_low_ms, 0.0) for point in points],
            **bar,
        }
        if kind == Kind.ANSWER
        else None,
        hoverinfo="text",
        hovertext=[_hover(series, point) for point in points],
    )


def _hover(series: Series, point: Point) -> str:
    candidate = wrapped(point.candidate.replace("/", "/ "), HOVER_CHARACTERS, HOVER_LINES)
    lines = [f"<b>{'<br>'.join(escape(line.replace('/ ', '/'), quote=False) for line in candidate)}</b>"]
    lines.append(escape(series.legend, quote=False))
    return "<br>".join([*lines, *(f"{name} {escape(text, quote=False)}" for name, text in point.facts)])


def _add_level(figure: go.Figure, height: float, colour: str, dash: str, name: str) -> None:
    figure.add_shape(
        type="line",
        name=name,
        layer="above",  # a line of the grid may be at the same height
        xref="paper",
        x0=0,
        x1=1,
        y0=height,
        y1=height,
        line={"color": colour, "width": 1.5, "dash": dash.replace(" ", ",")},
    )


def _annotations(plane: Plane, width: float) -> list[dict[str, Any]]:
    """Names of points and of the empty pattern's line, for a plane so wide."""
    written: list[dict[str, Any]] = [
        {
            "text": escape(plane.empty.text, quote=False),
            "xref": "paper",
            "x": 0.01,
            "y": plane.empty.height,
            "xanchor": "left",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"color": style.MUTED},
        }
    ]
    for placed in place_names(plane, width, PLANE_HEIGHT):
        name = placed.name
        text = escape(name.text, quote=False).replace("\n", "<br>")
        written.append(
            {
                "text": f"<b>{text}</b>" if name.kind == Kind.ANSWER else text,
                "x": log10(name.latency_ms),
                "y": name.height,
                "xshift": placed.right,
                "yshift": placed.up,
                "xanchor": placed.side,
                "yanchor": "middle",
                "align": placed.side,
                "showarrow": False,
                "font": {
                    "color": style.MUTED if name.kind == Kind.FRONT else COLOURS[name.kind],
                    "size": name.size,
                },
            }
        )
    return written
