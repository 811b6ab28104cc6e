"""Search: every candidate is judged block by block on validation classes until it is dropped or survives.

Candidates of one row are judged in one run. Each candidate's fate depends on its own evaluations and the baseline's
only, so any number of workers finds the same survivors with the same evaluations.
"""

from __future__ import annotations

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.storage import tokens, trials
from search_service.storage.tables import TokenRow
from search_service.storage.trials import TrialState
from workers.runtime.case import Case
from workers.runtime.phases import judged_run
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work
from workers.search.decisions import screen
from workers.search.statistics import degradation

MAX_TOKENS = 32
"""Batches of one search that may be in work at once: enough for as many workers."""


def plan(case: Case) -> int:
    """As many tokens as there are rows, up to ``MAX_TOKENS``."""
    if tokens.count_of(case.session, case.row.id, case.phase):
        return 0
    _show(case)
    rows = (1 << len(case.unit_names)) - 1
    return min(rows, MAX_TOKENS)


def take(case: Case, token: TokenRow) -> Batch | None:
    """The pending candidates of one row, on their next block; if claimed before, those that the token holds already."""
    held = trials.taken(case.session, case.row.id, token.no)
    rows = held or trials.take_group(case.session, case.row.id, token.no)
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
    blocks = batch["block"] + 1
    is_last = blocks == case.blocks(Split.VALIDATION)
    baseline = case.qualities(Split.VALIDATION, case.baseline.text, blocks)
    for trial in trials.taken(case.session, case.row.id, token.no):
        qualities = case.qualities(Split.VALIDATION, trial.candidate, blocks)
        estimate = degradation(baseline, qualities)
        decision = screen(estimate, case.max_degradation, is_last)
        trial.blocks = blocks
        trial.quality = float(qualities.mean())
        trial.degradation = estimate.mean
        trial.degradation_se = estimate.standard_error
        trial.reason = decision.reason
        if decision.drop:
            trial.state = TrialState.DROPPED
        elif is_last:
            trial.state = TrialState.SURVIVED
        trial.token_no = None
    case.session.flush()
    _show(case)


def _show(case: Case) -> None:
    counts = trials.counts(case.session, case.row.id)
    decided = counts[TrialState.DROPPED] + counts[TrialState.SURVIVED]
    total = decided + counts[TrialState.PENDING]
    message = f"{counts[TrialState.DROPPED]} dropped, {counts[TrialState.SURVIVED]} survived"
    case.set_progress(decided, total, "candidates", message)
