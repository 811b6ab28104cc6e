"""A result as one self-contained interactive page, drawn by Plotly.

The package ``plotly`` carries its JavaScript in one size only (4.6 MiB, all kinds of plots), and the page holds it
inline: it works from disk, and its content policy lets it fetch nothing.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from workers.search.pictures import style
from workers.search.pictures.contents import Contents
from workers.search.pictures.plane import EVEN_TICKS, FEWEST_TICKS, Plane
from workers.search.pictures.plotly_figures import grid_figure, plane_figure
from workers.search.pictures.style import CELL_COLOURS, COLOURS, DASHED, DOTTED, Kind

CONFIG = {
    "responsive": True,
    "displaylogo": False,
    "showTips": False,
    "showSendToCloud": False,  # else there is a button that uploads what is drawn
    "plotlyServerURL": "",
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
}

SWATCHES = {  # the same marks for the legend, in a box of 28 x 16
    Kind.FRONT: '<path d="M0 8H28M14 1V15" stroke="{0}"/><circle cx="14" cy="8" r="4" fill="{0}"/>',
    Kind.FULL: '<path d="M0 8H28" stroke="{0}" stroke-dasharray="2 3"/>'
    '<rect x="10" y="4" width="8" height="8" fill="white" stroke="{0}" stroke-width="1.5"/>',
    Kind.PLAIN: '<path d="M10 4L18 12M18 4L10 12" stroke="{0}" stroke-width="3.5"/>',
    Kind.BASELINE: '<path d="M14 0V16" stroke="{0}"/><rect x="9" y="3" width="10" height="10" fill="{0}"/>',
    Kind.ANSWER: '<path d="M14 0l2.2 5.4 5.8.4-4.4 3.7 1.4 5.7-5-3.1-5 3.1 1.4-5.7L6 5.8l5.8-.4z" fill="{0}"/>',
}
LEVEL_SWATCH = '<path d="M0 8H28" stroke="{0}" stroke-width="1.8" stroke-dasharray="{1}"/>'
PROVED_SWATCH = '<path d="M7 8H21" stroke="{0}" stroke-width="3"/>'


def write_html(contents: Contents, file: Path) -> None:
    """Write the page."""
    file.write_text(page(contents), encoding="utf-8")


def page(contents: Contents) -> str:
    """The page as text; whatever comes from a result is escaped."""
    template = Template(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in contents.warnings)
    grid = contents.grid
    return template.substitute(
        title=escape(contents.title),
        subtitle=escape(contents.subtitle),
        answer=escape(contents.answer),
        layout="beside" if grid.is_beside else "below",
        fonts=style.FONTS,
        ink=style.INK,
        muted=style.MUTED,
        lines=style.LINES,
        paper=style.PAPER,
        fewest_ticks=FEWEST_TICKS,
        even_ticks=EVEN_TICKS,
        accent=style.ANSWER,
        bars=escape(style.LEGEND_BARS),
        legend=_legend(contents.plane),
        figures="".join(
            f'<tr{" class=part" if line.part else ""}><th scope="row">{escape(line.name)}</th>'
            f"<td>{escape(line.text)}</td></tr>"
            for line in contents.figures
        ),
        grid_title=f"{len(grid.cells)} × {len(grid.units)}: inner steps × units",
        grid_legend="".join(
            f'<span><i style="background:{CELL_COLOURS[cell]}"></i>{escape(text)}</span>' for cell, text in grid.legend
        ),
        grid_notes="".join(f"<p>{escape(note)}</p>" for note in grid.notes),
        warnings=f"<section><h2>Warnings</h2><ul>{warnings}</ul></section>" if warnings else "",
        plotly=get_plotlyjs(),
        plane=_plot(plane_figure(contents.plane), "plane"),
        grid=_plot(grid_figure(grid), "grid", displayModeBar=not grid.is_beside and "hover"),
    )


def _legend(plane: Plane) -> str:
    entries = [(SWATCHES[s.kind].format(COLOURS[s.kind]), s.legend) for s in plane.series if s.points]
    if plane.proved is not None:
        entries.append((PROVED_SWATCH.format(style.LOSS), style.LEGEND_PROVED))
    entries.append((LEVEL_SWATCH.format(style.LOSS, DASHED), style.LEGEND_THRESHOLD))
    empty = style.LEGEND_EMPTY + ("" if plane.empty.to_scale else " (not to scale)")
    entries.append((LEVEL_SWATCH.format(style.MUTED, DOTTED), empty))
    return "".join(
        f'<li><svg width="28" height="16" viewBox="0 0 28 16" fill="none" aria-hidden="true">{mark}</svg>'
        f"{escape(text)}</li>"
        for mark, text in entries
    )


def _plot(figure: go.Figure, name: str, **config: Any) -> str:
    text: str = to_html(figure, config=CONFIG | config, include_plotlyjs=False, full_html=False, div_id=name)
    return text
