from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text, update

from search_service.cli.diagnosis import machine, stored
from search_service.cli.diagnosis.finding import Finding, Level
from search_service.domain.keys import NewKey, Scope
from search_service.settings import Settings
from search_service.storage import codec, keys, searches, workers
from search_service.storage.database import Database
from search_service.storage.tables import WorkerRow
from tests.search_service.cli.conftest import Call


@pytest.fixture(autouse=True)
def without_workers_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes seconds; the last test does, in a process of its own."""
    monkeypatch.setattr(machine, "is_installed", lambda _: False)


@pytest.fixture
def worker(database: Database) -> None:
    """A worker that can do everything."""
    with database.session() as session:
        announce(session, "cpu", compiler="g++ 12")


def announce(session: Any, device: str, **fingerprint: Any) -> None:
    families = {"glyphs": None, "omniglot": "no omniglot.npz"}
    workers.announce(session, uuid4(), host="here", pid=1, device=device, fingerprint=fingerprint, families=families)


def diagnose(call: Call, *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Exit code, and the findings by check."""
    ended = call("doctor", "--json", *arguments)
    document = json.loads(ended.out)
    assert document["healthy"] == (ended.code == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for finding in document["findings"]:
        assert (finding["to_do"] is None) == (finding["level"] == "ok"), finding
        assert "\n" not in finding["found"]
        found.setdefault(finding["check"], []).append(finding)
    return ended.code, found


def levels(found: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    return {check: findings[0]["level"] for check, findings in found.items()}


@pytest.mark.usefixtures("worker")
def test_where_all_is_well_it_says_so(
    call: Call, service: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_SEARCH_DATABASE_URL", database_url)
    code, found = diagnose(call, "--url", service)
    assert code == 0
    assert levels(found) == {
        "settings": "ok",
        "database": "ok",
        "clock": "ok",
        "migrations": "ok",
        "queue": "ok",
        "workers": "ok",
        "artifacts": "ok",
        "datasets": "ok",
        "compile cache": "ok",
        "locks": "ok",
        "disk": found["disk"][0]["level"],
        "devices": "ok",
        "service": "ok",
        "key": "ok",
    }
    assert "Postgres" in found["database"][0]["found"]
    assert "draws glyphs" in found["workers"][0]["found"]
    assert "omniglot (no omniglot.npz)" in found["workers"][0]["found"]
    assert "'tests' has scope 'admin'" in found["key"][0]["found"]


def test_for_people_each_finding_has_its_line_and_what_to_do(call: Call) -> None:
    ended = call("doctor")
    assert ended.code == 0
    assert "-> set LAMBDA_SEARCH_DATABASE_URL, or run `lambda-search up`" in ended.out
    assert ended.out.splitlines()[-1].endswith("0 failure")


def test_it_works_without_a_database_and_leaves_nothing_behind(call: Call, tmp_path: Path) -> None:
    code, found = diagnose(call)
    assert code == 0
    assert levels(found)["database"] == "warning"
    assert levels(found)["service"] == "warning"
    assert not (tmp_path / "home").exists()


def test_a_database_that_does_not_answer_is_a_failure_that_shows_no_password(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_SEARCH_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    code, found = diagnose(call)
    assert code == 1
    (finding,) = found["database"]
    assert finding["level"] == "failure"
    assert "does not answer" in finding["found"]
    assert finding["to_do"].startswith("start Postgres")
    assert "secret" not in str(found)
    assert levels(found)["artifacts"] == "ok"


def test_a_database_without_tables_is_to_be_migrated(
    call: Call, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_SEARCH_DATABASE_URL", empty_database_url)
    code, found = diagnose(call)
    assert code == 1
    for check in ("migrations", "queue"):
        assert levels(found)[check] == "failure"
        assert found[check][0]["to_do"] == "run `lambda-search migrate`"


def test_a_newer_database_is_no_reason_to_migrate(
    call: Call, database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with database.session() as session:
        session.execute(text("update lambda_search.alembic_version set version_num = 'ffff'"))
    monkeypatch.setenv("LAMBDA_SEARCH_DATABASE_URL", database_url)
    _, found = diagnose(call)
    assert found["migrations"][0]["to_do"] == "update lambda-search here"


def test_queue_and_workers(database: Database, database_url: str, spec: dict[str, Any]) -> None:
    from search_service import lifecycle

    with database.session() as session:
        searches.add(session, codec.spec_from_json(spec))
        lifecycle.admit(session, "cpu", 4)

    def found() -> list[Finding]:
        return list(stored.check_database(Settings(database_url=database_url)))

    queue, none = (finding for finding in found() if finding.check in ("queue", "workers"))
    assert (queue.level, none.level) == (Level.WARNING, Level.WARNING)
    assert "cpu: 1 waiting, 0 being done" in queue.found
    assert "no worker serves 'cpu'" in queue.found

    with database.session() as session:
        announce(session, "cpu")
        announce(session, "cuda:X", compiler="cuda graph")
    queue, cpu, cuda = (finding for finding in found() if finding.check in ("queue", "workers"))
    assert (queue.level, cpu.level, cuda.level) == (Level.OK, Level.WARNING, Level.OK)
    assert "no compiler" in cpu.found

    with database.session() as session:
        session.execute(update(WorkerRow).values(seen_at=WorkerRow.seen_at - timedelta(minutes=5)))
    gone = [finding for finding in found() if "not seen for 5 min" in finding.found]
    assert len(gone) == 2


def test_the_key_may_be_refused_or_missing(
    call: Call, service: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAMBDA_SEARCH_URL", service)
    monkeypatch.setenv("LAMBDA_SEARCH_KEY", "lsk_none")
    code, found = diagnose(call)
    assert code == 1
    assert levels(found)["key"] == "failure"
    monkeypatch.delenv("LAMBDA_SEARCH_KEY")
    code, found = diagnose(call)
    assert code == 0
    assert levels(found)["key"] == "warning"
    with database.session() as session:
        _, reader = keys.create(session, NewKey(name="reader", scope=Scope.READ))
    monkeypatch.setenv("LAMBDA_SEARCH_KEY", reader)
    _, found = diagnose(call)
    assert found["key"][0]["found"] == "'reader' has scope 'read', which allows to see searches"


def test_a_service_that_was_named_must_answer(call: Call) -> None:
    code, found = diagnose(call, "--url", "http://127.0.0.1:1")
    assert code == 1
    assert levels(found)["service"] == "failure"


def test_settings_that_cannot_be_and_names_that_are_none(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_SEARCH_DATABSE_URL", "x")
    code, found = diagnose(call)
    assert code == 0
    assert "LAMBDA_SEARCH_DATABSE_URL" in found["settings"][0]["found"]
    monkeypatch.setenv("LAMBDA_SEARCH_PORT", "many")
    code, found = diagnose(call)
    assert code == 1
    assert "LAMBDA_SEARCH_PORT" in found["settings"][0]["found"]
    assert "service" in found


def test_storage_that_cannot_be_written_is_a_failure(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LAMBDA_SEARCH_ARTIFACTS_URL", (tmp_path / "file").as_uri())
    code, found = diagnose(call)
    assert code == 1
    assert levels(found)["artifacts"] == "failure"
    monkeypatch.setenv("LAMBDA_SEARCH_ARTIFACTS_URL", "nonsense://bucket")
    assert levels(diagnose(call)[1])["artifacts"] == "failure"
    monkeypatch.setenv("LAMBDA_SEARCH_ARTIFACTS_URL", tmp_path.as_uri())
    _, found = diagnose(call)
    assert "written, read and deleted" in found["artifacts"][0]["found"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_check_does_not_foresee_keeps_no_other_from_looking(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Settings) -> Any:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(stored, "check_database", broken)
    code, found = diagnose(call)
    assert code == 1
    assert "ZeroDivisionError: odd" in found["database"][0]["found"]
    assert "artifacts" in found


def test_devices_and_datasets_are_asked_in_processes_of_their_own(tmp_path: Path) -> None:
    code = (
        "import sys; from search_service.cli import main\n"
        "try: main(['doctor', '--json'])\n"
        "finally: assert not {'torch', 'optuna', 'workers'} & set(sys.modules)"
    )
    environment = {**os.environ, "LAMBDA_SEARCH_HOME": str(tmp_path)}
    environment.pop("LAMBDA_SEARCH_DATABASE_URL", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stderr
    findings = {each["check"]: each for each in json.loads(done.stdout)["findings"]}
    assert "cpu: " in findings["devices"]["found"]
    assert "torch 2" in findings["devices"]["found"]
    omniglot = findings["datasets"]
    assert omniglot["level"] == "warning"
    assert "lambda-search datasets fetch omniglot" in omniglot["to_do"]
