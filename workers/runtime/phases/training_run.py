"""Trainings: short steps, each ending in a stored state, then the checkpoint. Shared by every phase that trains.

A recipe is trained by one search at a time. Others that ask for it hold their token until that one is done, and go on
from its last state if it was cancelled or failed.
"""

from __future__ import annotations

from search_service.domain.recipe import Recipe
from search_service.domain.search import SearchStatus
from search_service.storage import checkpoints, searches, workers
from search_service.storage.tables import CheckpointRow, TrainingRow
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch, MustWait
from workers.runtime.work import CheckpointOutcome, CheckpointWork, Outcome, TrainingOutcome, TrainingWork, Work

STEP_SECONDS = 20.0
"""Seconds of training between two stored states: what a killed worker loses at most."""
QUALITY_EPISODES = 200
"""Validation episodes that a new checkpoint's quality is measured on."""
QUALITY_BLOCK = 25


def take(case: Case, recipe: Recipe) -> Batch:
    """The next stretch of training, or the making of the checkpoint.

    Raises:
        MustWait: another search trains this recipe.
    """
    training = checkpoints.lock_training(case.session, recipe)
    if not _own(case, training):
        raise MustWait
    iterations = recipe.meta_training.iterations
    case.set_progress(training.iteration, iterations, "iterations", _words(recipe))
    return {"state_uri": training.uri, "finished": training.iteration >= iterations}


def work(recipe: Recipe, batch: Batch) -> Work:
    """Train for ``STEP_SECONDS``, or make the checkpoint of the finished state."""
    if batch["finished"]:
        return CheckpointWork(
            recipe=recipe, state_uri=batch["state_uri"], episodes=QUALITY_EPISODES, block=QUALITY_BLOCK
        )
    return TrainingWork(recipe=recipe, state_uri=batch["state_uri"], seconds=STEP_SECONDS)


def record(case: Case, recipe: Recipe, outcome: Outcome | None) -> CheckpointRow | None:
    """Store the new state, or the checkpoint, which ends the training for every search that waits for it."""
    training = checkpoints.lock_training(case.session, recipe)
    if isinstance(outcome, TrainingOutcome):
        history = {**training.history, str(outcome.iteration): {"mean_loss": outcome.mean_loss}}
        checkpoints.advance_training(training, iteration=outcome.iteration, uri=outcome.state_uri, history=history)
        return None
    assert isinstance(outcome, CheckpointOutcome)
    checkpoints.release_training(training)
    return checkpoints.add(
        case.session, checkpoint_id=outcome.id, recipe=recipe, uri=outcome.uri, quality=outcome.quality
    )


def can_go_on(case: Case, recipe: Recipe) -> bool:
    """Whether a held token of this search would no longer have to wait."""
    is_made = checkpoints.find_by_recipe(case.session, recipe) is not None
    return is_made or _own(case, checkpoints.lock_training(case.session, recipe))


def _own(case: Case, training: TrainingRow) -> bool:
    """Make this search the one that trains, unless another one is that still runs and has workers."""
    owner = training.owner_search_id
    if owner is not None and owner != case.row.id:
        row = searches.get(case.session, owner)
        served = any(worker.device == row.device for worker in workers.announced(case.session))
        if row.status == SearchStatus.RUNNING and served:
            return False
        checkpoints.release_training(training)
    return checkpoints.own_training(training, case.row.id)


def _words(recipe: Recipe) -> str:
    return "meta-training" if recipe.retraining is None else f"retraining under {recipe.retraining.candidate}"
