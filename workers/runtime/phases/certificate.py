"""Certificate: on confirmation classes, untouched before, timed survivors are tested in order of latency.

A round judges some confirmation blocks of one candidate, one token each, with the baseline and its company on the same
blocks. The round's last token to end decides: the candidate qualifies, is given up, or is judged on further blocks. The
test may look as often as it likes (``workers.search.confidence``).
"""

from __future__ import annotations

from typing import Any

from search_service.domain.candidate import Candidate
from search_service.domain.errors import BaselineDiverged
from search_service.domain.evaluation import DIVERGED_QUALITY, Split
from search_service.domain.search import Phase
from search_service.domain.trial import TrialState
from search_service.storage import evaluations, trials
from search_service.storage.tables import TokenRow, TrialRow
from workers.runtime.case import Case
from workers.runtime.phases import judged_run, retraining, rounds, search
from workers.runtime.phases.rules import Batch
from workers.runtime.phases.timing import heat
from workers.runtime.work import Outcome, Work
from workers.search.confidence import Degradations
from workers.search.decisions import Look, Verdict, first_look, look, look_for_front
from workers.search.statistics import MeanEstimate, Qualities

STATES = {
    Verdict.UNDER: TrialState.QUALIFIED,
    Verdict.OVER: TrialState.UNQUALIFIED,
    Verdict.OUT_OF_REACH: TrialState.UNRESOLVED,
}
TESTED = tuple(STATES.values())


def plan(case: Case) -> int:
    """A round of tokens, until a candidate qualifies (of a front: all are tested) or none that was timed is left.

    Rounds whose evaluations are all stored, by this search or another, need no token.
    """
    while True:
        trial = _in_test(case)
        if trial is not None and _missing(case, trial, _target(trial)):
            return _round(case, trial)
        if trial is not None:
            _look(case, trial)
            if trial.state == TrialState.QUALIFIED and case.spec.goal == "fastest":
                return 0
            continue
        trial = _next_candidate(case)
        if trial is None:
            return _company_alone(case)
        position = tested_count(case) + 1
        cap = case.spec.episodes.confirmation
        first = first_look(case.question(position), case.spec.certificate, cap)
        trial.confirmation = {"position": position, "target": whole_blocks(case, first)}
        case.session.flush()


def take(case: Case, token: TokenRow) -> Batch | None:
    """The round's candidate and the baseline's company on the token's block."""
    if token.step:
        return None
    candidate = rounds.present(case)["candidate"]
    tested = [] if candidate is None else [Candidate.parse(candidate)]
    return judged_run.batch_for(case, [*_company(case), *tested], Split.TEST, rounds.block_of(case, token))


def work(case: Case, batch: Batch) -> Work | None:
    """Judge the run."""
    return judged_run.work_for(case, batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the evaluations."""
    judged_run.record(case, batch, outcome)
    rounds.show_step(case)


def following(case: Case) -> Phase | None:
    """The search goes on, unless there is an answer or nothing left to search. A front is tested once."""
    counts = trials.counts(case.session, case.row.id)
    is_over = case.spec.goal == "front" or counts[TrialState.QUALIFIED]
    if is_over or not (counts[TrialState.SURVIVED] or search.has_more(case)):
        return retraining.after_answer(case)
    return Phase.SEARCH


def confirmed_blocks(case: Case) -> int:
    """Confirmation blocks that the baseline and its company have been judged on: those of the longest test."""
    targets = [_target(row) for row in _tested(case)]
    return max(targets, default=whole_blocks(case, first_look(case.question(1), case.spec.certificate, _cap(case))))


def _company(case: Case) -> list[Candidate]:
    """Full adaptation for every step count, the baseline's among them, and none."""
    return [*case.full_by_steps, case.empty]


def _round(case: Case, trial: TrialRow | None) -> int:
    """A token for every block that is missing."""
    target = confirmed_blocks(case) if trial is None else _target(trial)
    blocks = _missing(case, trial, target)
    if trial is None or trial.confirmation is None:
        message = "judging the baseline on confirmation classes"
    else:
        episodes = target * case.spec.episodes.block
        message = f"proving {trial.candidate}, candidate {trial.confirmation['position']}, on {episodes} episodes"
    return rounds.begin(case, blocks, message, candidate=None if trial is None else trial.candidate)


def _company_alone(case: Case) -> int:
    """The baseline's round where nothing was tested, once nothing is left to test either."""
    if following(case) == Phase.SEARCH:
        return 0
    return _round(case, None) if _missing(case, None, confirmed_blocks(case)) else 0


def _missing(case: Case, trial: TrialRow | None, blocks: int) -> list[int]:
    """Blocks of the first ``blocks`` on which something of a round has not been judged."""
    texts = [candidate.text for candidate in _company(case)] + ([] if trial is None else [trial.candidate])
    key = evaluations.ensure_scope(case.session, case.scope(Split.TEST))
    return evaluations.missing_blocks(case.session, key, texts, blocks)


def _look(case: Case, trial: TrialRow) -> None:
    """Test a candidate on what it has been judged on."""
    assert trial.confirmation is not None
    blocks, position = _target(trial), trial.confirmation["position"]
    if case.qualities(Split.TEST, case.baseline.text, blocks).min() <= DIVERGED_QUALITY:
        raise BaselineDiverged(case.baseline.text, case.rate)
    qualities = case.qualities(Split.TEST, trial.candidate, blocks)
    degradations = case.degradations(Split.TEST, trial.candidate, blocks)
    looking = look if case.spec.goal == "fastest" else look_for_front
    seen = looking(degradations, case.question(position), case.spec.certificate, _cap(case))
    trial.reason = seen.reason
    trial.confirmation = figures_of(case, position, qualities, degradations, seen)
    if seen.verdict not in STATES:
        case.session.flush()
        return
    trial.state = STATES[seen.verdict]
    case.session.flush()
    case.tell_trials([trial])
    case.tell_best()


def figures_of(
    case: Case, position: int, qualities: Qualities, degradations: Degradations, seen: Look
) -> dict[str, Any]:
    """What a look at the ``position``-th candidate tested showed, and how many blocks the next one takes."""
    estimate = MeanEstimate.of(degradations)
    low, high = estimate.interval()
    return {
        "position": position,
        "target": whole_blocks(case, seen.next_look),
        "quality": float(qualities.mean()),
        "degradation": estimate.mean,
        "low": low,
        "high": high,
        "upper_bound": seen.upper_bound,
        "alpha": case.question(position).alpha,
        "episodes": estimate.episodes,
    }


def _in_test(case: Case) -> TrialRow | None:
    """The candidate under test."""
    survivors = trials.of_search(case.session, case.row.id, [TrialState.SURVIVED])
    return next((row for row in survivors if row.confirmation is not None), None)


def _next_candidate(case: Case) -> TrialRow | None:
    """The fastest of those timed together that has not been tested; ties go to the canonical text."""
    timed = [row for row in heat(case) if row.speedup is not None]
    return min(timed, key=lambda row: (-(row.speedup or 0.0), row.candidate), default=None)


def tested_count(case: Case) -> int:
    """How many candidates a test has been begun for."""
    return len(_tested(case))


def _tested(case: Case) -> list[TrialRow]:
    """Those that a test has been begun for."""
    rows = trials.of_search(case.session, case.row.id, [*TESTED, TrialState.SURVIVED])
    return [row for row in rows if row.confirmation is not None]


def _target(trial: TrialRow) -> int:
    """Confirmation blocks after which a candidate is looked at next, or was looked at last."""
    assert trial.confirmation is not None
    target: int = trial.confirmation["target"]
    return target


def _cap(case: Case) -> int:
    return case.spec.episodes.confirmation


def whole_blocks(case: Case, episodes: int) -> int:
    """Whole blocks that hold so many episodes, as far as the cap goes."""
    block = case.spec.episodes.block
    return min(-(-episodes // block), case.blocks(Split.TEST))
