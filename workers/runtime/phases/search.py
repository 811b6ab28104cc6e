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
from search_service.storage import trials
from search_service.storage.tables import TokenRow, TrialRow
from search_service.storage.trials import TrialState
from workers.runtime.case import Case
from workers.runtime.phases import judged_run
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work
from workers.search.decisions import Screening, Verdict, horizon_s, prediction_margin, screen
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
    """As many tokens as there are groups of candidates to judge, up to ``MAX_TOKENS``."""
    _show(case)
    return min(trials.free_groups(case.session, case.row.id, horizon(case)), MAX_TOKENS)


def take(case: Case, token: TokenRow) -> Batch | None:
    """The fastest pending candidates, on their next block; if claimed before, those that the token holds already."""
    held = trials.taken(case.session, case.row.id, token.no)
    rows = held or trials.take_group(case.session, case.row.id, token.no, horizon(case))
    if not rows:
        return None
    candidates = [Candidate.parse(row.candidate) for row in rows]
    return judged_run.batch_for(case, candidates, Split.VALIDATION, rows[0].blocks)


def work(case: Case, batch: Batch) -> Work | None:
    """Judge the run."""
    return judged_run.work_for(case, batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the evaluations and decide about each candidate of the batch."""
    judged_run.record(case, batch, outcome)
    for trial in trials.taken(case.session, case.row.id, token.no):
        _judge(case, trial, batch["block"] + 1)
        trial.token_no = None
    case.session.flush()
    _show(case)


def following(case: Case) -> Phase:
    """Those that survived are timed."""
    return Phase.TIMING


def horizon(case: Case) -> float:
    """Predicted latency up to which candidates are judged before the survivors so far are timed and tested."""
    assert case.row.latency_model is not None
    margin = prediction_margin(case.row.latency_model["error"]["largest"], case.spec.runtime)
    survivors = trials.of_search(case.session, case.row.id, [TrialState.SURVIVED])
    return horizon_s([row.predicted_latency_s for row in survivors if row.predicted_latency_s is not None], margin)


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
