from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator
from sqlalchemy import text

from search_service.api.app import create_app
from search_service.api.examples import SPEC_EXAMPLES
from search_service.api.problems import PROBLEMS, kind_of
from search_service.domain.errors import DatabaseUnavailable, LambdaSearchError
from search_service.settings import Settings
from search_service.storage import codec
from search_service.storage.database import Database
from tests.search_service.api.conftest import asking

RESIDENT_LIMIT_MIB = 150


def test_the_process_lives_and_is_ready(client: TestClient) -> None:
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


def test_not_ready_before_it_is_migrated(empty_database_url: str) -> None:
    with asking(Settings(database_url=empty_database_url), "lsk_any") as client:
        assert client.get("/livez").status_code == 200
        for path in ("/readyz", "/v1/searches"):
            response = client.get(path)
            assert response.status_code == 503
            assert response.headers["content-type"] == "application/problem+json"
            assert "lambda-search migrate" in response.json()["detail"]
            assert response.headers["retry-after"]


def test_not_ready_without_a_database_and_the_password_stays_secret() -> None:
    url = "postgresql://somebody:s3cret@127.0.0.1:1/mine"
    with TestClient(create_app(Settings(database_url=url))) as client:
        assert client.get("/livez").status_code == 200
        response = client.get("/readyz")
    assert response.status_code == 503
    assert "database 'mine' on 127.0.0.1:1 does not answer" in response.json()["detail"]
    assert "LAMBDA_SEARCH_DATABASE_URL" in response.json()["detail"]
    assert "s3cret" not in response.text


def test_the_app_says_what_to_do_without_a_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMBDA_SEARCH_DATABASE_URL", raising=False)
    with pytest.raises(DatabaseUnavailable, match="LAMBDA_SEARCH_DATABASE_URL"):
        create_app()


def test_what_nobody_foresaw_is_logged_and_not_shown(
    client: TestClient, database: Database, spec: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    identity = client.post("/v1/searches", json=spec).json()["id"]
    with database.session() as session:
        session.execute(text("""update lambda_search.searches set spec = '{"private": "inside"}'"""))
    with caplog.at_level(logging.ERROR):
        response = client.get(f"/v1/searches/{identity}")
    assert response.status_code == 500
    document = response.json()
    assert document["type"] == "urn:lambda-search:problem:internal-error"
    assert "private" not in response.text
    (record,) = [record for record in caplog.records if record.name == "search_service.api.problems"]
    assert record.exc_info is not None
    assert record.args is not None
    assert str(record.args[0]) in document["detail"]  # type: ignore[index,unused-ignore]


def test_every_deliberate_error_has_its_row_in_the_table() -> None:
    def below(kind: type[LambdaSearchError]) -> list[type[LambdaSearchError]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    assert set(PROBLEMS) <= set(below(LambdaSearchError))
    assert kind_of(DatabaseUnavailable("gone")).status == 503
    assert kind_of(LambdaSearchError("odd")).status == 500


def test_the_openapi_document_is_valid_and_has_examples_that_hold(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            for status, response in operation["responses"].items():
                expected = "application/json" if int(status) < 400 else "application/problem+json"
                if path.endswith("/events") and status == "200":
                    expected = "text/event-stream"
                content = set(response.get("content", ()))
                assert content == (set() if status in ("204", "304") else {expected}), (method, path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]
    post = document["paths"]["/v1/searches"]["post"]
    assert "Location" in post["responses"]["202"]["headers"]
    examples = post["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == set(SPEC_EXAMPLES)
    validator = Draft202012Validator({**document, "$ref": "#/components/schemas/SearchSpec"})
    for example in examples.values():
        validator.validate(example["value"])
        codec.spec_from_json(example["value"])
    shots = document["components"]["schemas"]["TaskFamily"]["properties"]["shots"]
    assert shots["description"].startswith("Support examples per class")


def test_the_api_process_is_light_and_serves_from_its_factory(
    database_url: str, admin_key: str, tmp_path: Path
) -> None:
    """In a fresh interpreter: no torch, no optuna, no workers, and little memory after requests."""
    code = """
import sys, psutil
from search_service.api.app import create_app
assert not {"torch", "optuna", "workers"} & set(sys.modules)
from fastapi.testclient import TestClient
headers = {"Authorization": "Bearer " + sys.argv[1]}
with TestClient(create_app(), base_url="http://localhost", headers=headers) as client:
    for path in ("/livez", "/readyz", "/v1/searches", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    assert client.post("/v1/searches", json={}).status_code == 422
assert not {"torch", "optuna", "workers"} & set(sys.modules)
print(psutil.Process().memory_info().rss / 2**20)
"""
    environment = {**os.environ, "LAMBDA_SEARCH_DATABASE_URL": database_url, "LAMBDA_SEARCH_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code, admin_key], env=environment, capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < RESIDENT_LIMIT_MIB
