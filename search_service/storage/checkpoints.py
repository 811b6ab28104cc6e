"""Checkpoints, and the trainings that make them: one per recipe, whoever asks. Never commits."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from search_service.domain.errors import NotFound
from search_service.domain.recipe import Recipe
from search_service.storage.tables import CheckpointRow, TrainingRow


def get(session: Session, checkpoint_id: str) -> CheckpointRow:
    """The checkpoint whose file has this SHA-256.

    Raises:
        NotFound: there is none.
    """
    # Postgres refuses texts that no identity can be, such as those with NUL; they are not asked for.
    row = session.get(CheckpointRow, checkpoint_id) if checkpoint_id.isascii() and checkpoint_id.isalnum() else None
    if row is None:
        raise NotFound("checkpoint", checkpoint_id)
    return row


def find_by_recipe(session: Session, recipe: Recipe) -> CheckpointRow | None:
    """The checkpoint that a recipe made, if it has been made."""
    return session.scalars(select(CheckpointRow).where(CheckpointRow.recipe == recipe.key)).one_or_none()


def add(
    session: Session,
    *,
    checkpoint_id: str,
    recipe: Recipe,
    uri: str,
    quality: dict[str, Any],
) -> CheckpointRow:
    """Store the checkpoint of a recipe, unless the recipe has one already; the stored one.

    Args:
        session: where to store it; the recipe's training must be there.
        checkpoint_id: SHA-256 of the file.
        recipe: what it was made from.
        uri: where the file is, relative to the artifact store.
        quality: ``{"metric", "estimate", "low", "high", "episodes", "split"}`` on validation classes.
    """
    session.execute(
        insert(CheckpointRow)
        .values(
            id=checkpoint_id,
            recipe=recipe.key,
            uri=uri,
            config=recipe.config,
            quality=quality,
        )
        .on_conflict_do_nothing()
    )
    return session.scalars(select(CheckpointRow).where(CheckpointRow.recipe == recipe.key)).one()


def lock_training(session: Session, recipe: Recipe) -> TrainingRow:
    """The training of a recipe, made if missing, locked until the transaction ends."""
    session.execute(insert(TrainingRow).values(recipe=recipe.key, config=recipe.config).on_conflict_do_nothing())
    query = select(TrainingRow).where(TrainingRow.recipe == recipe.key).with_for_update()
    return session.scalars(query.execution_options(populate_existing=True)).one()


def own_training(row: TrainingRow, search_id: UUID) -> bool:
    """Let a search train this recipe unless another one does; whether it now does."""
    if row.owner_search_id is None:
        row.owner_search_id = search_id
    return row.owner_search_id == search_id


def advance_training(row: TrainingRow, *, iteration: int, uri: str | None, history: dict[str, Any]) -> None:
    """Store where a training stands: its newest state and the history up to it."""
    row.iteration = iteration
    row.uri = uri
    row.history = dict(history)


def release_training(row: TrainingRow) -> None:
    """Let another search go on with the training."""
    row.owner_search_id = None
