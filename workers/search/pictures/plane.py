"""The front as points and lines on a plane, latency against quality; knows no drawing library.

Heights are what is compared with the threshold: the baseline's quality on confirmation classes less a candidate's
paired degradation. Validation classes may be easier or harder than confirmation classes, so the front's own quality is
said but not drawn; and whether a bar crosses the threshold is what its paired interval says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from search_service.domain.result import FrontPoint, PatternFigures, SearchResult
from workers.search.pictures.style import LEGENDS, SMALL_SIZE, TEXT_SIZE, Kind
from workers.search.pictures.words import clean, degradation, interval, latency, quality, ratio, shorten, times

QUALITY_LABELS = {
    "accuracy": "quality: accuracy (fraction of queries)",
    "negative_mse": "quality: negative mean squared error",
}
LATENCY_LABEL = "median latency of one adaptation (ms, log)"

MARGIN = 0.08  # of the span of heights, above and below what must be seen
FAR_BELOW = 1.2  # spans below the rest from which the empty pattern is named at the edge and not drawn to scale
BARS = 0.5  # spans that bars may add below and above; longer ones are cut at the edge
LABELLED_FRONT = 4  # front points that are named
NAME_LENGTH = 28  # characters; a candidate more than twice as long is not named by its text
FEWEST_TICKS, EVEN_TICKS, MOST_TICKS = 3, 6, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate on the plane, and everything that is said about it."""

    candidate: str
    latency_ms: float
    latency_low_ms: float
    """p10; the median where no more is known."""
    latency_high_ms: float
    height: float
    low: float
    """Lower end of the confidence bar; the height where there is none."""
    high: float
    facts: tuple[tuple[str, str], ...]
    """Names and figures, for whoever points at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one kind, fastest first."""

    kind: Kind
    legend: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyLine:
    """The empty pattern has no latency: it is a line."""

    quality: float
    height: float
    """Where it is drawn: its quality, or the lower edge where that would flatten all the rest."""
    to_scale: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A text that belongs to a point."""

    text: str
    latency_ms: float
    height: float
    kind: Kind
    size: float
    brief: str = ""
    """What is written where the text would be too long; such names are always written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Everything that is drawn of a result's front."""

    series: tuple[Series, ...]
    threshold: float
    proved: tuple[float, float] | None
    """Latency in ms, and the height that the answer's upper bound of degradation stands for; none for the baseline."""
    empty: EmptyLine
    latencies_ms: tuple[float, float]
    """Limits of the latency axis, which is logarithmic."""
    heights: tuple[float, float]
    latency_label: str
    height_label: str
    latency_ticks_ms: tuple[float, ...]
    names: tuple[Name, ...]
    """What is written first comes first."""


def plane_of(result: SearchResult) -> Plane:
    """Lay out a result's front; what was not timed, or is no number, is left out."""
    fastest, baseline = result.fastest, result.baseline
    full = [entry for entry in result.full_by_steps if entry.candidate != baseline.candidate]
    points: dict[Kind, list[Point | None]] = {
        Kind.FRONT: [_front_point(result, entry) for entry in result.front],
        Kind.FULL: [_figures_point(result, entry) for entry in full],
        Kind.PLAIN: [_plain_point(baseline)],
        Kind.BASELINE: [_baseline_point(baseline)],
        Kind.ANSWER: [_figures_point(result, fastest)],
    }
    series = tuple(Series(kind=kind, legend=LEGENDS[kind], points=_sorted(points[kind])) for kind in Kind)
    drawn = {entry.kind: entry.points for entry in series}
    threshold = baseline.quality.estimate - result.max_degradation
    low, high = _span(drawn, (threshold, baseline.quality.estimate))
    empty, heights = _place_empty(result.empty.quality.estimate, low, high)
    left, right = _latency_limits(point for entry in series for point in entry.points)
    bound = fastest.degradation.upper_bound
    answer = next(iter(drawn[Kind.ANSWER]), None)
    metric = clean(baseline.quality.metric)
    return Plane(
        series=series,
        threshold=threshold,
        proved=None if answer is None or not bound else (answer.latency_ms, baseline.quality.estimate - bound),
        empty=empty,
        latencies_ms=(left, right),
        heights=heights,
        latency_label=LATENCY_LABEL,
        height_label=QUALITY_LABELS.get(metric, f"quality: {shorten(metric, 40)}"),
        latency_ticks_ms=latency_ticks(left, right),
        names=_names(result, drawn),
    )


def latency_ticks(low: float, high: float) -> tuple[float, ...]:
    """Round values between two positive limits: 1, 2, 5 and their tens, or evenly spaced where those are too few."""
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [float(f"{mantissa}e{decade}") for decade in decades for mantissa in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    if len(ticks) >= FEWEST_TICKS:
        return tuple(ticks[:: math.ceil(len(ticks) / MOST_TICKS)])
    least = (high - low) / EVEN_TICKS
    ten = 10.0 ** math.floor(math.log10(least))
    step = next(mantissa * ten for mantissa in (1, 2, 5, 10) if mantissa * ten >= least)
    return tuple(float(f"{number * step:.9g}") for number in range(math.ceil(low / step), math.floor(high / step) + 1))


def _figures_point(result: SearchResult, figures: PatternFigures) -> Point | None:
    timing, loss = figures.latency_s, figures.degradation
    if timing is None:
        return None
    level = result.baseline.quality.estimate
    return Point(
        candidate=figures.candidate,
        latency_ms=timing.median * 1e3,
        latency_low_ms=timing.p10 * 1e3,
        latency_high_ms=timing.p90 * 1e3,
        height=level - loss.estimate,
        low=level - loss.high,
        high=level - loss.low,
        facts=facts_of(figures),
    )


def _baseline_point(baseline: PatternFigures) -> Point | None:
    """It has no degradation; its bar is its quality's."""
    timing, value = baseline.latency_s, baseline.quality
    if timing is None:
        return None
    return Point(
        candidate=baseline.candidate,
        latency_ms=timing.median * 1e3,
        latency_low_ms=timing.p10 * 1e3,
        latency_high_ms=timing.p90 * 1e3,
        height=value.estimate,
        low=value.low,
        high=value.high,
        facts=facts_of(baseline),
    )


def _plain_point(baseline: PatternFigures) -> Point | None:
    """Plain PyTorch takes the baseline's steps: the same quality, and the latency that ``speedup_over_plain`` tells."""
    timing, over_plain = baseline.latency_s, baseline.speedup_over_plain
    if timing is None or over_plain is None:
        return None
    latency_ms = timing.median * 1e3 * over_plain.estimate
    height = baseline.quality.estimate
    return Point(
        candidate=baseline.candidate,
        latency_ms=latency_ms,
        latency_low_ms=latency_ms,
        latency_high_ms=latency_ms,
        height=height,
        low=height,
        high=height,
        facts=(
            ("latency", f"{latency_ms:.3g} ms: the baseline's, times its speedup_over_plain"),
            ("speedup_over_plain", times(1.0)),
            ("quality", f"{quality(baseline.quality)}, the baseline's"),
        ),
    )


def _front_point(result: SearchResult, point: FrontPoint) -> Point | None:
    level = result.baseline.quality.estimate
    facts = [("latency", f"{point.latency_s * 1e3:.3g} ms")]
    if point.speedup:
        facts.append(("speedup", times(point.speedup)))
        if result.baseline.speedup_over_plain is not None:
            over_plain = point.speedup * result.baseline.speedup_over_plain.estimate
            facts.append(("speedup_over_plain", f"{times(over_plain)}, through the baseline's"))
    facts.append(("quality", f"{point.quality:.4f} (validation classes)"))
    facts.append(("degradation", interval(point.degradation, point.degradation_low, point.degradation_high)))
    return Point(
        candidate=point.candidate,
        latency_ms=point.latency_s * 1e3,
        latency_low_ms=point.latency_s * 1e3,
        latency_high_ms=point.latency_s * 1e3,
        height=level - point.degradation,
        low=level - point.degradation_high,
        high=level - point.degradation_low,
        facts=tuple(facts),
    )


def facts_of(figures: PatternFigures) -> tuple[tuple[str, str], ...]:
    """What was measured of a pattern on confirmation classes, each figure with the name of its kind."""
    facts = [("latency", "not timed" if figures.latency_s is None else latency(figures.latency_s))]
    if figures.speedup is not None:
        facts.append(("speedup", ratio(figures.speedup)))
    if figures.speedup_over_plain is not None:
        facts.append(("speedup_over_plain", ratio(figures.speedup_over_plain)))
    facts.append(("quality", quality(figures.quality)))
    facts.append(("degradation", degradation(figures.degradation)))
    if figures.degradation.upper_bound is not None:
        facts.append(("its upper bound", f"{figures.degradation.upper_bound:+.4f}"))
    return tuple(facts)


def _sorted(points: Iterable[Point | None]) -> tuple[Point, ...]:
    known = [point for point in points if point is not None]
    drawable = [p for p in known if math.isfinite(p.height) and math.isfinite(p.latency_ms) and p.latency_ms > 0]
    return tuple(sorted(drawable, key=lambda point: (point.latency_ms, point.height)))


def _span(drawn: dict[Kind, tuple[Point, ...]], levels: tuple[float, float]) -> tuple[float, float]:
    """Lowest and highest that must be seen."""
    points = [point for kind in Kind for point in drawn[kind]]
    centres = [*levels, *(point.height for point in points)]
    low, high = min(centres), max(centres)
    for point in (*drawn[Kind.ANSWER], *drawn[Kind.BASELINE]):
        low, high = min(low, point.low), max(high, point.high)
    allowed = BARS * (high - low)
    bars = [end for point in points for end in (point.low, point.high) if math.isfinite(end)]
    return min([low, *(max(end, low - allowed) for end in bars)]), max([high, *(min(e, high + allowed) for e in bars)])


def _place_empty(value: float, low: float, high: float) -> tuple[EmptyLine, tuple[float, float]]:
    """Where the empty pattern's line goes, and the limits of the heights."""
    span = max(high - low, 1e-6)
    if value >= low - FAR_BELOW * span:
        low, high = min(low, value), max(high, value)
        span = max(high - low, 1e-6)
        line = EmptyLine(quality=value, height=value, to_scale=True, text=f"empty pattern: {value:.3f}")
        return line, (low - MARGIN * span, high + 2 * MARGIN * span)
    bottom = low - 3 * MARGIN * span
    text = f"↓ empty pattern: {value:.3f}, far below"
    line = EmptyLine(quality=value, height=bottom + 0.9 * MARGIN * span, to_scale=False, text=text)
    return line, (bottom, high + 2 * MARGIN * span)


def _latency_limits(points: Iterable[Point]) -> tuple[float, float]:
    ends = [end for point in points for end in (point.latency_low_ms, point.latency_ms, point.latency_high_ms)]
    timed = [end for end in ends if math.isfinite(end) and end > 0]
    if not timed:
        return 0.1, 10.0
    spread = max(max(timed) / min(timed), 1.5)
    return min(timed) / spread**0.14, max(timed) * spread**0.12


def _names(result: SearchResult, drawn: dict[Kind, tuple[Point, ...]]) -> tuple[Name, ...]:
    """The answer and the baseline first, then full@k, plain, and the best of the front."""
    answer = result.fastest.candidate
    is_baseline = answer == result.baseline.candidate
    names = []
    for point in drawn[Kind.ANSWER]:
        text = f"the baseline\n{_short(answer)}".strip() if is_baseline else _short(answer)
        names.append(_name(point, Kind.ANSWER, text, brief="the baseline" if is_baseline else "the answer"))
    for point in drawn[Kind.BASELINE]:
        if not is_baseline:
            text = f"baseline\n{_short(point.candidate)}".strip()
            names.append(_name(point, Kind.BASELINE, text, brief="baseline"))
    names += [_name(point, Kind.PLAIN, "plain\nPyTorch") for point in drawn[Kind.PLAIN]]
    steps = {entry.candidate: entry.steps for entry in result.full_by_steps}
    full = [point for point in drawn[Kind.FULL] if point.candidate != answer]
    names += [_name(point, Kind.FULL, f"full@{steps[point.candidate]}") for point in full]
    already = {point.candidate for kind in Kind if kind != Kind.FRONT for point in drawn[kind]}
    unnamed = [point for point in drawn[Kind.FRONT] if point.candidate not in already and _short(point.candidate)]
    best = sorted(unnamed, key=lambda point: -point.height)[:LABELLED_FRONT]
    return (*names, *(_name(point, Kind.FRONT, _short(point.candidate)) for point in best))


def _short(candidate: str) -> str:
    """A candidate's text as a name; empty where little of it would be left."""
    return shorten(candidate, NAME_LENGTH) if len(candidate) <= 2 * NAME_LENGTH else ""


def _name(point: Point, kind: Kind, text: str, brief: str = "") -> Name:
    size = {Kind.ANSWER: TEXT_SIZE + 2, Kind.FRONT: SMALL_SIZE}.get(kind, TEXT_SIZE)
    return Name(text=text or brief, latency_ms=point.latency_ms, height=point.height, kind=kind, size=size, brief=brief)
