"""Checks of what is on disk or in a bucket: settings, artifacts, data folder, caches, locks, free space."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import uuid4

from search_service.cli.diagnosis.finding import Finding, failure, ok, warning
from search_service.settings import ENV_PREFIX, Settings

OTHER_VARIABLES = frozenset({"URL", "PROFILE", "CONFIG", "BIND", "SECRETS_DIR"})
"""Variables with our prefix that are no settings: of the client, and of the compose file."""
LITTLE_SPACE = 5 * 2**30  # bytes; a GPU's packages, checkpoints and compiled programs take a few GiB
NO_SPACE = 256 * 2**20  # bytes
GIB = 2**30  # bytes


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Which settings were given, and whether any name is misspelt."""
    given = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
    known = {f"{ENV_PREFIX}{name.upper()}" for name in {*type(settings).model_fields, *OTHER_VARIABLES}}
    unknown = [name for name in given if name not in known]
    found = f"home {settings.home}; set: {', '.join(given) or 'nothing'}"
    if unknown:
        yield warning("settings", f"there is no setting {', '.join(unknown)}", "correct the name, or unset it")
    else:
        yield ok("settings", found)


def check_artifacts(settings: Settings) -> Iterator[Finding]:
    """Whether a small object can be written, read and deleted where checkpoints go."""
    url = settings.artifacts_url
    shown = _without_secrets(url)
    to_do = "correct LAMBDA_SEARCH_ARTIFACTS_URL or its permissions; API, workers and this command must share it"
    if find_spec("fsspec") is None:
        yield ok("artifacts", f"{shown}: not tried, fsspec comes with 'lambda-search[worker]'")
        return
    folder = _folder_of(url)
    if folder is not None and not folder.exists():
        yield _folder("artifacts", folder, to_do)
        return
    import fsspec

    started = time.monotonic()
    data = uuid4().bytes
    try:
        files, root = fsspec.core.url_to_fs(url)
        name = f"{root.rstrip('/')}/doctor-{uuid4().hex}"
        files.makedirs(root, exist_ok=True)
        files.pipe_file(name, data)
        try:
            same = files.cat_file(name) == data
        finally:
            files.rm_file(name)
    except ImportError as error:
        yield failure("artifacts", f"{shown}: {error}", "install what fsspec needs for this kind of URL")
    except Exception as error:  # each kind of storage has errors of its own
        yield failure("artifacts", f"{shown}: {type(error).__name__}: {error}", to_do)
    else:
        took = f"written, read and deleted in {time.monotonic() - started:.2f} s"
        yield ok("artifacts", f"{shown}: {took}") if same else failure("artifacts", f"{shown}: reads other data", to_do)


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Whether the folders of compiled programs and of locks can be written, and what is free on their disks."""
    yield _folder("compile cache", settings.compile_cache, "correct LAMBDA_SEARCH_COMPILE_CACHE or its permissions")
    yield _folder("locks", settings.lock_dir, "correct LAMBDA_SEARCH_LOCK_DIR or its permissions")
    artifacts = _folder_of(settings.artifacts_url)
    folders = [settings.home, settings.data_dir, settings.compile_cache, *([artifacts] if artifacts else [])]
    yield from _free_space(folders)


def _folder(check: str, folder: Path, to_do: str) -> Finding:
    """Whether a folder can be written, or made; makes none."""
    place = _existing(folder)
    if place != folder:
        if os.access(place, os.W_OK | os.X_OK):
            return ok(check, f"{folder} is not there yet and can be made")
        return failure(check, f"{folder} is not there, and {place} cannot be written", to_do)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ok(check, f"{folder} can be written")
    except OSError as error:
        return failure(check, f"{folder} cannot be written: {error.strerror}", to_do)


def _free_space(folders: list[Path]) -> Iterator[Finding]:
    seen: set[int] = set()
    for folder in folders:
        place = _existing(folder)
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        found = f"{free / GIB:.1f} GiB free at {place}"
        to_do = "free some space, or move LAMBDA_SEARCH_HOME to a larger disk"
        if free < NO_SPACE:
            yield failure("disk", found, to_do)
        elif free < LITTLE_SPACE:
            yield warning("disk", found, to_do)
        else:
            yield ok("disk", found)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((place for place in (folder, *folder.parents) if place.exists()), Path("/"))


def _folder_of(url: str) -> Path | None:
    """The folder that a URL of artifacts is; None where it is a bucket."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if parts.scheme else Path(url).absolute()


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
