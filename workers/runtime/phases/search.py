"""Search: candidates are screened on validation classes, those predicted to be fastest first.

Candidates that share most of their work are judged in one run. Each one's fate depends on its own evaluations and the
baseline's only; how far the search goes depends on who survived. So any number of workers comes to the same survivors
within the horizon; several at once may judge a few beyond it.
"""

from __future__ import annotations

import numpy as np

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import DIVERGED_QUALITY, Split
from search_service.domain.search import Phase
from search_service.domain.trial import TrialState
from search_service.storage import tokens, trials
from search_service.storage.tables import TokenRow, TrialRow
from workers.runtime.case import Case
from workers.runtime.phases import judged_run
from workers.runtime.phases.calibration import add_trials, model_of
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, ProposalOutcome, ProposalWork, Work
from workers.search.decisions import Screening, Verdict, horizon_s, prediction_margin, screen
from workers.search.proposals import ROUND
from workers.search.statistics import MeanEstimate

MAX_TOKENS = 32
"""Batches of one search that may be in work at once: enough for as many workers."""

STATES = {
    Verdict.OVER: TrialState.DROPPED,
    Verdict.UNDER: TrialState.SURVIVED,
    Verdict.PROMISING: TrialState.SURVIVED,
    Verdict.OUT_OF_REACH: TrialState.UNRESOLVED,
    Verdict.OPEN: TrialState.PENDING,
}


def plan(case: Case) -> int:
    """As many tokens as there are groups of candidates to judge, up to ``MAX_TOKENS``; without any, one to propose."""
    _show(case)
    groups = _free_groups(case)
    return min(groups, MAX_TOKENS) if groups else int(_may_propose(case))


def has_more(case: Case) -> bool:
    """Whether there is anything left to screen."""
    return _free_groups(case) > 0 or _may_propose(case)


def take(case: Case, token: TokenRow) -> Batch | None:
    """The fastest pending candidates, on their next block; if claimed before, those that the token holds already.

    Where a sampler searches and nothing is pending, the round's only token has candidates proposed, and ends: the next
    round has a token for each group of these.
    """
    rows = trials.taken(case.session, case.row.id, token.no)
    if not rows and (case.row.round or {}).get("proposed_by") != token.no and not _is_spent(case):
        rows = trials.take_group(
            case.session, case.row.id, token.no, horizon(case), _most_new(case), _most_blocks(case)
        )
    if not rows:
        is_alone = tokens.live_count(case.session, case.row.id, case.phase) == 1
        return {"propose": _count_to_propose(case)} if token.step == 0 and is_alone and _may_propose(case) else None
    candidates = [Candidate.parse(row.candidate) for row in rows]
    return judged_run.batch_for(case, candidates, Split.VALIDATION, rows[0].blocks)


def work(case: Case, batch: Batch) -> Work | None:
    """Judge the run, or propose."""
    if "propose" not in batch:
        return judged_run.work_for(case, batch)
    assert case.row.latency_model is not None
    return ProposalWork(
        space=case.space,
        sampler=case.method,
        known=[_known(case, row) for row in trials.of_search(case.session, case.row.id)],
        latency_model=case.row.latency_model,
        faster_than_s=horizon(case),
        count=batch["propose"],
        seed=case.spec.seed,
    )


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the evaluations and decide about each candidate of the batch, or list what was proposed."""
    if isinstance(outcome, ProposalOutcome):
        add_trials(case, [Candidate.parse(text, len(case.unit_names)) for text in outcome.candidates])
        case.row.round = {"proposed_by": token.no, "exhausted": not outcome.candidates}
        case.session.flush()
        _show(case)
        return
    judged_run.record(case, batch, outcome)
    judged = trials.taken(case.session, case.row.id, token.no)
    for trial in judged:
        _judge(case, trial, batch["block"] + 1)
        trial.token_no = None
    case.session.flush()
    case.tell_trials(trial for trial in judged if trial.state != TrialState.PENDING)
    _show(case)


def following(case: Case) -> Phase:
    """Those that survived are timed."""
    return Phase.TIMING


def horizon(case: Case) -> float:
    """Predicted latency up to which candidates are judged before the survivors so far are timed and tested."""
    assert case.row.latency_model is not None
    margin = prediction_margin(case.row.latency_model["error"]["largest"], case.spec.runtime)
    if case.spec.goal == "front":
        # What loses less than a faster one may be anywhere up to the baseline.
        return model_of(case).predict_s(Candidate(case.baseline)) * (1 + margin)
    survivors = trials.of_search(case.session, case.row.id, [TrialState.SURVIVED])
    return horizon_s([row.predicted_latency_s for row in survivors if row.predicted_latency_s is not None], margin)


def _free_groups(case: Case) -> int:
    return 0 if _is_spent(case) else trials.free_groups(case.session, case.row.id, horizon(case), _most_new(case))


def _is_spent(case: Case) -> bool:
    """Whether no further block may start: the search was asked to answer, or a sampler's budget is spent."""
    seconds = case.spec.method.seconds
    if case.row.stopping:
        return True
    return _most_blocks(case) == 0 or (seconds is not None and case.seconds_in(Phase.SEARCH) >= seconds)


def _most_blocks(case: Case) -> int | None:
    """Blocks, over all candidates, that a sampler's search may still start; None where there is no limit."""
    episodes = case.spec.method.episodes
    if episodes is None:
        return None
    return max(0, episodes // case.spec.episodes.block - trials.reserved_blocks(case.session, case.row.id))


def _may_propose(case: Case) -> bool:
    if case.method == "ordered" or _is_spent(case) or (case.row.round or {}).get("exhausted"):
        return False
    return _count_to_propose(case) > 0


def _count_to_propose(case: Case) -> int:
    return min(ROUND, _most_new(case) or 0)


def _most_new(case: Case) -> int | None:
    """Candidates that a sampler's search may still begin to judge; None for an ordered one."""
    if case.method == "ordered":
        return None
    return max(0, case.trial_budget - trials.judged_count(case.session, case.row.id))


def _known(case: Case, row: TrialRow) -> tuple[str, float, float | None]:
    violation = None if row.degradation is None else row.degradation - case.max_degradation
    return row.candidate, row.predicted_latency_s or 0.0, violation


def _judge(case: Case, trial: TrialRow, blocks: int) -> None:
    qualities = case.qualities(Split.VALIDATION, trial.candidate, blocks)
    degradations = case.degradations(Split.VALIDATION, trial.candidate, blocks)
    estimate = MeanEstimate.of(degradations)
    budget = case.spec.episodes
    screening = screen(degradations, case.question(1), budget.validation, budget.confirmation)
    if diverged := int(np.sum(qualities <= DIVERGED_QUALITY)):
        screening = Screening(
            Verdict.OVER, f"adaptation diverged on {diverged} of {len(qualities)} validation episodes"
        )
    trial.blocks = blocks
    trial.quality = float(qualities.mean())
    trial.degradation = estimate.mean
    trial.degradation_se = estimate.standard_error
    trial.reason = screening.reason
    trial.state = STATES[screening.verdict]


def _show(case: Case) -> None:
    counts = trials.counts(case.session, case.row.id)
    left = counts[TrialState.PENDING]
    total = sum(counts.values())
    message = f"{counts[TrialState.DROPPED]} dropped, {counts[TrialState.SURVIVED]} survived"
    case.set_progress(total - left, total, "candidates", message)
