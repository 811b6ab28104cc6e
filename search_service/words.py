"""Figures and facts as people read them, on the report pages and in the command line. No figure without its unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from search_service.domain.search import Phase

NOTHING = "–"
Z95 = 1.96
"""Standard errors on each side of a two-sided 95 % interval."""
LEAST_FIGURE = 0.0005
"""Below this a figure has more than four places."""
PHASES = {
    Phase.META_TRAINING: "Train the model",
    Phase.BASELINE: "Judge the baseline",
    Phase.CALIBRATION: "Learn to predict latencies",
    Phase.SEARCH: "Screen candidates",
    Phase.TIMING: "Time what survived",
    Phase.CERTIFICATE: "Prove on new tasks",
    Phase.RETRAINING: "Train on under the answer",
    Phase.RETRAINED_CERTIFICATE: "Prove that again",
}

METHODS = {
    "betting": "betting test, valid for any distribution of losses however often one looks",
    "empirical_bernstein": "empirical-Bernstein bound, valid for any distribution of losses however often one looks",
    "asymptotic": "asymptotic confidence sequence, without guarantee where losses are rare and large",
}
"""What each certificate promises."""
MOST_NAMED = 6
"""Candidates of a list that are named."""


def phase(name: str) -> str:
    """What a phase does."""
    return PHASES.get(Phase(name), name)


def latency(seconds: float | None) -> str:
    """A latency, with three digits."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    unit, size = next(((u, s) for u, s in (("s", 1.0), ("ms", 1e-3)) if abs(seconds) >= s), ("µs", 1e-6))
    return f"{_digits(seconds / size, 3)} {unit}"


def times(ratio: float | None) -> str:
    """How many times."""
    if ratio is None:
        return NOTHING
    return f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


def span(seconds: float | None) -> str:
    """A time that people wait for."""
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def about(seconds: float) -> str:
    """A guess of a time: as exact as a guess is."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 60:
        return f"about {math.ceil(seconds / 10) * 10} s"
    if seconds < 3600:
        return f"about {math.ceil(seconds / 60)} min"
    if seconds < 86_400:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 86_400:.1f} days"


def moment(at: datetime) -> str:
    """A point in time, to the minute."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def share(part: float) -> str:
    """A part of a whole; only what is whole is 100 %."""
    return f"{math.floor(part * 100)} %"


def percent(part: float) -> str:
    """A part of a whole, as exact as it is given."""
    return f"{part * 100:.6g} %"


def figure(value: float | None) -> str:
    """A quality, or the width of an interval: four places, so that columns align; more where that would be nothing."""
    if value is None:
        return NOTHING
    is_lost = 0 < abs(value) < LEAST_FIGURE
    return (_digits(value, 2) if is_lost else f"{value:.4f}").replace("-", "−")


def signed(value: float | None) -> str:
    """A loss of quality: + is worse than the baseline."""
    if value is None or value == 0:
        return NOTHING if value is None else "0"
    return ("+" if value > 0 else "") + figure(value)


def hundredths(value: float) -> str:
    """A loss of answers of a hundred."""
    return f"{value:+.2f}".replace("-", "−")


def count(number: float) -> str:
    """A number of things."""
    return f"{number:,.0f}".replace(",", " ")


def at_most(value: float) -> str:
    """A bound with two digits, rounded up, so that what is said still holds."""
    if value <= 0:
        return "0"
    size = 10.0 ** (math.floor(math.log10(value)) - 1)
    # Figures that are exact so far must not go up for the last bit of a division.
    text = _digits(math.ceil(value / size - 1e-9) * size, 2)
    return text.rstrip("0").rstrip(".") if "." in text else text


def few(candidates: Sequence[str]) -> str:
    """The first of many."""
    more = len(candidates) - MOST_NAMED
    return ", ".join(candidates[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def device(fingerprint: dict[str, Any]) -> str:
    """What a fingerprint says to people."""
    parts = [str(fingerprint.get("gpu") or fingerprint.get("processor") or fingerprint.get("class", "unknown"))]
    if threads := fingerprint.get("threads"):
        parts.append("1 thread" if threads == 1 else f"{threads} threads")
    if version := fingerprint.get("torch"):
        parts.append(f"torch {version}")
    return ", ".join(parts)


def _digits(value: float, digits: int) -> str:
    """A number with so many digits at least, never in powers of ten."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    after = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(after, 12)}f}"
