"""Timing: survivors and the full pattern of every step count, interleaved in one process, the host to themselves.

Everything is timed eagerly first. Where the search is for the runtime ``compiled``, those that were fastest are then
compiled and timed again, in a run of their own: compiling takes seconds to minutes for each.
"""

from __future__ import annotations

from search_service.domain.candidate import Candidate
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.search import Runtime
from search_service.storage import timings, tokens, trials
from search_service.storage.tables import TokenRow, TrialRow
from search_service.storage.trials import TrialState
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, TimingOutcome, TimingWork, Work

LIMIT_SECONDS = 20.0
"""Seconds of rounds in one timing run; tracing and compiling come on top."""
MAX_TIMED = 160
"""Survivors that are timed: those estimated to compute least, where there are more."""
FINALISTS = 8
"""Survivors that are compiled: the fastest in the eager runtime."""


def plan(case: Case) -> int:
    """One token: all ratios come from one run."""
    if tokens.count_of(case.session, case.row.id, case.phase):
        return 0
    case.set_progress(0, 1, "share", "waiting for a worker")
    return 1


def take(case: Case, token: TokenRow) -> Batch | None:
    """Step 0 times eagerly; step 1, where the search is for it, in the runtime ``compiled``."""
    runtimes: list[Runtime] = ["eager"]
    if case.spec.runtime == "compiled":
        runtimes.append("compiled")
    if token.step >= len(runtimes):
        return None
    runtime = runtimes[token.step]
    texts = _finalists(case) if runtime == "compiled" else _survivors_and_full(case)
    known = timings.get(case.session, case.timing_scope(runtime).key, texts)
    # Ratios hold within one run only, and a disturbed run is not worth keeping.
    reusable = len(known) == len(texts) and len({entry["run"] for entry in known.values()}) == 1
    return {
        "runtime": runtime,
        "candidates": texts,
        "known": reusable and all(entry["tight"] for entry in known.values()),
    }


def work(case: Case, batch: Batch) -> Work | None:
    """Time everything in one run, unless such a run is stored."""
    if batch["known"]:
        return None
    return TimingWork(
        subject=case.subject,
        baseline=case.baseline.text,
        candidates=batch["candidates"],
        runtime=batch["runtime"],
        seed=case.spec.seed,
        limit_s=LIMIT_SECONDS,
    )


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the figures, and each survivor's latency; the compiled run's replace the eager run's."""
    scope = case.timing_scope(batch["runtime"])
    if isinstance(outcome, TimingOutcome):
        stamp = {"device": case.device, "run": f"{case.row.id}/{token.claim_no}"}
        figures = {text: {**entry, **stamp} for text, entry in outcome.figures.items()}
        timings.put(case.session, scope, figures)
    else:
        figures = timings.get(case.session, scope.key, batch["candidates"])
    case.row.timings = figures
    for trial in _survivors(case):
        figure = figures.get(trial.candidate)
        trial.latency_s = figure["latency_s"]["median"] if figure else None
        trial.speedup = figure["speedup"]["estimate"] if figure else None
        trial.mirrored = False


def _survivors_and_full(case: Case) -> list[str]:
    survivors = [Candidate.parse(row.candidate) for row in _survivors(case)]
    chosen = sorted(survivors, key=_work_estimate)[:MAX_TIMED]
    full = [pattern.text for pattern in case.full_by_steps]
    return list(dict.fromkeys([*full, *(candidate.text for candidate in chosen)]))


def _finalists(case: Case) -> list[str]:
    """The survivors that were fastest eagerly, the baseline, and the full pattern for as many steps as any of them."""
    timed = [row for row in _survivors(case) if row.latency_s is not None]
    fastest = sorted(timed, key=lambda row: (row.latency_s or 0.0, row.candidate))[:FINALISTS]
    steps = sorted({Candidate.parse(row.candidate).pattern.steps for row in fastest})
    full = [LambdaPattern.full(len(case.unit_names), count).text for count in steps]
    return list(dict.fromkeys([case.baseline.text, *full, *(row.candidate for row in fastest)]))


def _survivors(case: Case) -> list[TrialRow]:
    return list(trials.of_search(case.session, case.row.id, [TrialState.SURVIVED]))


def _work_estimate(candidate: Candidate) -> tuple[int, int, str]:
    """Grows with what a candidate computes: passes above the frozen prefix, then gradients taken."""
    pattern = candidate.pattern
    lowest = pattern.lowest_active_unit or 0
    return ((pattern.units - lowest) * pattern.steps, sum(map(sum, pattern.rows)), candidate.text)
