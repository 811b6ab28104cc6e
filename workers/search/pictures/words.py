"""Texts that fit: names from outside on one line, long ones shortened, figures with few digits."""

from __future__ import annotations

import textwrap

from search_service.domain.result import Degradation, Latency, Quality, Ratio

ELLIPSIS = "…"


def clean(text: object) -> str:
    """A text from outside on one line, without what cannot be printed."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())


def shorten(text: str, limit: int) -> str:
    """A text of at most ``limit`` characters: its beginning and its end say most about a name or a candidate."""
    if len(text) <= limit:
        return text
    end = (limit - 1) // 3
    return text[: limit - 1 - end] + ELLIPSIS + text[len(text) - end :]


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """A text in at most so many lines of at most so many characters."""
    return textwrap.wrap(text, width, max_lines=lines, placeholder=ELLIPSIS) or [""]


def latency(value: Latency) -> str:
    """Median, and where the middle eight tenths lie."""
    return f"{value.median * 1e3:.3g} ms (p10 {value.p10 * 1e3:.3g}, p90 {value.p90 * 1e3:.3g})"


def ratio(value: Ratio) -> str:
    """How many times, with the interval."""
    return f"{times(value.estimate)} ({times(value.low)} to {times(value.high)})"


def times(value: float) -> str:
    """How many times."""
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def quality(value: Quality) -> str:
    """Mean, with the interval."""
    return f"{value.estimate:.4f} ({value.low:.4f} to {value.high:.4f})"


def degradation(value: Degradation) -> str:
    """Mean, with the interval."""
    return interval(value.estimate, value.low, value.high)


def interval(estimate: float, low: float, high: float) -> str:
    """A signed figure, with its interval."""
    return f"{estimate:+.4f} ({low:+.4f} to {high:+.4f})"
