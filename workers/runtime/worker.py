"""The worker process: one device, one evaluator child, one procrastinate worker, and the housekeeping beside them.

Three strands run: the queue's event loop in the main thread (so heartbeats go on whatever a device does), one device
thread in which searches are advanced and from which the evaluator is started, and one housekeeping thread that reaps,
mirrors studies and says that the worker lives.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from uuid import UUID, uuid4

import structlog
import tenacity
from procrastinate import App, PsycopgConnector
from procrastinate.exceptions import ConnectorException

from search_service import queue
from search_service.domain.errors import DatabaseUnavailable
from search_service.domain.search import TaskFamily
from search_service.settings import Settings
from search_service.storage import workers as worker_store
from search_service.storage.database import Database
from workers.adaptation.episodes import Episodes, open_task_family, unavailable_reason
from workers.runtime.advance import Advancer
from workers.runtime.evaluator import Evaluator, WorkUnwanted
from workers.runtime.evaluator_child import EvaluatorSettings
from workers.runtime.housekeeping import Housekeeping
from workers.runtime.reaper import STALLED_AFTER

HEARTBEAT_INTERVAL = 3.0  # seconds
SHUTDOWN_GRACE = 5.0  # seconds a running step gets after SIGTERM; it is taken up again by another worker
RECONNECT_WAIT_MAX = 15.0  # seconds between attempts to reach the database again
FAMILIES = ("glyphs", "omniglot", "sinusoid")

log = structlog.get_logger(__name__)


class Worker:
    """Serves one device class until it is told to stop.

    Args:
        settings: where database, artifacts, datasets and locks are.
        device: ``cpu`` or ``cuda:0``.
        threads: threads the evaluator computes with.
    """

    def __init__(self, settings: Settings, device: str, threads: int) -> None:
        if settings.database_url is None:
            raise DatabaseUnavailable("LAMBDA_SEARCH_DATABASE_URL is not set: a worker needs the database to work for")
        self.settings = settings
        self.id: UUID = uuid4()
        self.database = Database(settings.database_url)
        self.evaluator = Evaluator(
            EvaluatorSettings(
                device=device,
                threads=threads,
                artifacts_url=settings.artifacts_url,
                data_dir=settings.data_dir,
                lock_dir=settings.lock_dir,
                compile_cache=settings.compile_cache,
            )
        )
        self._stopping = threading.Event()
        self._device_thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="device")

    def run(self) -> None:
        """Work until :meth:`stop`; reconnect whenever the database went away."""
        try:
            self._device_thread.submit(self.evaluator.start, self._give_up_when_stopping).result()
        except WorkUnwanted:
            return
        log.info("evaluator ready", pid=self.evaluator.pid, **self.evaluator.fingerprint)
        housekeeping = Housekeeping(self.database, self.settings, self.id, self._stopping, self._open_episodes)
        housekeeping.start()
        try:
            for attempt in self._reconnecting():
                with attempt:
                    self._announce()
                    asyncio.run(self._serve())
                    if not self._stopping.is_set():
                        raise ConnectorException("the queue's worker ended by itself")
        finally:
            self._stopping.set()
            housekeeping.join()
            self._device_thread.submit(self.evaluator.kill).result()
            self._device_thread.shutdown()
            self._say_goodbye()

    def stop(self) -> None:
        """Ask the worker to end; safe from a signal handler."""
        self._stopping.set()

    @cached_property
    def device_class(self) -> str:
        """The queue this worker serves."""
        return str(self.evaluator.fingerprint["class"])

    def _reconnecting(self) -> tenacity.Retrying:
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((ConnectorException, DatabaseUnavailable)),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=RECONNECT_WAIT_MAX),
            stop=tenacity.stop_when_event_set(self._stopping),
            sleep=tenacity.sleep_using_event(self._stopping),
            before_sleep=lambda state: log.warning(
                "database lost, connecting again", reason=str(state.outcome.exception() if state.outcome else "")
            ),
            reraise=True,
        )

    async def _serve(self) -> None:
        app = App(connector=PsycopgConnector(conninfo=self.database.conninfo, max_size=4))
        advance = Advancer(
            self.database, self.evaluator, self.id, self.settings.max_running_searches, self._open_episodes
        )

        @app.task(name=queue.ADVANCE)
        async def advance_search(search_id: str, phase: str, no: int, step: int) -> None:
            job = queue.TokenJob.from_arguments(search_id, phase, no, step)
            await asyncio.get_running_loop().run_in_executor(self._device_thread, advance, job)

        async with app.open_async():
            serving = asyncio.create_task(
                app.run_worker_async(
                    queues=[self.device_class],
                    name=f"{socket.gethostname()}-{os.getpid()}",
                    concurrency=1,
                    update_heartbeat_interval=HEARTBEAT_INTERVAL,
                    stalled_worker_timeout=STALLED_AFTER,
                    shutdown_graceful_timeout=SHUTDOWN_GRACE,
                    delete_jobs="successful",
                    install_signal_handlers=False,
                )
            )
            while not serving.done() and not self._stopping.is_set():
                await asyncio.wait([serving], timeout=0.2)
            if not serving.done():
                advance.give_up()
                serving.cancel()
            await asyncio.gather(serving, return_exceptions=self._stopping.is_set())

    def _announce(self) -> None:
        with self.database.session() as session:
            worker_store.announce(
                session,
                self.id,
                host=socket.gethostname(),
                pid=os.getpid(),
                device=self.device_class,
                fingerprint=self.evaluator.fingerprint,
                families={family: unavailable_reason(family, self.settings.data_dir) for family in FAMILIES},
            )
        log.info("announced", worker=str(self.id), device=self.device_class)

    def _say_goodbye(self) -> None:
        try:
            with self.database.session() as session:
                worker_store.stop(session, self.id)
        except DatabaseUnavailable as error:
            log.warning("could not say goodbye", reason=str(error))
        self.database.close()

    def _open_episodes(self, tasks: TaskFamily) -> Episodes:
        return open_task_family(tasks, self.settings.data_dir)

    def _give_up_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise WorkUnwanted
