"""Where the names of points go so that none covers another: each tries places around its point."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from workers.search.pictures.plane import Name, Plane
from workers.search.pictures.style import MARKER_SIZES, Kind, text_width

LINE_HEIGHT = 1.25  # of the size of the text
CLEARANCE = 4.0  # pixels between a marker and its name
ON_TEXT, OUTSIDE, ON_MARKER, ON_BAR = 1000.0, 500.0, 100.0, 3.0  # what it costs to cover something
DEAREST = 100.0  # what an optional name may cost at most
LONGEST = 0.5  # of the width of the plane, from which a name is brief

Side = Literal["left", "center", "right"]
"""Which of its sides a text is placed by."""

PLACES: tuple[tuple[int, int], ...] = ((1, -1), (1, 1), (-1, 1), (-1, -1), (0, -1), (0, 1), (1, 0), (-1, 0))
"""Directions from the point, right and up positive; the first free one is taken."""
PREFERRED: dict[Kind, tuple[int, int]] = {
    Kind.ANSWER: (1, -1),
    Kind.BASELINE: (0, 1),
    Kind.PLAIN: (0, -1),
    Kind.FULL: (0, -1),
    Kind.FRONT: (-1, 1),  # up and to the left of a point of the front there is none
}


@dataclass(frozen=True, slots=True)
class Placed:
    """A name and where it goes: the middle of its height, and one of its sides, so many pixels from its point."""

    name: Name
    right: float
    up: float
    side: Side


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: _Box) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top
        )


def place_names(plane: Plane, width: float, height: float) -> list[Placed]:
    """Place the names on a plane of so many pixels; one without room is left out unless it has a brief form."""
    markers, bars = _obstacles(plane, width, height)
    whole = _Box(0, 0, width, height)
    texts: list[_Box] = []
    if not plane.empty.to_scale:
        line = _up(plane, plane.empty.height, height)
        texts.append(_Box(0, line, text_width(plane.empty.text, 13), line + 20))
    placed = []
    for name in plane.names:
        if name.brief and _width(name) > LONGEST * width:
            name = replace(name, text=name.brief)
        options: list[tuple[float, int, Placed, _Box]] = []
        first = PREFERRED[name.kind]
        for direction in (first, *(place for place in PLACES if place != first)):
            here = _beside(name, direction)
            box = _box(plane, here, width, height)
            cost = ON_TEXT * sum(box.overlaps(other) for other in texts)
            cost += OUTSIDE * (not _inside(box, whole)) + ON_MARKER * sum(box.overlaps(other) for other in markers)
            cost += ON_BAR * sum(box.overlaps(other) for other in bars)
            options.append((cost, len(options), here, box))
        cost, _, here, box = min(options, key=lambda option: option[:2])
        if name.brief or cost < DEAREST:
            placed.append(here)
            texts.append(box)
    return placed


def _obstacles(plane: Plane, width: float, height: float) -> tuple[list[_Box], list[_Box]]:
    """Boxes of markers, and of thin things that a name may cover if need be."""
    markers, bars = [], []
    for series in plane.series:
        half = MARKER_SIZES[series.kind] / 2
        for point in series.points:
            x, y = _across(plane, point.latency_ms, width), _up(plane, point.height, height)
            markers.append(_Box(x - half, y - half, x + half, y + half))
            bars.append(_Box(x - 3, _up(plane, point.low, height), x + 3, _up(plane, point.high, height)))
    for level in (plane.threshold, plane.empty.height):
        y = _up(plane, level, height)
        bars.append(_Box(0, y - 1, width, y + 1))
    return markers, bars


def _beside(name: Name, direction: tuple[int, int]) -> Placed:
    across, up = direction
    away = MARKER_SIZES[name.kind] / 2 + CLEARANCE * (2 if name.kind == Kind.ANSWER else 1)  # it has a bar across
    tall = name.size * LINE_HEIGHT * (name.text.count("\n") + 1)
    side: Side = "center" if across == 0 else "left" if across > 0 else "right"
    sideways = away if up == 0 else 0.6 * away
    return Placed(name, across * sideways, up * (away * (1.0 if across == 0 else 0.5) + tall / 2), side)


def _box(plane: Plane, here: Placed, width: float, height: float) -> _Box:
    name = here.name
    wide = _width(name)
    tall = name.size * LINE_HEIGHT * (name.text.count("\n") + 1)
    x = _across(plane, name.latency_ms, width) + here.right
    x -= {"left": 0.0, "center": wide / 2, "right": wide}[here.side]
    y = _up(plane, name.height, height) + here.up - tall / 2
    return _Box(x, y, x + wide, y + tall)


def _width(name: Name) -> float:
    return text_width(name.text, name.size, bold=name.kind == Kind.ANSWER)


def _inside(box: _Box, whole: _Box) -> bool:
    return (
        box.left >= whole.left and box.right <= whole.right and box.bottom >= whole.bottom and box.top <= whole.top + 8
    )


def _across(plane: Plane, latency_ms: float, width: float) -> float:
    left, right = map(math.log10, plane.latencies_ms)
    return (math.log10(latency_ms) - left) / (right - left) * width


def _up(plane: Plane, level: float, height: float) -> float:
    bottom, top = plane.heights
    return (level - bottom) / (top - bottom) * height
