"""Certificate: on confirmation classes, untouched before, survivors are tested in order of latency until one qualifies.

A round judges every confirmation block, one token each: the first round the baseline and its company, each further
round the next candidate. The round's last token to end decides.
"""

from __future__ import annotations

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.storage import tokens, trials
from search_service.storage.tables import TokenRow, TrialRow
from search_service.storage.trials import TrialState
from workers.runtime.case import Case
from workers.runtime.phases import judged_run
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work
from workers.search.decisions import certify
from workers.search.statistics import Qualities, degradation

COMPANY_RUNS = 2
"""Runs of a block in the first round: full adaptation for every step count, and none."""


def plan(case: Case) -> int:
    """A round of tokens, until a candidate qualifies or none is left."""
    blocks = case.blocks(Split.TEST)
    if tokens.count_of(case.session, case.row.id, case.phase) == 0:
        case.set_progress(0, blocks, "blocks", "judging the baseline on confirmation classes")
        return blocks
    baseline = judged_run.baseline_qualities(case, Split.TEST)
    tested = _in_test(case)
    if tested is not None and _decide(case, tested, baseline):
        return 0
    following = _next_candidate(case)
    if following is None:
        return 0
    position = len(trials.of_search(case.session, case.row.id, [TrialState.UNQUALIFIED])) + 1
    following.confirmation = {"position": position}
    case.session.flush()
    case.set_progress(0, blocks, "blocks", f"proving {following.candidate}, candidate {position}")
    return blocks


def take(case: Case, token: TokenRow) -> Batch | None:
    """The round's patterns on the token's block."""
    block = token.no % case.blocks(Split.TEST)
    tested = _in_test(case)
    runs = [case.full_by_steps, [case.empty]] if tested is None else [[Candidate.parse(tested.candidate)]]
    return judged_run.batch_for(case, runs[token.step], Split.TEST, block) if token.step < len(runs) else None


def work(case: Case, batch: Batch) -> Work | None:
    """Judge the run."""
    return judged_run.work_for(case, batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the evaluations."""
    judged_run.record(case, batch, outcome)
    runs = COMPANY_RUNS if _in_test(case) is None else 1
    judged_run.show_blocks(case, Split.TEST, runs, case.row.progress.get("message", ""), just_done=1)


def _decide(case: Case, trial: TrialRow, baseline: Qualities) -> bool:
    """Test a candidate that has been judged on every confirmation block; whether it qualifies."""
    qualities = case.qualities(Split.TEST, trial.candidate)
    estimate = degradation(baseline, qualities)
    assert trial.confirmation is not None
    position = trial.confirmation["position"]
    certificate = certify(estimate, case.max_degradation, case.spec.confidence, position)
    low, high = estimate.interval()
    trial.confirmation = {
        "position": position,
        "quality": float(qualities.mean()),
        "degradation": estimate.mean,
        "low": low,
        "high": high,
        "upper_bound": certificate.upper_bound,
        "alpha": certificate.alpha,
        "episodes": estimate.episodes,
    }
    trial.state = TrialState.QUALIFIED if certificate.qualifies else TrialState.UNQUALIFIED
    verb = "is at most" if certificate.qualifies else "may exceed"
    trial.reason = (
        f"upper bound {certificate.upper_bound:.4f} on {estimate.episodes} confirmation episodes "
        f"{verb} the threshold {case.max_degradation:.4g}"
    )
    case.session.flush()
    return certificate.qualifies


def _in_test(case: Case) -> TrialRow | None:
    """The candidate whose round is under way."""
    survivors = trials.of_search(case.session, case.row.id, [TrialState.SURVIVED])
    return next((row for row in survivors if row.confirmation is not None), None)


def _next_candidate(case: Case) -> TrialRow | None:
    """The fastest timed survivor that has not been tested; ties go to the canonical text."""
    survivors = trials.of_search(case.session, case.row.id, [TrialState.SURVIVED])
    timed = [row for row in survivors if row.speedup is not None]
    return min(timed, key=lambda row: (-(row.speedup or 0.0), row.candidate), default=None)
