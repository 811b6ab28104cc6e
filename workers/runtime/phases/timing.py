"""Timing: the survivors within the horizon, and the full pattern for their step counts, interleaved in one process.

They run in the runtime that the search is for, the host to themselves. Compiling takes seconds to minutes for each.
"""

from __future__ import annotations

from collections.abc import Sequence

from search_service.domain.candidate import Candidate
from search_service.domain.search import Phase
from search_service.domain.trial import TrialState
from search_service.storage import timings, trials
from search_service.storage.tables import TokenRow, TrialRow
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch
from workers.runtime.phases.search import horizon
from workers.runtime.work import Outcome, TimingOutcome, TimingWork, Work
from workers.search.decisions import Point, front

LIMIT_SECONDS = 20.0
"""Seconds of rounds in one timing run; tracing and compiling come on top."""
MOST_OF_A_FRONT = 12
"""Candidates of a front that are timed and tested: those predicted to be fastest, where there are more."""
MOST_TIMED = 8
"""Survivors that are timed at once: those predicted to be fastest, where there are more."""


def plan(case: Case) -> int:
    """One token, if anything is to be timed: all ratios come from one run."""
    if case.row.timings and all(row.latency_s is not None for row in heat(case)):
        return 0
    case.set_progress(0, 1, "share", "waiting for a worker")
    return 1


def take(case: Case, token: TokenRow) -> Batch | None:
    """The survivors to time; those of a run that is stored are not timed again."""
    if token.step:
        return None
    chosen = [Candidate.parse(row.candidate) for row in heat(case)]
    full = case.full_by_steps
    if case.spec.runtime == "compiled":  # compiling full adaptation takes a minute or two for each step count
        steps = {candidate.steps for candidate in chosen} | {case.baseline.steps}
        full = [candidate for candidate in full if candidate.steps in steps]
    texts = list(dict.fromkeys(candidate.text for candidate in [*full, *chosen]))
    known = timings.get(case.session, case.timing_scope(case.spec.runtime).key, texts)
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
        candidates=batch["candidates"],
        runtime=case.spec.runtime,
        seed=case.spec.seed,
        limit_s=LIMIT_SECONDS,
    )


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the figures, and each survivor's latency."""
    scope = case.timing_scope(case.spec.runtime)
    if isinstance(outcome, TimingOutcome):
        stamp = {"device": case.device, "run": f"{case.row.id}/{token.claim_no}"}
        figures = {text: {**entry, **stamp} for text, entry in outcome.figures.items()}
        timings.put(case.session, scope, figures)
    else:
        figures = timings.get(case.session, scope.key, batch["candidates"])
    case.row.timings = {**case.row.timings, **figures}
    timed = [trial for trial in _survivors(case) if trial.candidate in figures]
    for trial in timed:
        trial.latency_s = figures[trial.candidate]["latency_s"]["median"]
        trial.speedup = figures[trial.candidate]["speedup"]["estimate"]
    case.session.flush()
    case.tell_trials(timed)
    case.tell_best()


def following(case: Case) -> Phase:
    """They are tested."""
    return Phase.CERTIFICATE


def heat(case: Case) -> list[TrialRow]:
    """Survivors within the horizon, those predicted to be fastest first: they are timed and tested together."""
    within = horizon(case)
    ranked = sorted(
        (row.predicted_latency_s, row.candidate, row) for row in _survivors(case) if row.predicted_latency_s is not None
    )
    if case.spec.goal == "front" and case.row.timings:
        return [row for _, _, row in ranked if row.latency_s is not None]  # chosen before
    if case.spec.goal == "front":
        points = [Point(text, predicted_s, row.degradation or 0.0) for predicted_s, text, row in ranked]
        chosen = {point.candidate for point in front(points)[:MOST_OF_A_FRONT]}
        return [row for _, text, row in ranked if text in chosen]
    return [row for predicted_s, _, row in ranked if predicted_s <= within][:MOST_TIMED]


def _survivors(case: Case) -> Sequence[TrialRow]:
    return trials.of_search(case.session, case.row.id, [TrialState.SURVIVED])
