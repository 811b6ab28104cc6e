"""A real Postgres for every test that asks: one server per pytest process, a fresh database per test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from search_service.storage.database import Database
from search_service.storage.embedded import embedded_postgres
from search_service.storage.migrate import migrate

TEMPLATE = "migrated"
MEMORY_NEEDED = 2 * 2**30  # bytes
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of this process's own server; it holds a database ``migrated`` that fresh ones are copied from."""
    # Not below pytest's temporary folder: under root the server's user must be able to walk there, and every new pytest
    # takes that right away again.
    folder = Path(tempfile.mkdtemp(prefix="lambda-search-tests-", dir=_fast_folder()))
    try:
        with embedded_postgres(folder / "pg") as url:
            _execute(url, "alter system set fsync = off", "alter system set full_page_writes = off")
            _execute(url, "select pg_reload_conf()", f"create database {TEMPLATE}")
            migrate(_named(url, TEMPLATE))
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """URL of a database of this test's own, with nothing in it."""
    yield from _fresh(postgres_url, "template0")


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """URL of a migrated database of this test's own."""
    yield from _fresh(postgres_url, TEMPLATE)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated database of this test's own."""
    database = Database(database_url)
    yield database
    database.close()


def _fast_folder() -> str | None:
    """Memory rather than disk where there is plenty: what takes longest is copying the template."""
    memory = "/dev/shm"
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= MEMORY_NEEDED:
        return memory
    return None


def _fresh(server_url: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _execute(server_url, f"create database {name} template {template} strategy file_copy")
    yield _named(server_url, name)
    _execute(server_url, f"drop database {name} with (force)")


def _named(server_url: str, database: str) -> str:
    return make_url(server_url).set(database=database).render_as_string(hide_password=False)


def _execute(url: str, *statements: str) -> None:
    with psycopg.connect(Database(url).conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
