from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from search_service.api.app import create_app
from search_service.domain.keys import NewKey, Scope
from search_service.settings import Settings
from search_service.storage import keys, workers
from search_service.storage.database import Database


@pytest.fixture
def spec() -> dict[str, Any]:
    """The smallest spec that can be run."""
    return {
        "tasks": {"family": "glyphs"},
        "model": {"network": "conv4"},
        "meta_training": {},
        "max_degradation": 0.01,
    }


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path, max_running_searches=2)


@pytest.fixture
def bare_client(settings: Settings, admin_key: str) -> Iterator[TestClient]:
    """The API over a migrated database that no worker has announced itself to."""
    with asking(settings, admin_key) as client:
        yield client


@pytest.fixture
def admin_key(database: Database) -> str:
    """A key that may do everything."""
    return make_key(database, "admin", Scope.ADMIN)


def make_key(database: Database, name: str, scope: Scope, **limits: Any) -> str:
    """A key, as whoever holds it knows it."""
    with database.session() as session:
        return keys.create(session, NewKey(name=name, scope=scope, **limits))[1]


def asking(settings: Settings, key: str | None) -> TestClient:
    """The API, asked with a key."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return TestClient(create_app(settings), base_url="http://localhost", raise_server_exceptions=False, headers=headers)


@pytest.fixture
def client(bare_client: TestClient, database: Database) -> TestClient:
    """The API, with one CPU worker that lacks Omniglot."""
    with database.session() as session:
        workers.announce(
            session,
            uuid4(),
            host="here",
            pid=1,
            device="cpu",
            fingerprint={},
            families={"glyphs": None, "sinusoid": None, "omniglot": "no omniglot.npz in the data folder"},
        )
    return bare_client
