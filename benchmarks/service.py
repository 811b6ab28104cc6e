"""The service under load: submissions, lists, events, orchestration and scaling, everything on one machine.

``python -m benchmarks.service [--json] [--part all|api|workers]``. Postgres (the embedded one), the API and workers are
real processes; devices do nothing for a while (``benchmarks/noop_worker.py``). Clients run in this process, so their
work is in every figure.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID, uuid4

import httpx
import numpy as np
import psutil
import torch
import typer
from httpx_sse import aconnect_sse
from rich.console import Console
from sqlalchemy import text

from benchmarks.noop_worker import FINGERPRINT
from benchmarks.report import at_least, at_most, show
from search_service.domain.keys import NewKey, Scope
from search_service.domain.recipe import Recipe
from search_service.storage import checkpoints, codec, keys, workers
from search_service.storage.database import Database
from search_service.storage.embedded import embedded_postgres
from search_service.storage.migrate import migrate
from workers.adaptation.device import fingerprint

CHECKPOINT = "c0ffee"
SPEC: dict[str, Any] = {
    "name": "nothing at all",
    "tasks": {"family": "glyphs"},
    "model": {"network": "conv4"},
    "checkpoint": CHECKPOINT,
    "max_degradation": 0.06,
}
CLIENTS = 20
OPEN_RATE, OPEN_S = 50.0, 15.0
"""Submissions per second of the open loop, and for how long."""
CLOSED_S = 10.0
LISTENERS = 200
LISTED = 100_000
FIGURES = 4_000
"""Words of a result, and of the timings behind it: 30 kB each."""
PAGES = 200
SETTLE_S, WINDOW_S = 4.0, 20.0
"""Seconds of a scaling run before counting begins, and of counting."""
WORKER_COUNTS = (1, 2, 4, 8)
LIMIT_S = 60.0


class Part(StrEnum):
    """What to measure."""

    API = "api"
    WORKERS = "workers"
    ALL = "all"


@dataclass
class Service:
    """A running API on a database of its own."""

    database: Database
    database_url: str
    folder: Path
    running: ExitStack
    url: str = ""
    key: str = ""
    api: psutil.Process | None = None
    worker_logs: list[Path] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.key}"}

    def environment(self) -> dict[str, str]:
        """What every process is told."""
        return {
            **os.environ,
            "LAMBDA_SEARCH_DATABASE_URL": self.database_url,
            "LAMBDA_SEARCH_HOME": str(self.folder),
            "LAMBDA_SEARCH_LOCK_DIR": str(self.folder / "locks"),
            "LAMBDA_SEARCH_MAX_RUNNING_SEARCHES": "16",
        }

    def start_worker(self, seconds: float) -> subprocess.Popen[bytes]:
        """A worker whose judgements take so long; returns once it has announced itself."""
        log = self.folder / f"worker-{uuid4().hex}.jsonl"
        self.worker_logs.append(log)
        before = self._announced()
        process = self._spawn(["-m", "benchmarks.noop_worker", str(seconds), str(log)], log.with_suffix(".log"))
        wait_until(lambda: self._announced() > before, "a worker")
        return process

    def judged(self) -> list[dict[str, Any]]:
        """Every judgement of every worker, by when it began."""
        lines = [line for log in self.worker_logs if log.exists() for line in log.read_text().splitlines()]
        return sorted(map(json.loads, lines), key=lambda entry: float(entry["began"]))

    def start_api(self) -> None:
        """The API, ready."""
        log = self.folder / "api.log"
        process = self._spawn(["-m", "search_service.cli", "api", "--port", "0"], log)
        wait_until(lambda: "http://127.0.0.1:" in log.read_text(), "the API's address")
        self.url = "http://127.0.0.1:" + log.read_text().split("http://127.0.0.1:", 1)[1].split()[0].strip('/",)')
        self.api = psutil.Process(process.pid)
        wait_until(lambda: httpx.get(f"{self.url}/readyz").is_success, "the API")

    def clear(self) -> None:
        """Forget every search."""
        with self.database.session() as session:
            session.execute(text("truncate lambda_search.searches, lambda_search.evaluations cascade"))
            session.execute(text("truncate procrastinate.procrastinate_jobs cascade"))
        self._store_checkpoint()

    def prepare(self) -> None:
        """A key, and a checkpoint that no device will ever open."""
        with self.database.session() as session:
            _, self.key = keys.create(session, NewKey(name="benchmark", scope=Scope.ADMIN, max_queued=1_000_000))
        self._store_checkpoint()

    def _store_checkpoint(self) -> None:
        given = codec.spec_from_json({**SPEC, "checkpoint": None, "meta_training": {}})
        recipe = Recipe.of(given)
        with self.database.session() as session:
            checkpoints.lock_training(session, recipe)
            checkpoints.add(session, checkpoint_id=CHECKPOINT, recipe=recipe, uri=CHECKPOINT, quality={})

    def _announced(self) -> int:
        with self.database.session() as session:
            return len(workers.announced(session))

    def _spawn(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, *arguments], env=self.environment(), stdout=stream, stderr=stream
            )
        self.running.callback(process.wait, 30)
        self.running.callback(process.terminate)
        return process


@contextmanager
def service() -> Iterator[Service]:
    """Postgres and the API; workers are started as needed and end with it."""
    with tempfile.TemporaryDirectory() as folder, embedded_postgres(Path(folder) / "pg") as url:
        migrate(url)
        with closing(Database(url)) as database, ExitStack() as running:
            made = Service(database, url, Path(folder), running)
            made.prepare()
            made.start_api()
            yield made


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, for a minute at most."""
    stop_at = time.monotonic() + LIMIT_S
    while True:
        try:
            if condition():
                return
        except (httpx.TransportError, FileNotFoundError):
            pass
        if time.monotonic() > stop_at:
            raise TimeoutError(f"waited {LIMIT_S:.0f} s in vain for {what}")
        time.sleep(0.02)


@asynccontextmanager
async def client_of(made: Service) -> AsyncIterator[httpx.AsyncClient]:
    """Many connections to the API."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=made.url, headers=made.headers, timeout=LIMIT_S, limits=limits, trust_env=False
    ) as client:
        yield client


async def submit(client: httpx.AsyncClient, seed: int = 0) -> tuple[str, float]:
    """Submit a search; its id, and the seconds that took."""
    began = time.perf_counter()
    response = await client.post("/v1/searches", json={**SPEC, "seed": seed})
    seconds = time.perf_counter() - began
    response.raise_for_status()
    return str(response.json()["id"]), seconds


async def open_loop(client: httpx.AsyncClient) -> list[float]:
    """Seconds of submissions at a fixed rate, counted from when each was due."""
    seconds: list[float] = []
    began = time.perf_counter()

    async def one(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await submit(client)
        seconds.append(time.perf_counter() - due)

    generator = random.Random(0)
    dues = [began + (number + generator.random()) / OPEN_RATE for number in range(int(OPEN_RATE * OPEN_S))]
    slots = asyncio.Semaphore(CLIENTS)

    async def by_a_client(due: float) -> None:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        async with slots:
            await one(due)

    await asyncio.gather(*map(by_a_client, dues))
    return seconds


async def closed_loop(client: httpx.AsyncClient) -> float:
    """Submissions per second of clients that each submit again at once."""
    stop_at = time.perf_counter() + CLOSED_S
    counts = [0] * CLIENTS

    async def one(number: int) -> None:
        while time.perf_counter() < stop_at:
            await submit(client)
            counts[number] += 1

    await asyncio.gather(*map(one, range(CLIENTS)))
    return sum(counts) / CLOSED_S


async def listening(made: Service, client: httpx.AsyncClient) -> tuple[float, list[float]]:
    """MiB that idle listeners cost the API, and how late each of them learns of an event."""
    assert made.api is not None
    search_id, _ = await submit(client)
    await client.post(f"/v1/searches/{search_id}:pause")
    before = made.api.memory_info().rss
    late: list[float] = []
    ready = 0

    async def listen() -> None:
        nonlocal ready
        async with aconnect_sse(client, "GET", f"/v1/searches/{search_id}/events") as source:
            async for told in source.aiter_sse():
                if told.event == "progress" and ready < LISTENERS:
                    ready += 1
                if told.event == "priority":
                    late.append(time.time() - changed_at)
                    return

    tasks = [asyncio.create_task(listen()) for _ in range(LISTENERS)]
    while ready < LISTENERS:
        await asyncio.sleep(0.05)
    await asyncio.sleep(2.0)
    cost = (made.api.memory_info().rss - before) / 2**20
    changed_at = time.time()
    await client.patch(f"/v1/searches/{search_id}", json={"priority": 1})
    await asyncio.gather(*tasks)
    return cost, late


async def one_listener(client: httpx.AsyncClient) -> list[float]:
    """How late one who listens learns of events, of many searches one after the other."""
    late = []
    for number in range(30):
        search_id, _ = await submit(client, number)
        changed_at = 0.0
        async with aconnect_sse(client, "GET", f"/v1/searches/{search_id}/events") as source:
            async for told in source.aiter_sse():
                if told.event == "progress" and not changed_at:
                    changed_at = time.time()
                    changing = asyncio.create_task(client.post(f"/v1/searches/{search_id}:cancel"))
                if told.event == "cancelled":
                    late.append(time.time() - changed_at)
        await changing
    return late


def fill(made: Service) -> None:
    """Store very many searches that have succeeded, alike but for names and times, with results of real size."""
    with made.database.session() as session:
        session.execute(
            text("""
                insert into lambda_search.searches (id, spec, status, device, priority, key_id, checkpoint, created_at,
                                                    finished_at, result, timings)
                select gen_random_uuid(), jsonb_set(spec, '{name}', to_jsonb('number ' || number)), 'succeeded', device,
                       number % 7, key_id, checkpoint, now() - number * interval '1 second', now(),
                       jsonb_build_object('all', repeat('figures ', :figures)),
                       jsonb_build_object('all', repeat('figures ', :figures))
                from (select * from lambda_search.searches limit 1) one, generate_series(1, :count) number
            """),
            {"count": LISTED, "figures": FIGURES},
        )
    with made.database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("vacuum analyze lambda_search.searches"))


async def turning_pages(client: httpx.AsyncClient) -> list[float]:
    """Seconds of pages anywhere in a long list, in several orders."""
    seconds = []
    for sort in ("-created_at", "-priority"):
        cursor: str | None = None
        for number in range(PAGES):
            query = {"sort": sort, "limit": 20 if number % 2 else 100, **({"cursor": cursor} if cursor else {})}
            began = time.perf_counter()
            response = await client.get("/v1/searches", params=query)
            seconds.append(time.perf_counter() - began)
            cursor = response.raise_for_status().json()["next_cursor"]
    return seconds


async def first_trial(made: Service, client: httpx.AsyncClient) -> list[float]:
    """Seconds from submitting until a warm worker begins to judge."""
    waits = []
    for number in range(10):
        count = len(made.judged())
        began = time.time()
        search_id, _ = await submit(client, 1000 + number)
        while len(judged := made.judged()) <= count:
            await asyncio.sleep(0.01)
        waits.append(judged[count]["began"] - began)
        await client.post(f"/v1/searches/{search_id}:cancel")
        await asyncio.sleep(0.5)
    return waits


async def orchestration(made: Service, client: httpx.AsyncClient) -> tuple[list[float], float]:
    """Seconds between judgements of a whole search with one worker, and the longest lag of the study's mirror."""
    count = len(made.judged())
    search_id, _ = await submit(client, 2000)
    lag = 0.0
    while (view := (await client.get(f"/v1/searches/{search_id}")).json())["status"] not in ("succeeded", "failed"):
        lag = max(lag, mirror_lag_s(made))
        await asyncio.sleep(0.25)
    assert view["status"] == "succeeded", view["problem"]
    while (now := mirror_lag_s(made)) > 0:
        lag = max(lag, now)
        await asyncio.sleep(0.25)
    judged = made.judged()[count:]
    gaps = [later["began"] - earlier["ended"] for earlier, later in pairwise(judged)]
    return gaps, lag


def mirror_lag_s(made: Service) -> float:
    """Age of the oldest decision that the study does not show and could."""
    with made.database.session() as session:
        return float(
            session.scalar(
                text("""
                    select coalesce(extract(epoch from clock_timestamp() - min(e.at)), 0)
                    from lambda_search.trials t join lambda_search.events e
                      on e.search_id = t.search_id and e.kind = 'trial' and e.data->>'candidate' = t.candidate
                    where not t.mirrored and t.state in ('dropped','qualified','unqualified','unresolved')
                """)
            )
            or 0.0
        )


async def scaling(made: Service, client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Judgements of one second per second, by how many workers there are."""
    rows: list[dict[str, Any]] = []
    for count in WORKER_COUNTS:
        made.clear()
        started = [made.start_worker(1.0) for _ in range(count)]
        for seed in range(2 * count):
            await submit(client, 3000 + seed)
        await asyncio.sleep(SETTLE_S)
        begin, end = time.time(), time.time() + WINDOW_S
        await asyncio.sleep(WINDOW_S + 1.5)
        # Of a judgement at the window's edge, the part that lies within counts.
        judged = sum(max(0.0, min(entry["ended"], end) - max(entry["began"], begin)) for entry in made.judged())
        rows.append({"what": f"{count} workers", "value": judged / WINDOW_S, "unit": "trials of 1 s per s"})
        for process in started:
            process.terminate()
        for process in started:
            await asyncio.to_thread(process.wait, 30)
    return rows


def _p(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent))


async def measure(part: Part, say: Callable[[str], None]) -> dict[str, Any]:
    """Machine, rows and checks."""
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []

    def note(what: str, value: float, unit: str) -> None:
        rows.append({"what": what, "value": value, "unit": unit})
        say(f"{what}: {value:.4g} {unit}")

    with service() as made:
        async with client_of(made) as client:
            if part != Part.WORKERS:
                await _measure_api(made, client, note, checks)
            if part != Part.API:
                await _measure_workers(made, client, note, rows, checks)
    return {"machine": fingerprint(torch.device("cpu")), "rows": rows, "checks": checks}


Note = Callable[[str, float, str], None]


async def _measure_api(made: Service, client: httpx.AsyncClient, note: Note, checks: list[dict[str, Any]]) -> None:
    with made.database.session() as session:
        workers.announce(
            session, UUID(int=1), host="here", pid=1, device="cpu", fingerprint=FINGERPRINT, families={"glyphs": None}
        )
    for _ in range(5):  # as it is after a while: connections are open, statements are prepared
        await asyncio.gather(*(submit(client) for _ in range(CLIENTS)))
    seconds = await open_loop(client)
    note("open loop, 50 submissions/s, p50", 1e3 * _p(seconds, 50), "ms")
    note("open loop, 50 submissions/s, p99", 1e3 * _p(seconds, 99), "ms")
    checks.append(at_most("open loop at 50/s: p99, ms", 1e3 * _p(seconds, 99), 25.0))
    rate = await closed_loop(client)
    note("closed loop", rate, "submissions/s")
    checks.append(at_least("closed-loop peak, submissions/s", rate, 150.0))
    late = await one_listener(client)
    note("event to its listener, p99", 1e3 * _p(late, 99), "ms")
    checks.append(at_most("events arrive after, ms (p99)", 1e3 * _p(late, 99), 200.0))
    cost, together = await listening(made, client)
    note("200 idle listeners", cost, "MiB")
    note("event to the last of 200 listeners", 1e3 * max(together), "ms")
    checks.append(at_most("200 idle listeners cost, MB", cost * 2**20 / 1e6, 50.0))
    fill(made)
    pages = await turning_pages(client)
    note("page of 100,000 searches, p50", 1e3 * _p(pages, 50), "ms")
    note("page of 100,000 searches, p99", 1e3 * _p(pages, 99), "ms")
    checks.append(at_most("page of 100,000 searches: p99, ms", 1e3 * _p(pages, 99), 30.0))
    made.clear()


async def _measure_workers(
    made: Service, client: httpx.AsyncClient, note: Note, rows: list[dict[str, Any]], checks: list[dict[str, Any]]
) -> None:
    worker = made.start_worker(0.0)
    waits = await first_trial(made, client)
    note("submission to first trial, median", 1e3 * _p(waits, 50), "ms")
    note("submission to first trial, longest", 1e3 * max(waits), "ms")
    checks.append(at_most("submit to first trial, ms (longest of ten)", 1e3 * max(waits), 250.0))
    gaps, lag = await orchestration(made, client)
    note("orchestration per trial, median", 1e3 * _p(gaps, 50), "ms")
    note("orchestration per trial, mean", 1e3 * float(np.mean(gaps)), "ms")
    note("longest lag of the study's mirror", lag, "s")
    checks += [
        at_most("orchestration per trial, ms (mean)", 1e3 * float(np.mean(gaps)), 50.0),
        at_most("orchestration of trials of 1 s, share", float(np.mean(gaps)), 0.05),
        at_most("lag of the study's mirror, s", lag, 5.0),
    ]
    worker.terminate()
    await asyncio.to_thread(worker.wait, 30)
    scaled = await scaling(made, client)
    rows += scaled
    alone = scaled[0]["value"]
    for count, row in zip(WORKER_COUNTS[1:], scaled[1:], strict=True):
        checks.append(at_least(f"{count} workers, of linear", row["value"] / (count * alone), 0.9))


COLUMNS = {"what": "what", "value": "value", "unit": "unit"}


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    part: Annotated[Part, typer.Option(help="What to measure.")] = Part.ALL,
) -> None:
    """Measure the service under load."""
    console = Console(stderr=True)
    report = asyncio.run(measure(part, lambda line: console.print(line, highlight=False)))
    show(report, "The service under load", COLUMNS, as_json)


if __name__ == "__main__":
    typer.run(main)
