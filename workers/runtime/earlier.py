"""Answers from an earlier search: what was timed and tested for one threshold answers another in the same range.

Searches whose ``Case.question_key`` is the same differ by their threshold only. The bounds of all candidates that the
earlier one tested hold together at its confidence, so a later one may take them over as they are
(``search_service.domain.thresholds``): no evaluation, no timing, no further error is spent.
"""

from __future__ import annotations

from search_service.domain.evaluation import Split
from search_service.domain.thresholds import answer_at
from search_service.domain.trial import TrialState
from search_service.storage import evaluations, searches, trials
from search_service.storage.tables import SearchRow, TrialRow
from workers.runtime.case import Case


def adopt(case: Case) -> bool:
    """Take over the trials and timings of an earlier search that answers this one's threshold, if there is one."""
    case.row.question = case.question_key
    for earlier in searches.answered(case.session, case.row.question):
        if _answers(case, earlier):
            _take_over(case, earlier)
            return True
    return False


def _answers(case: Case, earlier: SearchRow) -> bool:
    result = searches.result(earlier)
    goes_far_enough = case.spec.goal == "fastest" or result.goal == "front"
    if not goes_far_enough or answer_at(result, _threshold(case, earlier)).status != "answered":
        return False
    return _is_stored(case, [(proved.candidate, proved.episodes) for proved in result.proved]) and _is_stored(
        case, [(case.baseline.text, result.confirmed.episodes)]
    )


def _is_stored(case: Case, tested: list[tuple[str, int]]) -> bool:
    """Whether the evaluations that tests rest on, with their company's, are still there: the result quotes them."""
    key = evaluations.ensure_scope(case.session, case.scope(Split.TEST))
    company = [candidate.text for candidate in [*case.full_by_steps, case.empty]]
    block = case.spec.episodes.block
    return not any(
        evaluations.missing_blocks(case.session, key, [*company, candidate], episodes // block)
        for candidate, episodes in tested
    )


def _threshold(case: Case, earlier: SearchRow) -> float:
    """This search's threshold in the metric's unit; a relative one is of the same baseline as the earlier one's."""
    if case.spec.degradation == "absolute":
        return case.spec.max_degradation
    assert earlier.max_degradation is not None, "an answered search has a threshold"
    in_metric: float = earlier.max_degradation / earlier.spec["max_degradation"] * case.spec.max_degradation
    return in_metric


def _take_over(case: Case, earlier: SearchRow) -> None:
    threshold = _threshold(case, earlier)
    case.row.answered_from = earlier.id
    case.row.max_degradation = threshold
    case.row.latency_model = earlier.latency_model
    case.row.timings = earlier.timings
    judged = [row for row in trials.of_search(case.session, earlier.id) if row.blocks]
    trials.copy(case.session, case.row.id, {row: _state_at(row, threshold) for row in judged})
    tested = sum((row.confirmation or {}).get("target", 0) for row in judged)
    case.add_effort(reused_evaluations=sum(row.blocks for row in judged) + tested)


def _state_at(row: TrialRow, threshold: float) -> TrialState:
    """What a trial of a search with a higher threshold stands at for this one."""
    state = TrialState(row.state)
    bound = (row.confirmation or {}).get("upper_bound")
    if bound is None:
        return state
    if bound <= threshold:
        return TrialState.QUALIFIED
    return TrialState.UNRESOLVED if state == TrialState.QUALIFIED else state
