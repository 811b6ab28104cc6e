"""How things look, in the PNG and in the page alike: colours, words of the legend, sizes in pixels."""

from __future__ import annotations

from enum import IntEnum, StrEnum

INK = "#1f2933"
MUTED = "#616e7c"
LINES = "#e4e7eb"
PAPER = "#ffffff"
ANSWER = "#0b7285"
FRONT = "#74a9cf"
FULL = "#343a40"
PLAIN = "#b07d2b"
LOSS = "#c92a2a"
FROZEN = "#dfe4ea"
LOWERED = "#c5b3e6"
FONT = "DejaVu Sans"
FONTS = f"'{FONT}', Verdana, 'Segoe UI', sans-serif"
DASHED, DOTTED = "6px 4px", "2px 3px"  # as SVG has them

TEXT_SIZE = 13.2  # pixels; 9.5 points at 100 dots per inch
SMALL_SIZE = 11.8
CHARACTER_WIDTH = 0.62  # of the size of the text, on average in this font
BOLD_WIDTH = 0.70

LEGEND_BARS = "bars upright: 95% intervals of degradation, the baseline's of its quality"
LEGEND_EMPTY = "empty pattern, no adaptation"
LEGEND_THRESHOLD = "threshold: baseline less max_degradation"
LEGEND_PROVED = "the answer's upper bound of degradation"


class Kind(StrEnum):
    """What a point is; drawn in this order, the answer last and so on top."""

    FRONT = "front"
    FULL = "full"
    PLAIN = "plain"
    BASELINE = "baseline"
    ANSWER = "answer"


class Cell(IntEnum):
    """What happens to a unit at a step."""

    FROZEN = 0
    UPDATED = 1
    LOWERED = 2
    """Frozen and in the prefix that is computed in a lower precision."""


COLOURS = {
    Kind.FRONT: FRONT,
    Kind.FULL: FULL,
    Kind.PLAIN: PLAIN,
    Kind.BASELINE: FULL,
    Kind.ANSWER: ANSWER,
}
MARKER_SIZES = {  # pixels
    Kind.FRONT: 8.0,
    Kind.FULL: 9.0,
    Kind.PLAIN: 10.0,
    Kind.BASELINE: 13.0,
    Kind.ANSWER: 24.0,
}
LEGENDS = {
    Kind.FRONT: "front: baseline less degradation (validation)",
    Kind.FULL: "full pattern, fewer steps (confirmation)",
    Kind.PLAIN: "plain PyTorch, the baseline's pattern",
    Kind.BASELINE: "baseline (confirmation)",
    Kind.ANSWER: "the answer, latency p10 to p90 (confirmation)",
}
CELL_COLOURS = {Cell.FROZEN: FROZEN, Cell.UPDATED: ANSWER, Cell.LOWERED: LOWERED}


def text_width(text: str, size: float, bold: bool = False) -> float:
    """About how many pixels a text takes, its widest line."""
    longest = max(map(len, text.split("\n")))
    return longest * size * (BOLD_WIDTH if bold else CHARACTER_WIDTH)
