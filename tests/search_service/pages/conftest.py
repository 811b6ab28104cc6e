from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from search_service.api.app import create_app
from search_service.domain.keys import Scope
from search_service.settings import Settings
from search_service.storage import workers
from search_service.storage.database import Database
from tests.search_service.api.conftest import make_key

ORIGIN = "http://localhost"


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path)


@pytest.fixture
def key(database: Database) -> str:
    """An admin's key."""
    return make_key(database, "the desk", Scope.ADMIN)


@pytest.fixture
def stranger(settings: Settings, database: Database) -> Iterator[TestClient]:
    """A browser that is not signed in, on a service with one CPU worker."""
    with database.session() as session:
        families = {"glyphs": None, "sinusoid": None, "omniglot": "no omniglot.npz in the data folder"}
        workers.announce(session, uuid4(), host="here", pid=1, device="cpu", fingerprint={}, families=families)
    with visiting(settings) as client:
        yield client


def visiting(settings: Settings) -> TestClient:
    """A browser, which says where its forms come from."""
    return TestClient(
        create_app(settings),
        base_url=ORIGIN,
        follow_redirects=False,
        raise_server_exceptions=False,
        headers={"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"},
    )


@pytest.fixture
def browser(stranger: TestClient, key: str) -> TestClient:
    """A browser that is signed in as an admin."""
    assert stranger.post("/sign-in", data={"key": key}).status_code == 303
    return stranger
