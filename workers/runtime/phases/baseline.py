"""Baseline: the full pattern for every step count, and no adaptation, on all validation blocks.

One token for each block that no search has judged them on.
"""

from __future__ import annotations

import numpy as np

from search_service.domain.evaluation import Split
from search_service.domain.search import Phase
from search_service.storage import evaluations
from search_service.storage.tables import TokenRow
from workers.runtime.case import Case
from workers.runtime.phases import judged_run, rounds
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work

RUNS = 2
"""Step 0 of a block's token judges the full run, step 1 the empty pattern."""


def plan(case: Case) -> int:
    """One token per missing block; when they have ended, the threshold is set."""
    company = [candidate.text for candidate in [*case.full_by_steps, case.empty]]
    key = evaluations.ensure_scope(case.session, case.scope(Split.VALIDATION))
    missing = evaluations.missing_blocks(case.session, key, company, case.blocks(Split.VALIDATION))
    if not missing:
        _set_threshold(case)
        return 0
    case.add_effort(reused_evaluations=len(company) * (case.blocks(Split.VALIDATION) - len(missing)))
    return rounds.begin(case, missing, "judging the baseline")


def take(case: Case, token: TokenRow) -> Batch | None:
    """The full run on the token's block, then the empty pattern on it."""
    if token.step >= RUNS:
        return None
    patterns = case.full_by_steps if token.step == 0 else [case.empty]
    return judged_run.batch_for(case, patterns, Split.VALIDATION, rounds.block_of(case, token))


def work(case: Case, batch: Batch) -> Work | None:
    """Judge the run."""
    return judged_run.work_for(case, batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the evaluations."""
    judged_run.record(case, batch, outcome)
    rounds.show_step(case, RUNS)


def _set_threshold(case: Case) -> None:
    """The threshold in the metric's unit; a relative one is a fraction of the baseline's validation error."""
    spec = case.spec
    baseline = judged_run.baseline_qualities(case, Split.VALIDATION)
    if spec.degradation == "absolute":
        case.row.max_degradation = spec.max_degradation
        return
    case.row.max_degradation = spec.max_degradation * abs(float(np.mean(baseline)))


def following(case: Case) -> Phase:
    """The order of candidates."""
    return Phase.CALIBRATION
