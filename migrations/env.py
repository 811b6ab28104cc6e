"""How Alembic runs our migrations: only schema ``lambda_search`` is ours, everything else is invisible."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection, text

from search_service.settings import Settings
from search_service.storage.database import Database
from search_service.storage.tables import SCHEMA, Base


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """Whether autogenerate may look at this: Optuna's and procrastinate's schemas are not ours."""
    return name == SCHEMA if kind == "schema" else True


def run(connection: Connection) -> None:
    """Run what was asked for on ``connection``, in its transaction."""
    connection.execute(text(f"create schema if not exists {SCHEMA}"))
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=include_name,
        compare_type=True,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Take the caller's connection, or for the ``alembic`` command one to ``LAMBDA_SEARCH_DATABASE_URL``."""
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        run(connection)
        return
    url = Settings().database_url
    if url is None:
        raise SystemExit("set LAMBDA_SEARCH_DATABASE_URL to the database to migrate")
    with Database(url).engine.begin() as connection:
        run(connection)


main()
