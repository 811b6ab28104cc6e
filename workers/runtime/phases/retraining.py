"""Retraining: the answer becomes the inner loop of a short meta-training that goes on from the checkpoint.

Only where the spec asks for it, and only under an answer that was proved. The answer itself stays as it is; what the
retrained parameters do under it is proved afterwards (``workers.runtime.phases.retrained_certificate``).
"""

from __future__ import annotations

from search_service.domain.recipe import Recipe, Retraining
from search_service.domain.search import Phase
from search_service.storage import checkpoints
from search_service.storage.tables import CheckpointRow, TokenRow
from workers.runtime.case import Case
from workers.runtime.phases import training_run
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work


def after_answer(case: Case) -> Phase | None:
    """What follows once the search has its answer: retraining, where it was asked for and makes sense."""
    wanted = case.spec.retrain and not case.row.stopping
    return Phase.RETRAINING if wanted and case.answer is not None else None


def plan(case: Case) -> int:
    """One token, unless this retraining has been done."""
    return 0 if _adopt_checkpoint(case) else 1


def take(case: Case, token: TokenRow) -> Batch | None:
    """The next stretch of training, or the making of the checkpoint."""
    return None if _adopt_checkpoint(case) else training_run.take(case, _recipe(case))


def work(case: Case, batch: Batch) -> Work:
    """Train for a while, or make the checkpoint."""
    return training_run.work(_recipe(case), batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the new state, or the checkpoint."""
    row = training_run.record(case, _recipe(case), outcome)
    if row is not None:
        case.row.retrained = {"checkpoint": row.id}


def following(case: Case) -> Phase:
    """The proof."""
    return Phase.RETRAINED_CERTIFICATE


def can_go_on(case: Case) -> bool:
    """Whether a held token of this search would no longer have to wait."""
    return training_run.can_go_on(case, _recipe(case))


def _recipe(case: Case) -> Recipe:
    assert case.answer is not None, "only an answer is retrained under"
    retraining = Retraining(
        checkpoint=case.checkpoint.id,
        uri=case.checkpoint.uri,
        candidate=case.answer.candidate,
        units=tuple(case.spec.units.items()),
    )
    return case.recipe.retrained(retraining, case.rate)


def _adopt_checkpoint(case: Case) -> CheckpointRow | None:
    row = checkpoints.find_by_recipe(case.session, _recipe(case))
    if row is not None:
        case.row.retrained = {"checkpoint": row.id}
    return row
