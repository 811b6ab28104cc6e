"""Who may ask what: keys, scopes, expiry, limits, foreign names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

from search_service.domain.keys import NewKey, Scope
from search_service.settings import Settings
from search_service.storage import keys
from search_service.storage.database import Database
from tests.search_service.api.conftest import asking, make_key

PROTECTED = ("/v1/searches", "/v1/searches/x", "/v1/searches/x/events", "/v1/keys", "/v1/keys/self", "/openapi.json")

Ask = Callable[..., TestClient]


@pytest.fixture
def ask(client: TestClient, settings: Settings, database: Database) -> Ask:
    """The API, asked with a new key."""

    def ask(scope: Scope, **limits: Any) -> TestClient:
        return asking(settings, make_key(database, f"a {scope} key", scope, **limits))

    return ask


def slug(response: Any) -> str:
    assert response.headers["content-type"] == "application/problem+json", response.text
    kind: str = response.json()["type"]
    return kind.rpartition(":")[2]


@pytest.mark.parametrize("key", [None, "", "lsk_guessed"])
def test_nothing_is_open_without_a_key_but_health(client: TestClient, settings: Settings, key: str | None) -> None:
    with asking(settings, key) as stranger:
        for path in PROTECTED:
            response = stranger.get(path)
            assert response.status_code == 401, path
            assert slug(response) == "unauthenticated"
            assert response.headers["www-authenticate"].startswith("Bearer")
        assert stranger.post("/v1/searches", json={}).status_code == 401
        assert stranger.get("/livez").status_code == stranger.get("/readyz").status_code == 200


def test_scopes(ask: Ask, spec: dict[str, Any]) -> None:
    reader, submitter, other, admin = (ask(scope) for scope in (Scope.READ, Scope.SUBMIT, Scope.SUBMIT, Scope.ADMIN))
    assert slug(reader.post("/v1/searches", json=spec)) == "forbidden"
    search = submitter.post("/v1/searches", json=spec).json()
    assert reader.get(search["links"]["self"]).status_code == 200
    for path in (":pause", ":resume", ":stop", ":cancel"):
        assert slug(reader.post(search["links"]["self"] + path)) == "forbidden"
        assert slug(other.post(search["links"]["self"] + path)) == "forbidden"
    assert other.patch(search["links"]["self"], json={"priority": 1}).status_code == 403
    assert submitter.post(search["links"]["self"] + ":pause").json()["status"] == "paused"
    assert admin.post(search["links"]["self"] + ":cancel").json()["status"] == "cancelled"
    assert slug(submitter.get("/v1/keys")) == "forbidden"
    assert submitter.get("/v1/keys/self").json()["scope"] == "submit"


def test_a_key_is_made_once_told_once_and_revoked(ask: Ask, client: TestClient, settings: Settings) -> None:
    made = client.post("/v1/keys", json={"name": "nightly", "scope": "read"})
    assert made.status_code == 201, made.text
    secret = made.json()["key"]
    assert secret.startswith(made.json()["shown"])
    with asking(settings, secret) as holder:
        assert holder.get("/v1/searches").status_code == 200
        listed = client.get("/v1/keys")
        assert secret not in listed.text
        (row,) = [key for key in listed.json()["keys"] if key["name"] == "nightly"]
        assert row["last_used_at"] is not None
        for _ in range(2):
            assert client.post(f"/v1/keys/{row['id']}:revoke").json()["revoked_at"]
        assert holder.get("/v1/searches").status_code == 401


def test_the_table_of_keys_holds_no_key(database: Database) -> None:
    secret = make_key(database, "mine", Scope.READ)
    with database.session() as session:
        stored = session.execute(text("select * from lambda_search.api_keys")).all()
    assert secret not in str(stored)
    assert len(secret) > 40


def test_a_key_expires(ask: Ask, database: Database, settings: Settings) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert ask(Scope.READ, expires_at=soon).get("/v1/searches").status_code == 200
    assert ask(Scope.READ, expires_at=soon - timedelta(hours=2)).get("/v1/searches").status_code == 401


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": " "}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"name": "x", "scope": "root"}, "scope"),
        ({"name": "x", "max_queued": 0}, "max_queued"),
        ({"name": "x", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "colour": "red"}, "colour"),
    ],
)
def test_a_key_that_cannot_be(client: TestClient, body: dict[str, Any], field: str) -> None:
    response = client.post("/v1/keys", json=body)
    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_a_key_may_have_so_many_waiting(ask: Ask, spec: dict[str, Any]) -> None:
    client = ask(Scope.SUBMIT, max_queued=2, max_running=1)
    answers = [client.post("/v1/searches", json=spec) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [202, 202, 202, 429]
    assert [answer.json()["status"] for answer in answers[:3]] == ["running", "queued", "queued"]
    assert slug(answers[3]) == "too-many-queued"
    assert int(answers[3].headers["retry-after"]) > 0
    # Another key's search has a place, for this one's limit is not everybody's.
    assert ask(Scope.SUBMIT).post("/v1/searches", json=spec).json()["status"] == "running"


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "localhost, evil.example"])
def test_a_foreign_name_is_refused(client: TestClient, host: str) -> None:
    response = client.get("/v1/searches", headers={"host": host})
    assert response.status_code == 421
    assert slug(response) == "unknown-host"
    assert client.get("/livez", headers={"host": host}).status_code == 200


def test_a_name_may_be_allowed(client: TestClient, settings: Settings, admin_key: str) -> None:
    told = settings.model_copy(update={"allowed_hosts": ["search.example"]})
    with asking(told, admin_key) as named:
        assert named.get("/v1/searches", headers={"host": "Search.example:8443"}).status_code == 200
        assert named.get("/v1/searches", headers={"host": "other.example"}).status_code == 421


def test_the_key_nobody_holds_lets_nobody_in(client: TestClient, settings: Settings, database: Database) -> None:
    for secret in ("", " "):
        with asking(settings, secret) as stranger:
            assert stranger.get("/v1/searches").status_code == 401
    with database.session() as session:
        assert keys.find(session, "") is None
        row, secret = keys.create(session, NewKey(name="chosen"), "a key that was chosen elsewhere")
        again, _ = keys.create(session, NewKey(name="other name"), secret)
        assert again.id == row.id
        assert again.name == "chosen"
