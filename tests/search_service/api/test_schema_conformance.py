"""Schemathesis asks every operation of the OpenAPI document with what its schemas allow and forbid."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from search_service.api.app import create_app
from search_service.domain.keys import Scope
from search_service.settings import Settings
from search_service.storage import workers
from search_service.storage.database import Database
from tests.search_service.api.conftest import make_key

EXAMPLES = 25
"""Requests that are made up for each operation."""
BEYOND_A_SCHEMA = {"/v1/searches", "/v1/searches/{search_id}/trials", "/v1/keys"}
"""Whose bodies and cursors obey rules that no schema can say, such as "shots and queries, at most twenty together"."""
FOLLOWED = "/v1/searches/{search_id}/events"
"""A stream that does not end; tested on its own."""


@pytest.fixture
def asked(database_url: str, database: Database, tmp_path: Path) -> Iterator[tuple[FastAPI, str]]:
    """The API, and a key that may do everything."""
    with database.session() as session:
        workers.announce(session, uuid4(), host="here", pid=1, device="cpu", fingerprint={}, families={"glyphs": None})
    key = make_key(database, "schemathesis", Scope.ADMIN, max_queued=1_000_000)
    app = create_app(Settings(database_url=database_url, home=tmp_path, max_running_searches=2))
    with TestClient(app):
        yield app, key


def operations() -> list[tuple[str, str]]:
    """Path and method of every operation but the stream."""
    document = create_app(Settings(database_url="postgresql://nowhere")).openapi()
    return [(path, method) for path, methods in document["paths"].items() for method in methods if path != FOLLOWED]


@pytest.mark.parametrize(("path", "method"), operations())
def test_an_operation_answers_as_described(asked: tuple[FastAPI, str], path: str, method: str) -> None:
    app, key = asked
    headers = {"Authorization": f"Bearer {key}", "Host": "localhost"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=headers)

    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        beyond = [positive_data_acceptance] if path in BEYOND_A_SCHEMA else []
        case.call_and_validate(headers=headers, excluded_checks=beyond)

    ask()
