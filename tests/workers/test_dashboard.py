from __future__ import annotations

import base64
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

from search_service.domain.keys import NewKey, Scope
from search_service.guard import COOKIE
from search_service.storage import keys
from search_service.storage.database import Database
from workers.dashboard import Gate, create_app
from workers.search.study_storage import open_study_storage

STUDY = "a study"


@pytest.fixture
def storage(database: Database) -> Iterator[optuna.storages.RDBStorage]:
    storage = open_study_storage(database)
    optuna.create_study(storage=storage, study_name=STUDY)
    yield storage
    storage.engine.dispose()


def secret_of(database: Database, scope: Scope) -> str:
    with database.session() as session:
        return keys.create(session, NewKey(name=f"who may {scope}", scope=scope))[1]


@pytest.fixture
def reader(storage: optuna.storages.RDBStorage, database: Database) -> TestClient:
    """The dashboard, asked with a key that may read."""
    app = create_app(storage, database, ["search.example.org", "fe80::1"])
    headers = {"Authorization": f"Bearer {secret_of(database, Scope.READ)}"}
    return TestClient(app, base_url="http://localhost:8080", headers=headers)


@pytest.fixture
def stranger(storage: optuna.storages.RDBStorage, database: Database) -> TestClient:
    """The dashboard, asked without a key."""
    return TestClient(create_app(storage, database), base_url="http://localhost:8080")


class Untouchable:
    """Stands behind the gate and must not be reached."""

    async def __call__(self, *_: Any) -> None:
        raise AssertionError("the request got through")


@pytest.fixture
def guarded(database: Database) -> TestClient:
    return TestClient(Gate(Untouchable(), database), base_url="http://localhost:8080")


def environment(database_url: str | None) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LAMBDA_SEARCH_")}
    return kept if database_url is None else {**kept, "LAMBDA_SEARCH_DATABASE_URL": database_url}


def run_dashboard(database_url: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.dashboard", *arguments]
    return subprocess.run(command, env=environment(database_url), capture_output=True, text=True, timeout=60)


def studies(browser: TestClient, **how: Any) -> list[str]:
    answer = browser.get("/api/studies", **how)
    assert answer.status_code == 200
    return [study["study_name"] for study in answer.json()["study_summaries"]]


def test_it_shows_the_studies(reader: TestClient) -> None:
    assert studies(reader) == [STUDY]
    assert reader.get("/", follow_redirects=True).headers["content-type"].startswith("text/html")
    assert reader.head("/dashboard").status_code == 200


def test_without_a_key_it_shows_nothing_and_browsers_ask_for_one(guarded: TestClient) -> None:
    for path in ("/", "/dashboard", "/api/studies", "/static/bundle.js"):
        answer = guarded.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Basic ")
    assert guarded.delete("/api/studies/1").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer lsk_made_up"},
        {"Authorization": "Basic !"},
        {"Authorization": "Basic bm8gY29sb24="},
        {"Authorization": "Basic /w=="},
        {"Authorization": "Negotiate lsk_made_up"},
        {"Cookie": f"{COOKIE}=made-up"},
    ],
)
def test_what_is_no_key_opens_nothing(guarded: TestClient, headers: dict[str, str]) -> None:
    assert guarded.get("/api/studies", headers=headers).status_code == 401


def test_a_key_may_be_the_password_of_any_name(stranger: TestClient, database: Database) -> None:
    assert studies(stranger, auth=("anybody", secret_of(database, Scope.READ))) == [STUDY]
    named = base64.b64encode(f"Jürgen:{secret_of(database, Scope.READ)}".encode()).decode()
    assert studies(stranger, headers={"Authorization": f"basic {named}"}) == [STUDY]


def test_a_session_of_the_report_opens_the_dashboard_until_its_key_is_revoked(
    stranger: TestClient, database: Database
) -> None:
    with database.session() as session:
        key, _ = keys.create(session, NewKey(name="in a browser", scope=Scope.READ))
        secret, _ = keys.open_session(session, key)
    stranger.cookies.set(COOKIE, secret)
    assert studies(stranger) == [STUDY]
    with database.session() as session:
        keys.revoke(session, key.id)
    assert stranger.get("/api/studies").status_code == 401


@pytest.mark.parametrize("scope", [Scope.READ, Scope.SUBMIT])
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE"])
def test_who_is_no_admin_changes_nothing(guarded: TestClient, database: Database, method: str, scope: Scope) -> None:
    headers = {"Authorization": f"Bearer {secret_of(database, scope)}"}
    answer = guarded.request(method, "/api/studies/1", headers=headers)
    assert answer.status_code == 403
    assert f"has scope '{scope}'" in answer.text


def test_a_study_is_deleted_by_admins_only_and_not_from_a_foreign_page(
    reader: TestClient, stranger: TestClient, storage: optuna.storages.RDBStorage, database: Database
) -> None:
    path = f"/api/studies/{storage.get_study_id_from_name(STUDY)}"
    admin = ("anybody", secret_of(database, Scope.ADMIN))
    assert reader.delete(path).status_code == 403
    for origin in ("http://evil.example.org", "http://localhost:8000"):
        assert stranger.delete(path, auth=admin, headers={"Origin": origin}).status_code == 403
    assert studies(reader) == [STUDY]
    assert stranger.delete(path, auth=admin, headers={"Origin": "http://localhost:8080"}).status_code == 204
    assert studies(reader) == []


def test_a_program_needs_no_origin(
    stranger: TestClient, storage: optuna.storages.RDBStorage, database: Database
) -> None:
    path = f"/api/studies/{storage.get_study_id_from_name(STUDY)}"
    secret = secret_of(database, Scope.ADMIN)
    assert stranger.delete(path, auth=("anybody", secret)).status_code == 403
    assert stranger.delete(path, headers={"Authorization": f"Bearer {secret}"}).status_code == 204


@pytest.mark.parametrize("origin", ["http://[", "null", "http://localhost:8080.evil.example.org"])
def test_an_origin_that_is_no_address_is_a_foreign_one(guarded: TestClient, database: Database, origin: str) -> None:
    admin = ("anybody", secret_of(database, Scope.ADMIN))
    assert guarded.delete("/api/studies/1", auth=admin, headers={"Origin": origin}).status_code == 403


def test_no_page_may_frame_it(reader: TestClient, guarded: TestClient) -> None:
    for answer in (reader.get("/dashboard"), guarded.get("/dashboard")):
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("host", ["evil.example.org", "evil.example.org:8080", "localhost.evil.example.org", "", ":80"])
def test_a_foreign_host_is_refused(guarded: TestClient, host: str) -> None:
    answer = guarded.get("/api/studies", headers={"Host": host})
    assert answer.status_code == 421
    assert "LAMBDA_SEARCH_ALLOWED_HOSTS" in answer.text


def test_a_request_with_two_hosts_is_refused(guarded: TestClient) -> None:
    answer = guarded.get("/", headers=[("Host", "localhost"), ("Host", "evil.example.org")])
    assert answer.status_code == 421


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "search.example.org:80", "[fe80::1]:8080"],
)
def test_names_of_this_host_and_allowed_ones_are_served(reader: TestClient, host: str) -> None:
    assert studies(reader, headers={"Host": host}) == [STUDY]


def test_while_the_database_is_away_it_says_so() -> None:
    gate = Gate(Untouchable(), Database("postgresql://nobody:secret@127.0.0.1:1/nothing"))
    answer = TestClient(gate, base_url="http://localhost:8080").get("/", headers={"Authorization": "Bearer lsk_key"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "secret" not in answer.text


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
def test_the_process_says_where_it_listens_and_ends_when_told(database: Database, database_url: str) -> None:
    key = {"Authorization": f"Bearer {secret_of(database, Scope.READ)}"}
    command = [sys.executable, "-m", "workers.dashboard", "--port", "0"]
    with subprocess.Popen(command, env=environment(database_url), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1]
        try:
            assert httpx.get(f"{url}/livez").status_code == 200
            assert httpx.get(f"{url}/api/studies").status_code == 401
            assert httpx.get(f"{url}/api/studies", headers=key).json() == {"study_summaries": []}
            assert httpx.post(f"{url}/api/studies", headers=key).status_code == 403
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
