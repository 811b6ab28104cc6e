"""Baseline: the full pattern for every step count, and no adaptation, on all validation blocks; one token per block."""

from __future__ import annotations

import numpy as np

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.storage import tokens, trials
from search_service.storage.tables import TokenRow
from workers.runtime.case import Case
from workers.runtime.phases import judged_run
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work

MESSAGE = "judging the baseline"
RUNS = 2
"""Step 0 of a block's token judges the full run, step 1 the empty pattern."""

FREE_UNITS = 3
"""Units in which the rows of one batch may differ: at most eight rows, so that a batch stays short and workers many."""


def plan(case: Case) -> int:
    """One token per validation block; when they have ended, the threshold and the trials are set."""
    if tokens.count_of(case.session, case.row.id, case.phase) == 0:
        case.set_progress(0, case.blocks(Split.VALIDATION), "blocks", MESSAGE)
        return case.blocks(Split.VALIDATION)
    _set_threshold(case)
    _list_trials(case)
    return 0


def take(case: Case, token: TokenRow) -> Batch | None:
    """The full run on the token's block, then the empty pattern on it."""
    if token.step >= RUNS:
        return None
    patterns = case.full_by_steps if token.step == 0 else [case.empty]
    return judged_run.batch_for(case, patterns, Split.VALIDATION, token.no)


def work(case: Case, batch: Batch) -> Work | None:
    """Judge the run."""
    return judged_run.work_for(case, batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the evaluations."""
    judged_run.record(case, batch, outcome)
    judged_run.show_blocks(case, Split.VALIDATION, RUNS, MESSAGE, just_done=1)


def _set_threshold(case: Case) -> None:
    """The threshold in the metric's unit; a relative one is a fraction of the baseline's validation error."""
    spec = case.spec
    baseline = judged_run.baseline_qualities(case, Split.VALIDATION)
    if spec.degradation == "absolute":
        case.row.max_degradation = spec.max_degradation
        return
    case.row.max_degradation = spec.max_degradation * abs(float(np.mean(baseline)))


def _list_trials(case: Case) -> None:
    """One trial per candidate; those that share most of their work are judged together."""
    trained_steps = case.checkpoint_config.meta_training.inner_steps
    space = case.spec.candidates(trained_steps, fast_bfloat16=bool(case.device.get("fast_bfloat16")))
    trials.add_many(
        case.session,
        case.row.id,
        ((candidate.text, _batch_group(candidate)) for candidate in space.candidates()),
    )


def _batch_group(candidate: Candidate) -> str:
    """What candidates that are judged together agree on: precision, lowest active unit, all but the last units.

    The last ``FREE_UNITS`` units of a row are left open, so a group has at most ``2**FREE_UNITS`` rows.
    """
    pattern = candidate.pattern
    assert pattern.lowest_active_unit is not None
    fixed = max(pattern.lowest_active_unit + 1, pattern.units - FREE_UNITS)
    return "".join(str(int(bit)) for bit in pattern.rows[0][:fixed]) + f"*:{candidate.precision}"
