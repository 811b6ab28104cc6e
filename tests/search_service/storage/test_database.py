from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from search_service.domain.errors import DatabaseUnavailable
from search_service.settings import Settings
from search_service.storage.database import Database
from search_service.storage.embedded import embedded_postgres


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_selects_psycopg_3(scheme: str) -> None:
    database = Database(f"{scheme}://me:p%40ss@host:5433/mine?options=-cstatement_timeout%3D5s")
    assert database.engine.driver == "psycopg"
    assert database.place == "database 'mine' on host:5433"
    options = psycopg.conninfo.conninfo_to_dict(database.conninfo)
    assert options["password"] == "p@ss"
    assert options["options"].split() == [
        "-cstatement_timeout=5s",
        "-csearch_path=procrastinate,public",
        "-cidle_in_transaction_session_timeout=60s",
    ]


@pytest.mark.parametrize(
    "url", ["mysql://me:s3cret@host/mine", "sqlite:///x", "no url s3cret", "postgresql+psycopg2://h/d"]
)
def test_what_is_not_a_postgres_url(url: str) -> None:
    with pytest.raises(DatabaseUnavailable, match="postgresql://") as refused:
        Database(url)
    assert "s3cret" not in str(refused.value)


def test_a_postgres_that_does_not_answer() -> None:
    database = Database("postgresql://me:s3cret@127.0.0.1:1/mine")
    with pytest.raises(DatabaseUnavailable, match=r"database 'mine' on 127\.0\.0\.1:1 does not answer") as refused:
        database.ping()
    assert "s3cret" not in str(refused.value)


def end_connections(database: Database) -> None:
    with psycopg.connect(database.conninfo, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where pid <> pg_backend_pid() and datname = current_database()"
        )


def test_a_connection_lost_between_requests_is_replaced(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_service.storage.database.RESTED_AFTER", 0.0)
    database.ping()
    end_connections(database)
    database.ping()


def test_a_connection_lost_inside_a_request_is_named(database: Database) -> None:
    def lose() -> None:
        with database.session() as session:
            end_connections(database)
            session.execute(text("select 1"))

    with pytest.raises(DatabaseUnavailable, match="does not answer"):
        lose()


def test_optuna_and_the_queue_find_their_own_schemas(database: Database) -> None:
    engine = create_engine(database.optuna_url)
    with engine.connect() as connection:
        assert connection.scalar(text("show search_path")) == "optuna"
    engine.dispose()
    with psycopg.connect(database.conninfo) as connection:
        assert connection.execute("select count(*) from procrastinate_jobs").fetchone() == (0,)


def test_embedded_data_stays_and_the_server_goes(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("short") / "pg"
    with embedded_postgres(folder) as url:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("create table kept (x int)")
        assert "127.0.0.1" not in url
    assert not (folder / "postmaster.pid").exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    with embedded_postgres(folder) as url, psycopg.connect(url) as connection:
        connection.execute("select * from kept")


def test_embedded_in_a_folder_with_a_long_and_unusual_name(tmp_path: Path) -> None:
    folder = tmp_path / "a folder; with 'quotes' $and (spaces)" / ("long" * 40) / "pg"
    for _ in range(2):
        with embedded_postgres(folder) as url, psycopg.connect(url) as connection:
            assert connection.execute("show data_directory").fetchone() is not None
            host = Path(psycopg.conninfo.conninfo_to_dict(url)["host"])  # type: ignore[arg-type,unused-ignore]
            assert len(str(host)) < 80
        assert not host.parent.exists()
    assert (folder / "PG_VERSION").exists()


def test_two_holders_share_and_the_server_of_a_killed_one_is_taken_over(tmp_path: Path) -> None:
    folder = tmp_path / "pg"
    code = """
import sys, time
from pathlib import Path
from search_service.storage.embedded import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert holder.stdout is not None
    url = holder.stdout.readline().strip()
    with embedded_postgres(folder) as mine:
        assert mine == url
    # The other one still holds it.
    psycopg.connect(url).close()
    holder.kill()
    holder.wait(10)
    holder.stdout.close()
    with embedded_postgres(folder) as mine:
        assert mine == url
        psycopg.connect(url).close()
    deadline = time.monotonic() + 5
    while (folder / "postmaster.pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (folder / "postmaster.pid").exists()


def test_settings_come_from_the_environment_when_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LAMBDA_SEARCH_")]:
        monkeypatch.delenv(name)
    assert Settings().database_url is None
    monkeypatch.setenv("LAMBDA_SEARCH_HOME", str(tmp_path))
    monkeypatch.setenv("LAMBDA_SEARCH_DATABASE_URL", "postgresql://me:s3cret@h/d")
    settings = Settings()
    assert settings.data_dir == tmp_path / "datasets"
    assert settings.artifacts_url == (tmp_path / "artifacts").as_uri()
    assert settings.database_url == "postgresql://me:s3cret@h/d"
    assert "s3cret" not in repr(settings)
    monkeypatch.setenv("LAMBDA_SEARCH_DATA_DIR", "elsewhere")
    assert Settings().data_dir == Path.cwd() / "elsewhere"
