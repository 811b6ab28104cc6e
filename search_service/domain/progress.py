"""How far a search is, over all its phases, and how long it may still take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search_service.domain.search import Phase

USUAL_S: Mapping[Phase, float] = {
    Phase.META_TRAINING: 100.0,
    Phase.BASELINE: 8.0,
    Phase.CALIBRATION: 12.0,
    Phase.SEARCH: 20.0,
    Phase.TIMING: 20.0,
    Phase.CERTIFICATE: 25.0,
}
"""Seconds of phases that are still to come, in the proportions of a small image search on two cores."""
PACES = (0.25, 20.0)
"""How much faster or slower than usual later phases are believed to be, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A guess: later phases depend on what earlier ones find."""

    share: float
    """Of the work, 0 to 1."""
    left_s: float | None
    """Seconds; None while nothing tells how fast the work goes."""


def outlook(
    phase: Phase | None, phase_share: float, seconds_in_phase: float, finished_s: Mapping[str, float], is_over: bool
) -> Outlook:
    """How far a search is.

    Args:
        phase: the one it is in; None before it runs.
        phase_share: how much of that is done, 0 to 1.
        seconds_in_phase: how long it has been in it.
        finished_s: seconds of the phases before.
        is_over: whether the search has ended.
    """
    if is_over:
        return Outlook(share=1.0, left_s=0.0)
    if phase is None:
        return Outlook(share=0.0, left_s=None)
    done_s = sum(finished_s.values())
    pace = _pace(finished_s)
    usual = pace * USUAL_S.get(phase, 60.0)
    # The present phase by its own pace, as soon as it has one; the others by what they usually take.
    present_s = seconds_in_phase / phase_share if phase_share > 0.01 else max(usual, seconds_in_phase)
    later_s = pace * sum(seconds for later, seconds in USUAL_S.items() if _comes_after(later, phase))
    total_s = done_s + present_s + later_s
    passed_s = done_s + min(seconds_in_phase, present_s)
    share = passed_s / total_s if total_s else 0.0
    return Outlook(share=min(0.99, share), left_s=max(0.0, total_s - passed_s))


def _pace(finished_s: Mapping[str, float]) -> float:
    """How long phases take beside what is usual, by those that are over; training tells nothing of the others."""
    known = {phase for phase in USUAL_S if phase in finished_s and phase != Phase.META_TRAINING}
    if not known:
        return 1.0
    pace = sum(finished_s[phase] for phase in known) / sum(USUAL_S[phase] for phase in known)
    return min(max(pace, PACES[0]), PACES[1])


def _comes_after(later: Phase, phase: Phase) -> bool:
    order = list(Phase)
    return order.index(later) > order.index(phase)
