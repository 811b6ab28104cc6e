from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import optuna
import pytest
from starlette.testclient import TestClient

from search_service.storage.database import Database
from workers.dashboard import Gate, create_app
from workers.search.study import open_study_storage

STUDY = "a study"


@pytest.fixture
def storage(database: Database) -> Iterator[optuna.storages.RDBStorage]:
    storage = open_study_storage(database)
    optuna.create_study(storage=storage, study_name=STUDY)
    yield storage
    storage.engine.dispose()


@pytest.fixture
def browser(storage: optuna.storages.RDBStorage) -> TestClient:
    return TestClient(create_app(storage, ["search.example.org", "fe80::1"]), base_url="http://localhost:8080")


class Untouchable:
    """Stands behind the gate and must not be reached."""

    async def __call__(self, *_: Any) -> None:
        raise AssertionError("the request got through")


@pytest.fixture
def guarded() -> TestClient:
    return TestClient(Gate(Untouchable(), {"localhost"}), base_url="http://localhost:8080")


def environment(database_url: str | None) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LAMBDA_SEARCH_")}
    return kept if database_url is None else {**kept, "LAMBDA_SEARCH_DATABASE_URL": database_url}


def run_dashboard(database_url: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.dashboard", *arguments]
    return subprocess.run(command, env=environment(database_url), capture_output=True, text=True, timeout=60)


def test_it_shows_the_studies(browser: TestClient) -> None:
    assert [study["study_name"] for study in browser.get("/api/studies").json()["study_summaries"]] == [STUDY]
    assert browser.get("/", follow_redirects=True).headers["content-type"].startswith("text/html")
    assert browser.head("/dashboard").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_it_changes_nothing(guarded: TestClient, method: str) -> None:
    answer = guarded.request(method, "/api/studies/1")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
    assert answer.text == f"the dashboard only shows; {method} is refused\n"


def test_a_study_outlives_an_attempt_to_delete_it(browser: TestClient, storage: optuna.storages.RDBStorage) -> None:
    study_id = storage.get_study_id_from_name(STUDY)
    assert browser.delete(f"/api/studies/{study_id}").status_code == 405
    assert storage.get_study_name_from_id(study_id) == STUDY


@pytest.mark.parametrize("host", ["evil.example.org", "evil.example.org:8080", "localhost.evil.example.org", "", ":80"])
def test_a_foreign_host_is_refused(guarded: TestClient, host: str) -> None:
    answer = guarded.get("/api/studies", headers={"Host": host})
    assert answer.status_code == 421
    assert "--allowed-host" in answer.text


def test_a_request_with_two_hosts_is_refused(guarded: TestClient) -> None:
    answer = guarded.get("/", headers=[("Host", "localhost"), ("Host", "evil.example.org")])
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "search.example.org:80", "[fe80::1]:8080"],
)
def test_names_of_this_host_and_allowed_ones_are_served(browser: TestClient, host: str) -> None:
    assert browser.get("/api/studies", headers={"Host": host}).status_code == 200


def test_livez_answers_without_optuna(guarded: TestClient) -> None:
    assert guarded.get("/livez").status_code == 200


def test_it_imports_no_torch() -> None:
    code = "import workers.dashboard, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_without_a_database_it_says_so() -> None:
    ended = run_dashboard(None)
    assert ended.returncode == 2
    assert "set LAMBDA_SEARCH_DATABASE_URL" in ended.stderr


def test_where_the_database_does_not_answer_it_says_so() -> None:
    ended = run_dashboard("postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert ended.returncode == 2
    assert "does not answer" in ended.stderr
    assert "secret" not in ended.stderr


@pytest.mark.system
def test_the_process_says_where_it_listens_and_ends_when_told(database_url: str) -> None:
    command = [sys.executable, "-m", "workers.dashboard", "--port", "0"]
    with subprocess.Popen(command, env=environment(database_url), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            assert httpx.get(f"{url}/livez").status_code == 200
            assert httpx.get(f"{url}/api/studies").json() == {"study_summaries": []}
            assert httpx.post(f"{url}/api/studies").status_code == 405
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
