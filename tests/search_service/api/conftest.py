from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from search_service.api.app import create_app
from search_service.settings import Settings
from search_service.storage import workers
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
def bare_client(settings: Settings) -> Iterator[TestClient]:
    """The API over a migrated database that no worker has announced itself to."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


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
