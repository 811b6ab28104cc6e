"""What a picture of a result says, in words and figures; knows no drawing library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search_service.domain.result import SearchResult
from workers.search.pictures.grid import Grid, grid_of
from workers.search.pictures.plane import Plane, plane_of
from workers.search.pictures.words import clean, times

SEPARATOR = "  ·  "


@dataclass(frozen=True, slots=True)
class Line:
    """A figure with the name of its kind."""

    name: str
    text: str
    part: bool = False
    """Whether it is a part of the figure above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """Everything that a picture of a result shows."""

    title: str
    subtitle: str
    answer: str
    """The candidate's canonical text."""
    plane: Plane
    grid: Grid
    figures: tuple[Line, ...]
    """Those of the answer."""
    warnings: tuple[str, ...]


def contents_of(result: SearchResult, title: str = "") -> Contents:
    """Prepare a result for drawing.

    Args:
        result: what to draw.
        title: what to call the search; its tasks unless said.
    """
    title = clean(title)
    return Contents(
        title=title or _tasks(result),
        subtitle=_subtitle(result, bool(title)),
        answer=result.fastest.candidate,
        plane=plane_of(result),
        grid=grid_of(result.fastest),
        figures=_figures(result),
        warnings=tuple(map(clean, result.warnings)),
    )


def _figures(result: SearchResult) -> tuple[Line, ...]:
    fastest, split = result.fastest, result.speedup_split
    timing, loss = fastest.latency_s, fastest.degradation
    lines = [Line("latency", "not timed" if timing is None else f"{timing.median * 1e3:.3g} ms")]
    if fastest.speedup is not None:
        lines.append(Line("speedup", times(fastest.speedup.estimate)))
    if fastest.speedup_over_plain is not None:
        lines.append(Line("speedup_over_plain", times(fastest.speedup_over_plain.estimate)))
        lines.append(Line("from fewer steps", f"{split.steps:.2f}x", part=True))
        lines.append(Line("from fewer units (rows)", f"{split.rows:.2f}x", part=True))
        lines.append(Line("from the engine", f"{split.engine:.2f}x", part=True))
    lines.append(Line("quality", f"{fastest.quality.estimate:.4f}"))
    lines.append(Line("degradation", f"{loss.estimate:+.4f}"))
    if loss.upper_bound is not None:
        lines.append(Line("its upper bound", f"{loss.upper_bound:+.4f}", part=True))
    others = result.confirmed.class_interval
    if others is not None:
        lines.append(Line("with other classes", f"{others.low:+.4f} to {others.high:+.4f}", part=True))
    lines.append(Line("max_degradation", f"{result.max_degradation:.4g}"))
    lines.append(Line("confidence", f"{result.confidence:.4g}"))
    if result.search.unresolved:
        lines.append(Line("unresolved candidates", str(len(result.search.unresolved))))
    return tuple(lines)


def _tasks(result: SearchResult) -> str:
    tasks: dict[str, Any] = result.checkpoint.get("tasks") or {}
    if not tasks:
        return clean(f"search {result.search_id}")
    ways = f"{tasks['ways']}-way " if tasks.get("ways") else ""
    return clean(f"{tasks.get('family', '')}, {ways}{tasks.get('shots', '?')}-shot")


def _subtitle(result: SearchResult, with_tasks: bool) -> str:
    confirmed = result.confirmed
    classes = "" if confirmed.classes is None else f"{confirmed.classes} classes, "
    parts = [_tasks(result)] if with_tasks and result.checkpoint.get("tasks") else []
    parts.append(f"confirmed on {classes}{confirmed.episodes} episodes ({clean(result.method)})")
    parts.append(f"{clean(result.device.get('class', 'device unknown'))}, {clean(result.runtime)}")
    if result.norm_statistics == "query":
        parts.append("query statistics (transductive)")
    return SEPARATOR.join(parts)
