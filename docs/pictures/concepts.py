"""Draws the pictures of docs/concepts.md and docs/operating.md: ``python docs/pictures/concepts.py``.

Each picture is an SVG on a light card of its own, so it reads the same on light and dark pages. No fonts or scripts
come from elsewhere. A test compares the stored files with what this draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from workers.search.confidence import upper_bounds
from workers.search.decisions import Verdict, look, question_of

IMAGES = Path(__file__).parents[1] / "images"

PAPER, INK, FAINT, EDGE = "#f8f9fb", "#1f2328", "#57606a", "#d0d7de"
ACTIVE, FROZEN, SHARED = "#d9622b", "#dfe4ea", "#7aa6d6"
BLUE, GREEN, RED = "#2563a8", "#2e7d4f", "#b3372f"

UNITS = ("conv1", "conv2", "conv3", "conv4", "head")
ROWS = ("00111", "00010")
"""The pattern that the pictures show: 00111/00010."""

Anchor = Literal["start", "middle", "end"]


class Picture:
    """An SVG in the making; lengths are pixels."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="system-ui, sans-serif" font-size="14">',
            f"<title>{escape(title)}</title>",
            f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8" fill="{PAPER}" stroke="{EDGE}"/>',
        ]

    def box(self, x: float, y: float, width: float, height: float, fill: str, stroke: str = "none") -> None:
        """A filled rectangle."""
        self._parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" fill="{fill}" '
            f'stroke="{stroke}"/>'
        )

    def text(
        self, x: float, y: float, words: str, anchor: Anchor = "middle", fill: str = INK, bold: bool = False
    ) -> None:
        """One line of text."""
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{weight}>{escape(words)}</text>'
        )

    def line(
        self, points: Iterable[tuple[float, float]], stroke: str = FAINT, dashes: str = "", width: float = 1.5
    ) -> None:
        """A line through points."""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{stroke}" stroke-width="{width}"{dashed}/>')

    def dot(self, x: float, y: float, fill: str) -> None:
        """A mark at a point."""
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}"/>')

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line with a head at its last point."""
        self.line(points)
        (x, y), (tip_x, tip_y) = points[-2:]
        angle = math.atan2(tip_y - y, tip_x - x)
        head = [
            (tip_x + 8 * math.cos(angle + turn), tip_y + 8 * math.sin(angle + turn))
            for turn in (math.pi - 0.4, math.pi + 0.4)
        ]
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(tip_x, tip_y), *head])
        self._parts.append(f'<polygon points="{corners}" fill="{FAINT}"/>')

    def svg(self) -> str:
        """The whole document."""
        return "\n".join([*self._parts, "</svg>"]) + "\n"


def pattern() -> str:
    """A Λ-pattern as a matrix of inner steps by units."""
    picture = Picture(680, 236, "The pattern 00111/00010: two inner steps by five units")
    left, top, width, height = 150, 64, 96, 46
    for column, unit in enumerate(UNITS):
        picture.text(left + width * (column + 0.5), top - 14, unit, bold=True)
    for number, row in enumerate(ROWS):
        y = top + number * (height + 8)
        picture.text(left - 16, y + 20, f"inner step {number + 1}", "end")
        picture.text(left - 16, y + 38, row, "end", FAINT)
        for column, digit in enumerate(row):
            active = digit == "1"
            picture.box(left + width * column + 3, y, width - 6, height, ACTIVE if active else FROZEN)
            x = left + width * (column + 0.5)
            picture.text(x, y + 28, "updated" if active else "frozen", fill="#ffffff" if active else FAINT)
    y = top + 2 * (height + 8) + 6
    for first, last, words in ((0, 2, "frozen prefix"), (2, 5, "conv3 is the lowest active unit")):
        start, end = left + width * first + 3, left + width * last - 3
        picture.line([(start, y), (start, y + 8), (end, y + 8), (end, y)])
        picture.text((start + end) / 2, y + 28, words)
    picture.text(20, 30, "00111/00010", "start", bold=True)
    return picture.svg()


def adaptation() -> str:
    """What is computed in the full pattern and in a pattern that leaves a prefix frozen."""
    picture = Picture(760, 300, "What is computed: the full pattern for two steps, and 00111/00010")
    cell, gap, left = 24, 4, 40

    def passes(x: float, y: float, count: int, fill: str, first: int = 0) -> float:
        for number in range(count):
            picture.box(x, y, cell, 34, fill, EDGE)
            sign = "∇" if fill == ACTIVE else str(first + number + 1)
            picture.text(x + cell / 2, y + 22, sign, fill="#ffffff" if fill == ACTIVE else INK)
            x += cell + gap
        return x

    picture.text(20, 30, "11111@2, two full steps", "start", bold=True)
    x: float = left
    for step in (1, 2):
        picture.text(x, 58, f"step {step}", "start", FAINT)
        x = passes(x, 66, 5, FROZEN)
        x = passes(x, 66, 5, ACTIVE) + 14

    picture.text(20, 146, "00111/00010", "start", bold=True)
    x = left
    picture.text(x, 174, "once", "start", FAINT)
    x = passes(x, 182, 2, SHARED) + 14
    picture.text(x, 174, "step 1", "start", FAINT)
    x = passes(x, 182, 3, FROZEN, first=2)
    x = passes(x, 182, 3, ACTIVE) + 14
    picture.text(x, 174, "step 2", "start", FAINT)
    x = passes(x, 182, 3, FROZEN, first=2)
    x = passes(x, 182, 1, ACTIVE)
    picture.text(x + 14, 196, "the prefix is computed once;", "start", FAINT)
    picture.text(x + 14, 214, "frozen units need no gradient", "start", FAINT)

    for position, (fill, words) in enumerate(
        ((FROZEN, "forward pass of a unit"), (SHARED, "forward pass, shared by steps"), (ACTIVE, "gradient of a unit"))
    ):
        picture.box(40 + 250 * position, 258, 16, 16, fill, EDGE)
        picture.text(62 + 250 * position, 271, words, "start")
    return picture.svg()


def search() -> str:
    """The phases of a search."""
    picture = Picture(860, 250, "The phases of a search")
    phases = [
        ("meta_training", "makes a", "checkpoint"),
        ("baseline", "judges the", "full pattern"),
        ("calibration", "fits the", "latency model"),
        ("search", "screens, those", "predicted fastest first"),
        ("timing", "measures", "the survivors"),
        ("certificate", "proves, in order", "of latency"),
    ]
    widths, y = [122, 104, 124, 178, 116, 128], 60
    x = 15.0
    edges = []
    for (name, *words), width in zip(phases, widths, strict=True):
        picture.box(x, y, width, 78, "#ffffff", EDGE)
        picture.text(x + width / 2, y + 24, name, bold=True)
        for line, word in enumerate(words):
            picture.text(x + width / 2, y + 46 + 18 * line, word, fill=FAINT)
        edges.append((x, x + width))
        x += width + 12
    for (_, right), (left, _) in pairwise(edges):
        picture.arrow((right, y + 39), (left, y + 39))
    picture.box(edges[1][0], 34, edges[3][1] - edges[1][0], 6, BLUE)
    picture.text((edges[1][0] + edges[3][1]) / 2, 26, "validation classes", fill=BLUE)
    picture.box(edges[5][0], 34, edges[5][1] - edges[5][0], 6, GREEN)
    picture.text(edges[5][1], 26, "confirmation classes", "end", GREEN)
    certificate, again = edges[5], edges[3]
    down = (certificate[0] + certificate[1]) / 2 - 24
    back = (again[0] + again[1]) / 2
    picture.arrow((down, y + 78), (down, 178), (back, 178), (back, y + 80))
    picture.text((down + back) / 2, 196, "none qualifies: further candidates")
    end = (certificate[0] + certificate[1]) / 2 + 24
    picture.arrow((end, y + 78), (end, 206))
    picture.text(end, 226, "answer", bold=True, fill=GREEN)
    return picture.svg()


EPSILON, CAP, BLOCK, CONFIDENCE = 0.02, 2000, 16, 0.95
QUERIES = 75
CANDIDATES = (
    ("qualified", "clearly under ε: ends early", GREEN, 0.030, 0.030),
    ("qualified", "less clearly under ε", GREEN, 0.046, 0.032),
    ("unresolved", "no proof is within reach of the cap", BLUE, 0.070, 0.045),
)
"""State, what to say of it, colour, and the shares of queries that a made-up candidate loses and wins against the
baseline."""


def certificate() -> str:
    """Upper bounds of made-up candidates, by the betting test that certificates use."""
    picture = Picture(740, 380, "Upper bounds of mean degradation fall with the number of episodes")
    left, right, top, bottom, lowest, highest = 90, 680, 50, 320, 0.01, 0.4

    def along(value: float, first: float, last: float) -> float:
        return math.log(value / first) / math.log(last / first)

    def place(episodes: float, value: float) -> tuple[float, float]:
        x = left + (right - left) * along(episodes, BLOCK, CAP)
        return x, bottom - (bottom - top) * along(value, lowest, highest)

    picture.text(left, 30, "upper bound of mean degradation", "start", bold=True)
    picture.line([(left, top), (left, bottom), (right, bottom)])
    for value in (0.01, 0.05, 0.1, 0.2, 0.4):
        picture.text(left - 10, place(BLOCK, value)[1] + 5, f"{value:.2f}", "end", FAINT)
    for episodes in (16, 64, 256, 1024):
        picture.text(place(episodes, lowest)[0], bottom + 20, str(episodes), fill=FAINT)
    picture.text((left + right) / 2, bottom + 44, "episodes of confirmation classes", fill=FAINT)
    picture.line([place(BLOCK, EPSILON), place(CAP, EPSILON)], RED, "6 4")
    picture.text(left - 10, place(BLOCK, EPSILON)[1] + 5, "ε 0.02", "end", RED)
    for position, (state, note, colour, lost, won) in enumerate(CANDIDATES, start=1):
        random = np.random.default_rng(3)
        values = (random.binomial(QUERIES, lost, CAP) - random.binomial(QUERIES, won, CAP)) / QUERIES
        question = question_of(EPSILON, 1.0, CONFIDENCE, position)
        episodes = BLOCK
        while (seen := look(values[:episodes], question, "betting", CAP)).verdict == Verdict.OPEN:
            episodes += BLOCK
        assert (seen.verdict == Verdict.UNDER) == (state == "qualified")
        looks = range(BLOCK, episodes + 1, BLOCK)
        bounds = upper_bounds(values, question.alpha, 1.0, "betting", looks)
        points = [place(count, bound) for count, bound in zip(looks, bounds, strict=True)]
        picture.line(points, colour, width=2)
        x, y = points[-1]
        picture.dot(x, y, colour)
        anchor: Anchor = "end" if position == 1 else "start"
        below = 24 if state == "qualified" else -6
        aside = x if state == "qualified" else x + 12
        picture.text(aside, y + below, state, anchor, colour, bold=True)
        picture.text(aside, y + below + 17, note, anchor, FAINT)
    return picture.svg()


STEPS, ROWS_FACTOR, ENGINE, OVER_OWN, OVER_PLAIN = 2.3, 4.8, 2.2, 10.9, 24.5
"""README: `examples/omniglot_5way_1shot_compiled.yaml` on 2026-11-23, two cores of an AMD EPYC."""


def speedup() -> str:
    """What `speedup` and `speedup_over_plain` compare, by the figures of one search."""
    picture = Picture(850, 270, "speedup and speedup_over_plain, and the three factors between them")
    bars = [
        ("plain PyTorch, 11111@5", 1.0, FROZEN),
        ("this engine, 11111@5 (baseline)", 1 / ENGINE, SHARED),
        ("this engine, 11111@2", 1 / ENGINE / STEPS, SHARED),
        ("the answer, 00010@2", 1 / OVER_PLAIN, ACTIVE),
    ]
    left, full, height = 264, 380, 34
    picture.text(20, 30, "latency of one adaptation", "start", bold=True)
    for number, (name, share, fill) in enumerate(bars):
        y = 50 + number * 48
        picture.text(left - 14, y + 22, name, "end")
        picture.box(left, y, full * share, height, fill, EDGE)
    for number, (words, share) in enumerate(
        ((f"engine {ENGINE}", bars[1][1]), (f"steps {STEPS}", bars[2][1]), (f"rows {ROWS_FACTOR}", bars[3][1])), start=1
    ):
        picture.text(left + full * share + 10, 50 + number * 48 + 22, words, "start", FAINT)
    for x, first, words in ((730, 0, "speedup_over_plain"), (555, 1, "speedup")):
        above, below = 50 + first * 48 + height / 2, 50 + 3 * 48 + height / 2
        picture.line([(x - 8, above), (x, above), (x, below), (x - 8, below)])
        value = OVER_PLAIN if first == 0 else OVER_OWN
        picture.text(x, below + 22, f"{words} {value}", bold=True)
    picture.text(
        20, 256, "steps x rows x engine make speedup_over_plain, to rounding; steps x rows make speedup", "start", FAINT
    )
    return picture.svg()


def processes() -> str:
    """The processes of a service, and what is between them."""
    picture = Picture(760, 360, "The processes of a service")

    def process(x: float, y: float, width: float, name: str, *words: str, fill: str = "#ffffff") -> None:
        picture.box(x, y, width, 34 + 18 * len(words), fill, EDGE)
        picture.text(x + width / 2, y + 22, name, bold=True)
        for number, word in enumerate(words):
            picture.text(x + width / 2, y + 42 + 18 * number, word, fill=FAINT)

    process(20, 30, 180, "people, programs", "browser, command", "line, HTTP")
    process(280, 30, 180, "API", "takes searches,", "shows how they go")
    process(280, 150, 180, "dashboard", "Optuna studies,", "behind the same keys")
    process(540, 30, 200, "Postgres", "searches, trials,", "results, queue", fill="#e8eff8")
    process(540, 150, 200, "worker", "takes work, stores", "what came out")
    process(540, 270, 200, "evaluator", "computes on one device;", "child of its worker", fill="#fbeee7")
    process(280, 270, 180, "artifact store", "checkpoints", fill="#e8eff8")
    picture.arrow((200, 65), (280, 65))
    picture.arrow((460, 65), (540, 65))
    picture.arrow((640, 150), (640, 102))
    picture.arrow((640, 220), (640, 270))
    picture.arrow((540, 300), (460, 300))
    picture.arrow((110, 100), (110, 185), (280, 185))
    picture.arrow((460, 185), (500, 185), (500, 80), (540, 80))
    return picture.svg()


PICTURES: dict[str, Callable[[], str]] = {
    "concepts-pattern.svg": pattern,
    "concepts-adaptation.svg": adaptation,
    "concepts-search.svg": search,
    "concepts-certificate.svg": certificate,
    "concepts-speedup.svg": speedup,
    "concepts-processes.svg": processes,
}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (IMAGES / name).write_text(draw(), encoding="utf-8")
