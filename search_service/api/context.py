"""What routes are given: the process's database and settings, and a search's id out of the path."""

from __future__ import annotations

from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Path, Request

from search_service.domain.errors import NotFound
from search_service.settings import Settings
from search_service.storage.database import Database


async def _database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


async def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


async def _search_id(
    search_id: Annotated[str, Path(description="The search's id.", json_schema_extra={"format": "uuid"})],
) -> UUID:
    try:
        return UUID(search_id)
    except ValueError as error:
        raise NotFound("search", search_id) from error


# Sessions are opened in the routes and not here: a session that spans dependency and route holds its connection while
# it waits for a thread, and enough of those wait for each other.
Db = Annotated[Database, Depends(_database)]
AppSettings = Annotated[Settings, Depends(_settings)]
SearchId = Annotated[UUID, Depends(_search_id)]
