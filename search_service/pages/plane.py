"""The front as points on a plane, latency against quality, for a picture and for the table beside it.

Heights are what is compared with the threshold: the baseline's quality less a candidate's paired degradation. Tasks of
validation may be easier or harder than those of confirmation, so a quality by itself is not drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from search_service import words
from search_service.domain.evaluation import known_mean
from search_service.domain.result import FrontPoint, PatternFigures, SearchResult
from search_service.domain.trial import TrialState
from search_service.storage.tables import TrialRow

SPANS_BELOW = 8.0  # thresholds below the threshold that are in the picture
MARGIN = 0.08  # of the heights
MS = 1e3

METRICS = {"accuracy": "accuracy (fraction of queries)", "negative_mse": "negative mean squared error"}
STATES = {
    TrialState.DROPPED: "dropped",
    TrialState.PENDING: "still judged",
    TrialState.SURVIVED: "survived so far",
    TrialState.UNRESOLVED: "unresolved",
    TrialState.UNQUALIFIED: "tested, over the threshold",
    TrialState.QUALIFIED: "proved",
}
"""What became of candidates, in the order in which they are drawn."""

Address = Callable[[str], str | None]
"""Where the page of a candidate is, if it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A candidate on the plane."""

    candidate: str
    latency_ms: float
    is_predicted: bool = False
    height: float
    low: float | None = None
    high: float | None = None
    speedup: float | None = None
    address: str | None = None
    said: str
    """All of it in words, for whoever points at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one kind, fastest first."""

    kind: str
    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """Everything that is drawn."""

    series: tuple[Series, ...]
    threshold: float
    level: float
    """The baseline's."""
    heights: tuple[float, float]
    metric: str
    below: int
    """Points under the lower edge."""

    @property
    def document(self) -> dict[str, Any]:
        """What the script draws."""
        return {**asdict(self), "metric": METRICS.get(self.metric, self.metric)}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(series.points for series in self.series)


def plane_of_result(result: SearchResult, address: Address) -> Plane:
    """A finished search's front, with the answer, the baseline, fewer steps and plain PyTorch."""
    level = result.baseline.quality.estimate
    baseline, answer = result.baseline, result.fastest
    full = [entry for entry in result.full_by_steps if entry.candidate not in (baseline.candidate, answer.candidate)]
    front = [_front_point(entry, level, address) for entry in result.front]
    series = (
        _series("front", "front (validation)", front),
        _series("full", "all units, fewer steps", [_figures_point(entry, level, address) for entry in full]),
        _series("plain", "plain PyTorch, all units", [_plain_point(baseline, level)]),
        _series("baseline", "the baseline", [_figures_point(baseline, level, address)]),
        _series("answer", "the answer", [_figures_point(answer, level, address)]),
    )
    return _plane(series, level, result.max_degradation, baseline.quality.metric)


def plane_of_trials(trials: Sequence[TrialRow], threshold: float | None, metric: str, address: Address) -> Plane | None:
    """What a search has judged so far; None before it has judged anything.

    Args:
        trials: those that have been judged.
        threshold: ε in the metric's unit; None while it is not known.
        metric: the name of the quality.
        address: of a candidate's page.
    """
    known = [row for row in trials if known_mean(row.quality) is not None and row.degradation is not None]
    if not known or threshold is None:
        return None
    # Quality and degradation are of the same tasks, so their sum is the baseline's there; most tasks tell it best.
    surest = max(known, key=lambda row: row.blocks)
    level = (surest.quality or 0.0) + (surest.degradation or 0.0)
    series = tuple(
        _series(f"state-{state}", name, [_trial_point(row, level, address) for row in known if row.state == state])
        for state, name in STATES.items()
    )
    return _plane(series, level, threshold, metric)


def _plane(series: tuple[Series, ...], level: float, threshold: float, metric: str) -> Plane:
    points = [point for entry in series for point in entry.points]
    edge = level - threshold * (1 + SPANS_BELOW)
    tops = [*(p.high if p.high is not None else p.height for p in points if p.height >= edge), level]
    bottoms = [*(p.low if p.low is not None else p.height for p in points if p.height >= edge), level - threshold]
    low, high = max(min(bottoms), edge), min(max(tops), level + threshold * SPANS_BELOW)
    margin = MARGIN * max(high - low, 1e-9)
    return Plane(
        series=tuple(entry for entry in series if entry.points),
        threshold=level - threshold,
        level=level,
        heights=(low - margin, high + margin),
        metric=metric,
        below=sum(point.height < low - margin for point in points),
    )


def _series(kind: str, name: str, points: Iterable[Point | None]) -> Series:
    drawable = [
        point
        for point in points
        if point is not None
        and math.isfinite(point.height)
        and math.isfinite(point.latency_ms)
        and point.latency_ms > 0
    ]
    return Series(kind=kind, name=name, points=tuple(sorted(drawable, key=lambda point: point.latency_ms)))


def _figures_point(figures: PatternFigures, level: float, address: Address) -> Point | None:
    if figures.latency_s is None:
        return None
    loss = figures.degradation
    parts = [f"latency {words.latency(figures.latency_s.median)}", f"degradation {words.signed(loss.estimate)}"]
    if loss.upper_bound is not None:
        parts.append(f"upper bound {words.signed(loss.upper_bound)}")
    return Point(
        candidate=figures.candidate,
        latency_ms=figures.latency_s.median * MS,
        height=level - loss.estimate,
        low=level - loss.high,
        high=level - loss.low,
        speedup=None if figures.speedup is None else figures.speedup.estimate,
        address=address(figures.candidate),
        said=", ".join([*parts, "confirmation tasks"]),
    )


def _plain_point(baseline: PatternFigures, level: float) -> Point | None:
    if baseline.latency_s is None or baseline.speedup_over_plain is None:
        return None
    seconds = baseline.latency_s.median * baseline.speedup_over_plain.estimate
    said = f"latency {words.latency(seconds)}: the baseline's, times its speedup_over_plain"
    return Point(candidate=baseline.candidate, latency_ms=seconds * MS, height=level, said=said)


def _front_point(point: FrontPoint, level: float, address: Address) -> Point:
    return Point(
        candidate=point.candidate,
        latency_ms=point.latency_s * MS,
        height=level - point.degradation,
        low=level - point.degradation_high,
        high=level - point.degradation_low,
        speedup=point.speedup,
        address=address(point.candidate),
        said=(
            f"latency {words.latency(point.latency_s)}, degradation {words.signed(point.degradation)}, validation tasks"
        ),
    )


def _trial_point(row: TrialRow, level: float, address: Address) -> Point | None:
    latency_s = row.predicted_latency_s if row.latency_s is None else row.latency_s
    if latency_s is None or row.degradation is None:
        return None
    bar = None if row.degradation_se is None else words.Z95 * row.degradation_se
    kind = "predicted latency" if row.latency_s is None else "latency"
    return Point(
        candidate=row.candidate,
        latency_ms=latency_s * MS,
        is_predicted=row.latency_s is None,
        height=level - row.degradation,
        low=None if bar is None else level - row.degradation - bar,
        high=None if bar is None else level - row.degradation + bar,
        speedup=row.speedup,
        address=address(row.candidate),
        said=f"{kind} {words.latency(latency_s)}, degradation {words.signed(row.degradation)}, validation tasks",
    )
