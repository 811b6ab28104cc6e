"""Meta-training: one token trains in short steps, each ending in a stored state, then makes the checkpoint.

A recipe is trained by one search at a time. Others that ask for it hold their token until that one is done, and go on
from its last state if it was cancelled or failed.
"""

from __future__ import annotations

from search_service.domain.search import Phase, SearchStatus
from search_service.storage import checkpoints, searches, workers
from search_service.storage.codec import CheckpointConfig
from search_service.storage.tables import CheckpointRow, TokenRow, TrainingRow
from workers.meta_training.recipe import Recipe
from workers.runtime import earlier
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch, MustWait
from workers.runtime.work import CheckpointOutcome, CheckpointWork, Outcome, TrainingOutcome, TrainingWork, Work

STEP_SECONDS = 20.0
"""Seconds of training between two stored states: what a killed worker loses at most."""
QUALITY_EPISODES = 200
"""Validation episodes that a new checkpoint's quality is measured on."""
QUALITY_BLOCK = 25


def plan(case: Case) -> int:
    """One token, unless the spec names a checkpoint or the recipe has been trained."""
    if case.row.checkpoint is not None or _adopt_checkpoint(case):
        return 0
    return 1


def take(case: Case, token: TokenRow) -> Batch | None:
    """The next stretch of training, or the making of the checkpoint."""
    if case.row.checkpoint is not None or _adopt_checkpoint(case):
        return None
    training = _training(case)
    if not _own(case, training):
        raise MustWait
    iterations = Recipe.of(case.spec).meta_training.iterations
    case.set_progress(training.iteration, iterations, "iterations", "meta-training")
    return {"state_uri": training.uri, "finished": training.iteration >= iterations}


def work(case: Case, batch: Batch) -> Work:
    """Train for ``STEP_SECONDS``, or make the checkpoint of the finished state."""
    config = Recipe.of(case.spec).config
    if batch["finished"]:
        return CheckpointWork(
            config=config, state_uri=batch["state_uri"], episodes=QUALITY_EPISODES, block=QUALITY_BLOCK
        )
    return TrainingWork(config=config, state_uri=batch["state_uri"], seconds=STEP_SECONDS)


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Store the new state, or the checkpoint, which ends the training for every search that waits for it."""
    training = _training(case)
    if isinstance(outcome, TrainingOutcome):
        history = {**training.history, str(outcome.iteration): {"mean_loss": outcome.mean_loss}}
        checkpoints.advance_training(training, iteration=outcome.iteration, uri=outcome.state_uri, history=history)
    else:
        assert isinstance(outcome, CheckpointOutcome)
        row = checkpoints.add(
            case.session,
            checkpoint_id=outcome.id,
            recipe=training.recipe,
            uri=outcome.uri,
            config=_config(case),
            quality=outcome.quality,
        )
        case.row.checkpoint = row.id
        checkpoints.release_training(training)


def following(case: Case) -> Phase | None:
    """The baseline; None where an earlier search has the answer."""
    return None if earlier.adopt(case) else Phase.BASELINE


def can_go_on(case: Case) -> bool:
    """Whether a held token of this search would no longer have to wait."""
    return checkpoints.find_by_recipe(case.session, Recipe.of(case.spec).key) is not None or _own(case, _training(case))


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


def _adopt_checkpoint(case: Case) -> CheckpointRow | None:
    """Use the checkpoint that this recipe has already made, if it has."""
    row = checkpoints.find_by_recipe(case.session, Recipe.of(case.spec).key)
    if row is not None:
        case.row.checkpoint = row.id
    return row


def _training(case: Case) -> TrainingRow:
    return checkpoints.lock_training(case.session, Recipe.of(case.spec).key, _config(case))


def _config(case: Case) -> CheckpointConfig:
    recipe = Recipe.of(case.spec)
    return CheckpointConfig(
        model=recipe.model,
        tasks=recipe.tasks,
        meta_training=recipe.meta_training,
        norm_statistics=recipe.norm_statistics,
    )
