"""Whether the process lives, and whether it can serve."""

from __future__ import annotations

from fastapi import APIRouter

from search_service.api.context import Db
from search_service.api.schemas import Health, Problem
from search_service.domain.errors import DatabaseUnavailable
from search_service.storage.migrate import is_current

router = APIRouter(tags=["health"])


@router.get("/livez")
async def live() -> Health:
    """Whether the process answers at all. It asks nobody else."""
    return Health(status="alive")


@router.get("/readyz", responses={503: {"model": Problem, "description": "It cannot serve; says what to do"}})
def ready(database: Db) -> Health:
    """Whether the database answers and has the schema that this version needs."""
    with database.session() as session:
        current = is_current(session)
    if not current:
        raise DatabaseUnavailable(
            f"{database.place} has another schema than this version needs: run `lambda-search migrate`"
        )
    return Health(status="ready")
