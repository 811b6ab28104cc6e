"""Screening on validation classes and the certificate on confirmation classes.

Screening drops a candidate when it is clearly over the threshold and carries no guarantee. The certificate tests
survivors in order of latency, each by a one-sided fixed-n paired t bound on confirmation classes that the search never
saw; the i-th candidate tested spends ``alpha * 2**-i`` of the error, so all tests together err with probability at most
``alpha`` where the t bound holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from workers.search.statistics import MeanEstimate

METHOD = "fixed_n_paired_t"
SCREENING_CONFIDENCE = 0.995


@dataclass(frozen=True, slots=True)
class ScreeningDecision:
    """Whether a candidate goes on, and why not."""

    drop: bool
    reason: str | None


def screen(estimate: MeanEstimate, max_degradation: float, is_last_block: bool) -> ScreeningDecision:
    """Decide after a block whether a candidate is worth more episodes, or after the last one, a certificate.

    Before the last block a candidate is dropped when the one-sided lower t bound of its degradation is over the
    threshold; after the last one when the estimate itself is, since it would most likely fail the certificate. One
    whose adaptation diverged, so that its degradation is not a finite number, is dropped at once.
    """
    if not math.isfinite(estimate.mean):
        return ScreeningDecision(
            True,
            f"degradation {estimate.mean} is not a finite number after {estimate.episodes} validation episodes: "
            "adaptation diverged",
        )
    bound = estimate.lower_bound(SCREENING_CONFIDENCE)
    if bound > max_degradation:
        return ScreeningDecision(
            True,
            f"degradation {estimate.mean:.4f}, at least {bound:.4f} with {SCREENING_CONFIDENCE:.1%} confidence "
            f"after {estimate.episodes} validation episodes",
        )
    if is_last_block and estimate.mean > max_degradation:
        return ScreeningDecision(
            True, f"degradation {estimate.mean:.4f} after all {estimate.episodes} validation episodes"
        )
    return ScreeningDecision(False, None)


def spent_alpha(confidence: float, position: int) -> float:
    """The error that the certificate of the ``position``-th tested candidate (from 1) may spend."""
    return (1 - confidence) * 2.0**-position


@dataclass(frozen=True, slots=True)
class Certificate:
    """The outcome of one candidate's test on confirmation classes."""

    qualifies: bool
    upper_bound: float
    alpha: float


def certify(estimate: MeanEstimate, max_degradation: float, confidence: float, position: int) -> Certificate:
    """Test one candidate: it qualifies when its upper t bound is at most the threshold."""
    alpha = spent_alpha(confidence, position)
    bound = estimate.upper_bound_at(alpha)
    return Certificate(bound <= max_degradation, bound, alpha)


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate in the plane of latency and degradation."""

    candidate: str
    latency_s: float
    degradation: float


def front(points: list[Point]) -> list[Point]:
    """The points that no other beats in both latency and degradation, fastest first."""
    best = float("inf")
    chosen = []
    for point in sorted(points, key=lambda point: (point.latency_s, point.degradation, point.candidate)):
        if point.degradation < best:
            best = point.degradation
            chosen.append(point)
    return chosen
