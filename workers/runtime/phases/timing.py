"""Timing: survivors and the full pattern of every step count, interleaved in one process, the host to themselves."""

from __future__ import annotations

from search_service.domain.lambda_pattern import LambdaPattern
from search_service.storage import timings, tokens, trials
from search_service.storage.tables import TokenRow, TrialRow
from search_service.storage.trials import TrialState
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, TimingOutcome, TimingWork, Work

LIMIT_SECONDS = 20.0
"""Seconds of rounds in one timing run; tracing comes on top."""
MAX_TIMED = 160
"""Survivors that are timed: those estimated to compute least, where there are more."""


def plan(case: Case) -> int:
    """One token: all ratios come from one run."""
    if tokens.count_of(case.session, case.row.id, case.phase):
        return 0
    case.set_progress(0, 1, "share", "waiting for a worker")
    return 1


def take(case: Case, token: TokenRow) -> Batch | None:
    """The full pattern of every step count, and the survivors."""
    if token.step:
        return None
    survivors = [LambdaPattern.parse(row.candidate) for row in _survivors(case)]
    chosen = sorted(survivors, key=_work_estimate)[:MAX_TIMED]
    texts = list(dict.fromkeys(pattern.text for pattern in [*case.full_by_steps, *chosen]))
    scope = case.timing_scope
    known = timings.get(case.session, scope.key, texts)
    # Ratios hold within one run only, and a disturbed run is not worth keeping.
    reusable = len(known) == len(texts) and len({entry["run"] for entry in known.values()}) == 1
    return {"candidates": texts, "known": reusable and all(entry["tight"] for entry in known.values())}


def work(case: Case, batch: Batch) -> Work | None:
    """Time everything in one run, unless such a run is stored."""
    if batch["known"]:
        return None
    return TimingWork(
        subject=case.subject,
        baseline=case.baseline.text,
        patterns=batch["candidates"],
        seed=case.spec.seed,
        limit_s=LIMIT_SECONDS,
    )


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the figures, and each survivor's latency."""
    scope = case.timing_scope
    if isinstance(outcome, TimingOutcome):
        stamp = {"device": case.device, "run": f"{case.row.id}/{token.claim_no}"}
        figures = {text: {**entry, **stamp} for text, entry in outcome.figures.items()}
        timings.put(case.session, scope, figures)
    else:
        figures = timings.get(case.session, scope.key, batch["candidates"])
    case.row.timings = figures
    for trial in _survivors(case):
        if trial.candidate in figures:
            trial.latency_s = figures[trial.candidate]["latency_s"]["median"]
            trial.speedup = figures[trial.candidate]["speedup"]["estimate"]
            trial.mirrored = False


def _survivors(case: Case) -> list[TrialRow]:
    return list(trials.of_search(case.session, case.row.id, [TrialState.SURVIVED]))


def _work_estimate(pattern: LambdaPattern) -> tuple[int, int, str]:
    """Grows with what a pattern computes: passes above the frozen prefix, then gradients taken."""
    lowest = pattern.lowest_active_unit or 0
    return ((pattern.units - lowest) * pattern.steps, sum(map(sum, pattern.rows)), pattern.text)
