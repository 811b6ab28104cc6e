"""Brings a database to the present schema: ours by Alembic, the queue's by procrastinate; Optuna makes its own."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import cast

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from procrastinate.schema import SchemaManager
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

import migrations
from search_service.storage.database import QUEUE_SCHEMA, STUDY_SCHEMA, Database
from search_service.storage.tables import SCHEMA

ADVISORY_LOCK = 0x4C53_4D49_4752_4154  # "LSMIGRAT"; held while a starter migrates


def migrate(database_url: str) -> None:
    """Create or update every schema, in one transaction. Safe to run again, and by several starters at once.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    database = Database(database_url)
    try:
        with database.session() as session:
            session.execute(text("select pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
            for schema in (SCHEMA, QUEUE_SCHEMA, STUDY_SCHEMA):
                session.execute(text(f"create schema if not exists {schema}"))
            connection = session.connection()
            command.upgrade(alembic_config(connection), "head")
            if not _has_queue(session):
                _create_queue(connection)
    finally:
        database.close()


def current_revision(session: Session) -> str | None:
    """The revision that our tables are at, or None before the first migration."""
    context = MigrationContext.configure(session.connection(), opts={"version_table_schema": SCHEMA})
    return context.get_current_revision()


@lru_cache(maxsize=1)
def head_revision() -> str | None:
    """The revision that this code needs."""
    return ScriptDirectory.from_config(alembic_config()).get_current_head()


def is_current(session: Session) -> bool:
    """Whether the database has the schema that this code needs, queue included."""
    return current_revision(session) == head_revision() and _has_queue(session)


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, found beside the installed package and not by working directory."""
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _has_queue(session: Session) -> bool:
    return bool(
        session.scalar(text("select to_regclass(:name) is not null"), {"name": f"{QUEUE_SCHEMA}.procrastinate_jobs"})
    )


def _create_queue(connection: Connection) -> None:
    # The schema is many statements with literal % signs, so it goes to the driver without parameters. The search path
    # of our connections puts its objects into schema procrastinate.
    driver = cast("psycopg.Connection[tuple[object, ...]]", connection.connection.driver_connection)
    driver.execute(SchemaManager.get_schema())
