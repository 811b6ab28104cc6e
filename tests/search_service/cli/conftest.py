"""A running API, the command line called in this process, and a made-up result document."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import uvicorn

from search_service.api.app import create_app
from search_service.cli import main
from search_service.domain.keys import NewKey, Scope
from search_service.settings import Settings
from search_service.storage import keys, workers
from search_service.storage.database import Database
from tests.made_up_result import made_up_result

Call = Callable[..., "Ended"]


@dataclass(frozen=True)
class Ended:
    """How a call of the command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of whoever runs the tests, and nobody's data folder."""
    for name in ("DATABASE_URL", "URL", "KEY", "PROFILE", "PORT", "HOST", "DATA_DIR", "ARTIFACTS_URL"):
        monkeypatch.delenv(f"LAMBDA_SEARCH_{name}", raising=False)
    monkeypatch.setenv("LAMBDA_SEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LAMBDA_SEARCH_CONFIG", str(tmp_path / "config.toml"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command line in this process."""

    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ended(code or 0, *capsys.readouterr())

    return call


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
def service(database_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of the API on a database of its own, to which one CPU worker that lacks Omniglot has announced itself."""
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
        _, key = keys.create(session, NewKey(name="tests", scope=Scope.ADMIN))
    monkeypatch.setenv("LAMBDA_SEARCH_KEY", key)
    app = create_app(Settings(database_url=database_url, home=tmp_path, max_running_searches=2))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def result_document() -> Callable[..., dict[str, Any]]:
    """Builds a result document of the right shape, answered with `00111@2`; arguments replace its fields."""
    return made_up_result
