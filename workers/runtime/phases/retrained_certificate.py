"""Proof of a retrained answer: on confirmation classes, against the baseline of the checkpoint that was searched.

One more candidate of the search's certificate, so it spends the error that the next position has. Rounds and looks are
those of the certificate (``workers.runtime.phases.certificate``).
"""

from __future__ import annotations

from typing import Any

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.domain.search import Phase
from search_service.storage import checkpoints, evaluations
from search_service.storage.tables import CheckpointRow, TokenRow
from workers.runtime.case import Case
from workers.runtime.phases import certificate, judged_run, rounds
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work
from workers.search.decisions import first_look, look

RUNS = 2
"""Step 0 of a block's token judges the retrained answer, step 1 the baseline."""


def plan(case: Case) -> int:
    """A round of tokens, until the proof is clear or the episodes are spent."""
    while True:
        proof = _proof(case)
        if "state" in proof:
            return 0
        if missing := _missing(case, proof["target"]):
            return rounds.begin(case, missing, f"proving {_candidate(case)}, retrained")
        _look(case, proof)


def take(case: Case, token: TokenRow) -> Batch | None:
    """The retrained answer on the token's block, then the baseline on the same."""
    block = rounds.block_of(case, token)
    if token.step == 0:
        return judged_run.batch_for(case, [_candidate(case)], Split.TEST, block, _retrained(case))
    return judged_run.batch_for(case, case.full_by_steps, Split.TEST, block) if token.step == 1 else None


def work(case: Case, batch: Batch) -> Work | None:
    """Judge the run."""
    return judged_run.work_for(case, batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the evaluations."""
    judged_run.record(case, batch, outcome)
    rounds.show_step(case, RUNS)


def following(case: Case) -> Phase | None:
    """The result."""
    return None


def _retrained(case: Case) -> CheckpointRow:
    assert case.row.retrained is not None, "there is one after the retraining"
    return checkpoints.get(case.session, case.row.retrained["checkpoint"])


def _candidate(case: Case) -> Candidate:
    assert case.answer is not None, "only an answer is retrained under"
    return Candidate.parse(case.answer.candidate, len(case.unit_names))


def _proof(case: Case) -> dict[str, Any]:
    """What is known of the proof: the retrained checkpoint, the position, and what the looks so far showed."""
    assert case.row.retrained is not None, "there is one after the retraining"
    if "position" not in case.row.retrained:
        position = certificate.tested_count(case) + 1
        first = first_look(case.question(position), case.spec.certificate, case.spec.episodes.confirmation)
        target = certificate.whole_blocks(case, first)
        case.row.retrained = {**case.row.retrained, "position": position, "target": target}
    return case.row.retrained


def _missing(case: Case, blocks: int) -> list[int]:
    """Blocks of the first ``blocks`` on which the baseline or the retrained answer has not been judged."""
    own = evaluations.ensure_scope(case.session, case.scope(Split.TEST))
    retrained = evaluations.ensure_scope(case.session, case.scope(Split.TEST, _retrained(case)))
    company = [candidate.text for candidate in case.full_by_steps]
    missing = evaluations.missing_blocks(case.session, own, company, blocks)
    missing += evaluations.missing_blocks(case.session, retrained, [_candidate(case).text], blocks)
    return sorted(set(missing))


def _look(case: Case, proof: dict[str, Any]) -> None:
    """Test the retrained answer on what it has been judged on."""
    retrained, text, blocks = _retrained(case), _candidate(case).text, proof["target"]
    qualities = case.qualities(Split.TEST, text, blocks, retrained)
    degradations = case.degradations(Split.TEST, text, blocks, retrained)
    question = case.question(proof["position"])
    seen = look(degradations, question, case.spec.certificate, case.spec.episodes.confirmation)
    figures = certificate.figures_of(case, proof["position"], qualities, degradations, seen)
    state = {"state": certificate.STATES[seen.verdict].value} if seen.verdict in certificate.STATES else {}
    case.row.retrained = {**proof, **figures, "reason": seen.reason, **state}
