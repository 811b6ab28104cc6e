"""Real processes on a real Postgres: workers are started, watched and killed as an operator would see them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from sqlalchemy import select

from search_service import lifecycle
from search_service.domain.search import SearchStatus
from search_service.storage import codec, searches
from search_service.storage.database import Database
from search_service.storage.tables import EvaluationRow, SearchRow, TrialRow

STEP_LIMIT = 90.0  # seconds that any one condition may take on a busy machine
FAULTY_WORKER = Path(__file__).with_name("faulty_worker.py")


def small_spec(**changes: Any) -> dict[str, Any]:
    """A search of 14 candidates that takes a few seconds."""
    return {
        "name": "small sinusoid",
        "tasks": {"family": "sinusoid", "shots": 5, "queries": 10},
        "model": {"network": "mlp", "hidden": [8, 8]},
        "meta_training": {"inner_steps": 2, "inner_rate": 0.02, "iterations": 30, "meta_batch": 4},
        "max_degradation": 0.5,
        "degradation": "relative",
        "degradation_bound": 2.0,
        "episodes": {"block": 5, "validation": 20, "confirmation": 40},
        **changes,
    }


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = STEP_LIMIT) -> None:
    """Wait for a condition; fail the test, saying which, when it does not come true in time."""
    stop_at = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > stop_at:
            pytest.fail(f"waited {limit_s:.0f} s in vain: {what}")
        time.sleep(0.05)


@dataclass
class WorkerProcess:
    """A worker and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """``kill -9``."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(30)

    def evaluators(self) -> list[psutil.Process]:
        """Its evaluator processes (Python's resource tracker is a child too, and stays)."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if any("spawn_main" in word for word in child.cmdline())]


@dataclass
class Stack:
    """A migrated database, a data folder, and the workers on them."""

    database: Database
    url: str
    home: Path
    workers: list[WorkerProcess] = field(default_factory=list)

    def environment(self) -> dict[str, str]:
        """What every process of the stack is told."""
        return {
            **os.environ,
            "LAMBDA_SEARCH_DATABASE_URL": self.url,
            "LAMBDA_SEARCH_HOME": str(self.home),
            "LAMBDA_SEARCH_LOCK_DIR": str(self.home / "locks"),
        }

    def start_worker(self, *faults: str) -> WorkerProcess:
        """A worker process on one CPU thread, with a planned fault if any is named."""
        program = [str(FAULTY_WORKER), *faults] if faults else ["-m", "workers.runtime"]
        log = self.home / f"worker-{len(self.workers)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *program, "--device", "cpu", "--threads", "1"],
                env=self.environment(),
                stderr=stream,
                stdout=stream,
            )
        self.workers.append(WorkerProcess(process, log))
        return self.workers[-1]

    def submit(self, spec: dict[str, Any]) -> UUID:
        """Store and admit a search, as the API does."""
        with self.database.session() as session:
            row = searches.add(session, codec.spec_from_json(spec))
            lifecycle.admit(session, row.device, 4)
            return row.id

    def search(self, search_id: UUID) -> SearchRow:
        """The search as it stands."""
        with self.database.session() as session:
            return searches.get(session, search_id)

    def wait_for(self, search_id: UUID, status: SearchStatus = SearchStatus.SUCCEEDED) -> SearchRow:
        """Wait until a search is over, and check how it ended."""
        wait_until(
            lambda: SearchStatus(self.search(search_id).status).is_final,
            f"search {search_id} to end; {self.logs()}",
            2 * STEP_LIMIT,
        )
        row = self.search(search_id)
        assert row.status == status, (row.problem, self.logs())
        return row

    def screened(self, search_id: UUID) -> dict[str, tuple[int, float | None, bool]]:
        """Blocks, degradation and whether it was dropped, of each candidate that a search has screened to the end."""
        with self.database.session() as session:
            trials = session.scalars(select(TrialRow).where(TrialRow.search_id == search_id)).all()
            return {
                trial.candidate: (trial.blocks, trial.degradation, trial.state == "dropped")
                for trial in trials
                if trial.state != "pending"
            }

    def evaluations(self) -> dict[tuple[str, str, int], list[float]]:
        """Every stored evaluation."""
        with self.database.session() as session:
            rows = session.scalars(select(EvaluationRow)).all()
            return {(row.scope, row.candidate, row.block): list(row.qualities) for row in rows}

    def logs(self) -> str:
        """The end of every worker's log."""
        return "\n".join(f"{worker.log.name}: {worker.log.read_text()[-3000:]}" for worker in self.workers)


@pytest.fixture
def stack(database: Database, database_url: str, tmp_path: Path) -> Iterator[Stack]:
    """A stack of this test's own; whatever still runs at its end is killed."""
    stack = Stack(database, database_url, tmp_path)
    yield stack
    for worker in stack.workers:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGKILL)
            worker.process.wait()
