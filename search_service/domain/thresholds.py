"""Thresholds after the fact: what a finished search answers for another one, without any new evaluation.

The upper bounds of all candidates tested hold together at the search's confidence, so whoever looks at them may choose
a threshold afterwards: the fastest candidate whose bound is at most that threshold qualifies for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_service.domain.result import Proved, SearchResult


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdAnswer:
    """What is known for a threshold."""

    search_id: str
    max_degradation: float
    """The threshold asked about, in the metric's unit."""
    status: Literal["answered", "needs_evaluation"]
    reason: str
    answer: Proved | None
    """The fastest candidate proved to stay under it; None where that needs evaluation, or is the baseline."""
    low: float
    """From this threshold on ..."""
    high: float
    """... to this one the search answers with no new evaluation."""
    candidates: list[str]
    """Where it needs evaluation: candidates that may qualify and are faster than any that is proved."""
    estimated_s: float | None
    """Where it needs evaluation: seconds of another search, from what this one took, the model's training left out."""


def answer_at(result: SearchResult, threshold: float) -> ThresholdAnswer:
    """The answer of a finished search for a threshold.

    Args:
        result: of a search for the fastest candidate, or for a front.
        threshold: ε, in the metric's unit.
    """
    low, high = answerable(result)
    passed = [proved for proved in result.proved if proved.upper_bound <= threshold]
    best = min(passed, key=lambda proved: (-proved.speedup, proved.candidate), default=None)
    if low <= threshold <= high:
        return _answer(result, threshold, "answered", f"within {low:.4g} to {high:.4g}: no evaluation is needed", best)
    if threshold > high:
        reason = f"above {high:.4g}, the threshold of the search: faster candidates were dropped at that one"
    else:
        reason = f"below {low:.4g}: no candidate was tested long enough to be proved to lose so little"
    return _answer(result, threshold, "needs_evaluation", reason, None)


def answerable(result: SearchResult) -> tuple[float, float]:
    """The thresholds that a finished search answers: from the lowest bound that it proved to its own threshold."""
    bounds = [proved.upper_bound for proved in result.proved]
    if result.goal == "fastest":
        # Candidates faster than the answer are over the threshold or unresolved; slower ones were not looked at.
        bounds = [proved.upper_bound for proved in result.proved if proved.candidate == result.fastest.candidate]
    return min([result.max_degradation, *bounds]), result.max_degradation


def _answer(
    result: SearchResult,
    threshold: float,
    status: Literal["answered", "needs_evaluation"],
    reason: str,
    answer: Proved | None,
) -> ThresholdAnswer:
    low, high = answerable(result)
    needs_evaluation = status == "needs_evaluation"
    candidates = [] if not needs_evaluation else _promising(result, threshold)
    phases = ("baseline", "calibration", "search", "timing", "certificate")
    return ThresholdAnswer(
        search_id=result.search_id,
        max_degradation=threshold,
        status=status,
        reason=reason,
        answer=answer,
        low=low,
        high=high,
        candidates=candidates,
        estimated_s=sum(result.seconds.get(phase, 0.0) for phase in phases) if needs_evaluation else None,
    )


def _promising(result: SearchResult, threshold: float) -> list[str]:
    """Candidates seen on the front, or left unresolved, that may lose no more than the threshold."""
    front = [point.candidate for point in result.front if point.degradation_low <= threshold]
    return list(dict.fromkeys([*front, *result.search.unresolved]))
