from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.orm import Session

from search_service.domain.errors import DatabaseUnavailable
from search_service.storage.database import Database
from search_service.storage.migrate import alembic_config, current_revision, head_revision, is_current, migrate
from search_service.storage.tables import SCHEMA, Base

CATALOG = {
    "columns": """
        select table_name, column_name, data_type, udt_name, is_nullable, column_default
        from information_schema.columns where table_schema = 'lambda_search' and table_name <> 'alembic_version'""",
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'lambda_search'::regnamespace and conrelid::regclass::text not like '%alembic_version'""",
    "indexes": """
        select tablename, indexname, indexdef from pg_indexes
        where schemaname = 'lambda_search' and tablename <> 'alembic_version'""",
    "functions": """
        select proname, regexp_replace(pg_get_functiondef(oid), '\\s+', ' ', 'g') from pg_proc
        where pronamespace = 'lambda_search'::regnamespace""",
    "triggers": """
        select tgname, pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = tgrelid
        where relnamespace = 'lambda_search'::regnamespace and not tgisinternal""",
}


def _catalog(session: Session) -> dict[str, set[tuple[Any, ...]]]:
    return {name: {tuple(row) for row in session.execute(text(query))} for name, query in CATALOG.items()}


def _tables(session: Session, schema: str) -> set[str]:
    query = text("select table_name from information_schema.tables where table_schema = :schema")
    return set(session.scalars(query, {"schema": schema}))


def test_upgrade_downgrade_upgrade_leaves_the_queue_and_the_study_alone(empty_database_url: str) -> None:
    migrate(empty_database_url)
    database = Database(empty_database_url)
    with database.session() as session:
        session.execute(text("create table optuna.alembic_version (version_num text)"))
        session.execute(text("insert into optuna.alembic_version values ('theirs')"))
        first = _catalog(session)
        queue = _tables(session, "procrastinate")
        assert {"procrastinate_jobs", "procrastinate_workers"} <= queue
        assert current_revision(session) == head_revision()
        assert is_current(session)

    with database.engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
    with database.session() as session:
        assert _tables(session, SCHEMA) == {"alembic_version"}
        assert not _catalog(session)["functions"]
        assert current_revision(session) is None
        assert not is_current(session)
        assert _tables(session, "procrastinate") == queue
        assert session.scalar(text("select version_num from optuna.alembic_version")) == "theirs"

    migrate(empty_database_url)
    with database.session() as session:
        assert _catalog(session) == first
        assert is_current(session)
        assert session.scalar(text("select version_num from optuna.alembic_version")) == "theirs"
    database.close()


def test_migrating_again_changes_nothing(database: Database, database_url: str) -> None:
    with database.session() as session:
        before = _catalog(session)
    migrate(database_url)
    with database.session() as session:
        assert _catalog(session) == before


def test_autogenerate_finds_no_difference(database: Database) -> None:
    def ours(name: str | None, kind: str, parents: Any) -> bool:
        return name == SCHEMA if kind == "schema" else True

    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table_schema": SCHEMA,
                "include_schemas": True,
                "include_name": ours,
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_build_the_very_catalog_that_the_models_describe(
    database: Database, empty_database_url: str
) -> None:
    """Autogenerate sees no check constraints and no partial indexes; the catalog does."""
    with database.session() as session:
        migrated = _catalog(session)
    described = Database(empty_database_url)
    with described.session() as session:
        session.execute(text(f"create schema {SCHEMA}"))
        Base.metadata.create_all(session.connection())
        assert _catalog(session) == migrated
    described.close()


def test_two_starters_do_not_race(empty_database_url: str) -> None:
    code = "import sys; from search_service.storage.migrate import migrate; migrate(sys.argv[1])"
    starters = [
        subprocess.Popen([sys.executable, "-c", code, empty_database_url], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for starter in starters:
        _, complaint = starter.communicate(timeout=60)
        assert starter.returncode == 0, complaint
    database = Database(empty_database_url)
    with database.session() as session:
        assert is_current(session)
    database.close()


def test_a_database_that_was_not_migrated_says_so(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with pytest.raises(DatabaseUnavailable, match="lambda-search migrate"), database.session() as session:
        session.execute(text(f"select * from {SCHEMA}.searches"))
    with database.session() as session:
        assert not is_current(session)
    database.close()
