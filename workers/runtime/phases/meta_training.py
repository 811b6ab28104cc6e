"""Meta-training: one token trains the recipe of the spec and makes its checkpoint, unless there is one."""

from __future__ import annotations

from search_service.domain.recipe import Recipe
from search_service.domain.search import Phase
from search_service.storage import checkpoints
from search_service.storage.tables import CheckpointRow, TokenRow
from workers.runtime import earlier
from workers.runtime.case import Case
from workers.runtime.phases import retraining, training_run
from workers.runtime.phases.rules import Batch
from workers.runtime.work import Outcome, Work


def plan(case: Case) -> int:
    """One token, unless the spec names a checkpoint or the recipe has been trained."""
    if case.row.checkpoint is not None or _adopt_checkpoint(case):
        return 0
    return 1


def take(case: Case, token: TokenRow) -> Batch | None:
    """The next stretch of training, or the making of the checkpoint."""
    if case.row.checkpoint is not None or _adopt_checkpoint(case):
        return None
    return training_run.take(case, Recipe.of(case.spec))


def work(case: Case, batch: Batch) -> Work:
    """Train for a while, or make the checkpoint."""
    return training_run.work(Recipe.of(case.spec), batch)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the new state, or the checkpoint."""
    row = training_run.record(case, Recipe.of(case.spec), outcome)
    if row is not None:
        case.row.checkpoint = row.id


def following(case: Case) -> Phase | None:
    """The baseline, unless an earlier search has the answer."""
    return retraining.after_answer(case) if earlier.adopt(case) else Phase.BASELINE


def can_go_on(case: Case) -> bool:
    """Whether a held token of this search would no longer have to wait."""
    return training_run.can_go_on(case, Recipe.of(case.spec))


def _adopt_checkpoint(case: Case) -> CheckpointRow | None:
    """Use the checkpoint that this recipe has already made, if it has."""
    row = checkpoints.find_by_recipe(case.session, Recipe.of(case.spec))
    if row is not None:
        case.row.checkpoint = row.id
    return row
