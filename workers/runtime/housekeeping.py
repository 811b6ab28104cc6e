"""What a worker does beside its device: says that it lives, reaps, and mirrors finished judgements into Optuna."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

import structlog
from sqlalchemy.exc import DBAPIError

from search_service import logs
from search_service.domain.errors import DatabaseUnavailable
from search_service.settings import Settings
from search_service.storage import workers as worker_store
from search_service.storage.database import Database
from workers.runtime import metrics
from workers.runtime.case import OpenEpisodes
from workers.runtime.host_locks import TimingLock
from workers.runtime.reaper import REAP_INTERVAL, reap

if TYPE_CHECKING:
    from workers.search.study_storage import StudyStorage

MIRROR_INTERVAL = 2.0  # seconds between looks for trials that the study does not show

log = structlog.get_logger(__name__)


class Housekeeping:
    """Two daemon threads, so that a slow mirror never delays the reaper."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        worker_id: UUID,
        stopping: threading.Event,
        open_episodes: OpenEpisodes,
    ) -> None:
        self._database = database
        self._settings = settings
        self._worker_id = worker_id
        self._stopping = stopping
        self._open_episodes = open_episodes
        self._timing_lock = TimingLock(settings.lock_dir)
        self._storage: StudyStorage | None = None
        self._threads = [
            threading.Thread(target=self._every, args=(REAP_INTERVAL, self._reap), name="reaper", daemon=True),
            threading.Thread(target=self._every, args=(MIRROR_INTERVAL, self._mirror), name="mirror", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until both have ended, after ``stopping`` was set."""
        for thread in self._threads:
            thread.join()
        self._close_storage()

    def _every(self, interval_s: float, action: Callable[[], None]) -> None:
        while not self._stopping.wait(interval_s):
            try:
                action()
            except (DatabaseUnavailable, DBAPIError) as error:
                log.warning("housekeeping skipped", action=threading.current_thread().name, reason=str(error))
            except Exception:  # a fault here must not end the thread: nobody else would reap
                log.exception("housekeeping failed", action=threading.current_thread().name)

    def _reap(self) -> None:
        if self._settings.heartbeat_file is not None:
            self._settings.heartbeat_file.touch()
        with self._database.session() as session:
            worker_store.seen(session, self._worker_id)
        metrics.reaped(reap(self._database, self._settings.max_running_searches, self._open_episodes))

    def _mirror(self) -> None:
        from workers.search.study import mirror
        from workers.search.study_storage import open_study_storage

        if self._storage is None:
            logs.adopt("optuna")
            self._storage = open_study_storage(self._database)
        try:
            while not self._stopping.is_set() and not self._timing_lock.someone_measures():
                mirrored = mirror(self._database, self._storage, tell_lag=metrics.mirror_lag)
                if mirrored is None:
                    metrics.mirror_lag(None)  # the process that mirrors knows
                if not mirrored:
                    return
        except Exception:
            self._close_storage()
            raise

    def _close_storage(self) -> None:
        if self._storage is not None:
            self._storage.engine.dispose()
            self._storage = None
