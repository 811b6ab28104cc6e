"""What a search decides, from numbers alone: who is screened, who survives, who is proved, and when it ends.

Screening, on validation classes, goes by an asymptotic confidence sequence and carries no guarantee. The certificate,
on confirmation classes that nothing before has touched, tests candidates in order of latency; the i-th one tested
spends ``alpha * 2**-i`` of the error, so that all tests together err with probability at most ``alpha``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from search_service.domain.candidate import Candidate
from search_service.domain.certificate import CertificateMethod, fewest_episodes, spent_alpha
from search_service.domain.lambda_pattern import row_text
from search_service.domain.search import LEAST_ASYMPTOTIC_EPISODES, Runtime
from workers.search.confidence import (
    Degradations,
    Question,
    accepts,
    asymptotic_lower_bounds,
    asymptotic_upper_bounds,
    episodes_to_accept,
    upper_bounds,
)

SCREENING_ALPHA = 0.01
"""Asymptotic error of dropping a candidate that is not over the threshold, or keeping one that is."""
FIRST_LOOK = 16
"""Episodes before which screening says nothing; they are enough to drop the hopeless."""
TUNED_FOR = 100
"""Episodes at which screening's bounds are tightest."""
FREE_UNITS = 3
"""Units in which the first rows of one batch may differ."""
AHEAD = 3
"""Survivors that are timed and tested together; what is predicted slower than these waits."""
SCREENING_REACH, CERTIFICATE_REACH = 3.0, 1.5
"""Standard errors that a mean may turn out lower than it looks before a proof is held to be out of reach. Screening is
the more lenient: on confirmation classes a degradation may be another one (0.0100 and 0.0058 were seen)."""
MARGINS: dict[Runtime, tuple[float, float]] = {"eager": (0.02, 0.25), "compiled": (0.15, 0.25)}
"""Least and most margin of predictions. Measured (benchmarks/latency_model.py): compiled latencies of late rows differ
by up to 15 % from what eager ones scaled would be."""
FRONT_PRECISION = 0.5
"""Of the threshold: how close to its mean the upper bound of a front's candidate is to come."""
LATER_LOOK = 1.25
"""Growth of the number of episodes from one look of a certificate to the next, at least."""
FURTHEST_LOOK = 2.0
"""And at most: predictions from few episodes are unsure."""


class Verdict(StrEnum):
    """What is known of a candidate's degradation and the threshold."""

    OVER = "over"
    """Surely above."""
    UNDER = "under"
    """Surely below: of screening, or proved."""
    OUT_OF_REACH = "out_of_reach"
    """Too near the threshold, or above it, to be proved with the episodes there are."""
    OPEN = "open"
    """More episodes may tell."""
    PROMISING = "promising"
    """Of screening: all episodes are spent, and a proof is within reach."""


@dataclass(frozen=True, slots=True)
class Screening:
    """What screening says of a candidate, and why in words."""

    verdict: Verdict
    reason: str


def screen(values: Degradations, question: Question, most_episodes: int, cap: int) -> Screening:
    """Judge a candidate by its degradations on validation episodes so far.

    Args:
        values: an ``n``-dim array, clipped.
        question: threshold, bound, and the error that a proof of the first candidate tested may spend.
        most_episodes: validation episodes that it may be judged on.
        cap: most confirmation episodes of a proof.
    """
    episodes, mean = len(values), float(np.mean(values))
    lower = float(asymptotic_lower_bounds(values, SCREENING_ALPHA, tuned_for=TUNED_FOR, least_episodes=FIRST_LOOK)[-1])
    seen = f"degradation {mean:.4f} on {episodes} validation episodes"
    if lower > question.threshold:
        return Screening(Verdict.OVER, f"{seen}, surely at least {lower:.4f}")
    upper = float(
        asymptotic_upper_bounds(values, SCREENING_ALPHA, tuned_for=TUNED_FOR, least_episodes=LEAST_ASYMPTOTIC_EPISODES)[
            -1
        ]
    )
    if upper <= question.threshold:
        return Screening(Verdict.UNDER, f"{seen}, surely at most {upper:.4f}")
    if episodes < most_episodes:
        return Screening(Verdict.OPEN, seen)
    if (needed := _hopeful_episodes(values, question, SCREENING_REACH)) <= cap:
        return Screening(Verdict.PROMISING, f"{seen}; a proof may take {needed:.0f}")
    return Screening(
        Verdict.OUT_OF_REACH,
        f"{seen}: too near the threshold {question.threshold:.4g} or above it to be proved within {cap} episodes",
    )


def batch_group(candidate: Candidate) -> str:
    """What candidates that are judged together agree on: precision, lowest active unit, the first row's lower units.

    The last ``FREE_UNITS`` units of the first row are left open, so a group of constant rows has ``2**FREE_UNITS`` rows
    at most: batches stay short, and workers many.
    """
    pattern = candidate.pattern
    assert pattern.lowest_active_unit is not None, "the empty pattern is no candidate"
    fixed = max(pattern.lowest_active_unit + 1, pattern.units - FREE_UNITS)
    return f"{row_text(pattern.rows[0][:fixed])}*:{candidate.precision}"


def horizon_s(survivors_s: Sequence[float], margin: float) -> float:
    """Predicted latency up to which candidates are screened before the survivors so far are timed and tested.

    Args:
        survivors_s: predicted latencies of those that survived and have not been tested.
        margin: relative error of predictions: what is predicted so much slower may turn out to be faster.

    Returns:
        Infinity where fewer than ``AHEAD`` survived.
    """
    if len(survivors_s) < AHEAD:
        return math.inf
    return sorted(survivors_s)[AHEAD - 1] * (1 + margin)


def prediction_margin(largest_error: float, runtime: Runtime) -> float:
    """Relative error that the order of predicted latencies is trusted to.

    Args:
        largest_error: of a latency model, on what it was not fitted to.
        runtime: that the search is for; the model is one of the eager runtime, and compiling shifts the order.
    """
    least, most = MARGINS[runtime]
    return min(max(largest_error, least), most)


@dataclass(frozen=True, slots=True)
class Look:
    """What a certificate says after some episodes."""

    verdict: Verdict
    upper_bound: float
    """Of the mean, one-sided, valid however often one looked."""
    next_look: int
    """Episodes after which to look again, where the verdict is open."""
    reason: str


def first_look(question: Question, method: CertificateMethod, cap: int) -> int:
    """Episodes before which no look can say yes."""
    if method == "asymptotic":
        return min(cap, LEAST_ASYMPTOTIC_EPISODES)
    return min(cap, fewest_episodes(question.threshold, question.alpha, question.bound))


def look(values: Degradations, question: Question, method: CertificateMethod, cap: int) -> Look:
    """Test a candidate by its degradations on confirmation episodes so far.

    Only ``UNDER`` rests on the guarantee, and holds whatever made the test go on or stop: it is accepted where any look
    at any number of episodes so far accepts. ``OVER`` and ``OUT_OF_REACH`` merely save episodes.

    Args:
        values: an ``n``-dim array, clipped.
        question: threshold, bound, and the error that this candidate's test may spend.
        method: of the test.
        cap: most episodes.
    """
    episodes, mean = len(values), float(np.mean(values))
    upper = float(upper_bounds(values, question.alpha, question.bound, method)[-1])
    seen = f"degradation {mean:.4f} on {episodes} confirmation episodes"
    if bool(accepts(values, question, method).any()):
        return Look(Verdict.UNDER, upper, episodes, f"{seen}, proved to be at most {upper:.4f}")
    lower = float(asymptotic_lower_bounds(values, SCREENING_ALPHA, tuned_for=episodes)[-1])
    if lower > question.threshold:
        return Look(Verdict.OVER, upper, episodes, f"{seen}, surely at least {lower:.4f}")
    reach = f"the threshold {question.threshold:.4g} is not proved"
    if episodes >= cap:
        return Look(Verdict.OUT_OF_REACH, upper, episodes, f"{seen}: {reach} with the most there may be")
    if (needed := _hopeful_episodes(values, question, CERTIFICATE_REACH)) > cap:
        return Look(Verdict.OUT_OF_REACH, upper, episodes, f"{seen}: {reach}, and would not be with {cap}")
    furthest = max(LATER_LOOK * episodes, min(needed, FURTHEST_LOOK * episodes))
    return Look(Verdict.OPEN, upper, min(cap, math.ceil(furthest)), f"{seen}: {reach} yet")


def look_for_front(values: Degradations, question: Question, method: CertificateMethod, cap: int) -> Look:
    """Test a candidate of a front: go on until its upper bound is close to its mean, not only under the threshold.

    How long the test goes on depends on the values, which the bound allows for.
    """
    seen = look(values, question, method, cap)
    close = question.threshold * FRONT_PRECISION
    if seen.verdict != Verdict.UNDER or len(values) >= cap or seen.upper_bound - float(np.mean(values)) <= close:
        return seen
    further = min(cap, math.ceil(LATER_LOOK * len(values)))
    return Look(Verdict.OPEN, seen.upper_bound, further, f"{seen.reason}; how much less is being measured")


def _hopeful_episodes(values: Degradations, question: Question, reach: float) -> float:
    """Episodes that a proof would take if the mean were ``reach`` standard errors lower than it looks."""
    error = float(np.std(values) / math.sqrt(len(values)))
    lowered = np.clip(values - reach * error, -question.bound, question.bound)
    return episodes_to_accept(lowered, question)


def question_of(threshold: float, bound: float, confidence: float, position: int) -> Question:
    """What the ``position``-th candidate tested (from 1) is asked."""
    return Question(threshold=threshold, alpha=spent_alpha(confidence, position), bound=bound)


class Point(NamedTuple):
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
