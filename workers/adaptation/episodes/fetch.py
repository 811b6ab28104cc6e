"""Download Omniglot and convert it once: the only thing here that writes to the data directory."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import httpx
import numpy as np

from search_service.domain.errors import DatasetUnavailable
from workers.adaptation.episodes.omniglot import OMNIGLOT_FILE, omniglot_unavailable
from workers.adaptation.episodes.omniglot_drawings import CHARACTERS, OmniglotDrawings, read_drawings

OMNIGLOT_BASE_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
OMNIGLOT_MD5S: Mapping[str, str] = {
    "images_background.zip": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation.zip": "6b91aef0f799c5bb55b94e3f2daec811",
}
TIMEOUT_S = 30.0  # of connecting, and of each silence between two pieces
PIECE_SIZE_BYTES = 1 << 16

Progress = Callable[[str, int, int | None], None]
"""Called with the archive's name, the bytes received so far and the bytes in all, if the server says."""


def fetch_omniglot(
    data_dir: Path,
    base_url: str = OMNIGLOT_BASE_URL,
    *,
    md5s: Mapping[str, str] = OMNIGLOT_MD5S,
    progress: Progress | None = None,
) -> Path:
    """Download the originals, check them and write `omniglot28.npz`, unless a usable one is there.

    The file appears whole or not at all; what was downloaded is removed either way.

    Args:
        data_dir: made if it does not exist.
        base_url: the folder that has the archives.
        md5s: the archives' names and MD5 sums, in the order in which they are read.
        progress: told how far a download is.

    Returns:
        Path of the file.

    Raises:
        DatasetUnavailable: no network, a wrong answer, a damaged or unsafe archive, or no room; says what to do.
    """
    target = data_dir / OMNIGLOT_FILE
    if target.is_file() and omniglot_unavailable(data_dir) is None:
        return target
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".omniglot-") as folder:
            archives = []
            for name, md5 in md5s.items():
                archive = Path(folder) / name
                _download(f"{base_url.rstrip('/')}/{name}", archive, md5, data_dir, progress)
                archives.append(archive)
            drawings = read_drawings(_archived_files(archives))
            finished = Path(folder) / OMNIGLOT_FILE
            _write(drawings, finished, base_url)
            os.replace(finished, target)
    except OSError as error:
        raise DatasetUnavailable("omniglot", f"it cannot be stored in {data_dir} ({error})") from error
    return target


def _download(url: str, archive: Path, md5: str, data_dir: Path, progress: Progress | None) -> None:
    by_hand = (
        f"fetch {' and '.join(OMNIGLOT_MD5S)} from {OMNIGLOT_BASE_URL} on a machine with a network, "
        f"and unpack both in {data_dir}"
    )
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    try:
        with (
            httpx.stream("GET", url, follow_redirects=True, timeout=TIMEOUT_S) as response,
            archive.open("wb") as file,
        ):
            response.raise_for_status()
            length = response.headers.get("content-length", "")
            total = int(length) if length.isdecimal() else None
            for piece in response.iter_bytes(PIECE_SIZE_BYTES):
                file.write(piece)
                digest.update(piece)
                received += len(piece)
                if progress is not None:
                    progress(archive.name, received, total)
    except httpx.HTTPStatusError as error:
        reason = f"{url} answers {error.response.status_code} {error.response.reason_phrase}; by hand: {by_hand}"
        raise DatasetUnavailable("omniglot", reason) from error
    except httpx.ConnectError as error:
        reason = f"{url} cannot be reached, there is no network to it ({error}); by hand: {by_hand}"
        raise DatasetUnavailable("omniglot", reason) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"{url} could not be downloaded ({error or type(error).__name__}); try again, or by hand: {by_hand}"
        raise DatasetUnavailable("omniglot", reason) from error
    if digest.hexdigest() != md5:
        reason = f"{url} has MD5 {digest.hexdigest()}, not {md5}: damaged or changed; try again, or by hand: {by_hand}"
        raise DatasetUnavailable("omniglot", reason)


def _archived_files(archives: list[Path]) -> Iterator[tuple[str, bytes]]:
    """The drawings in the archives, in the order of their characters' names. Nothing is unpacked to disk."""
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                for name in names:
                    _refuse_outside(path.name, name)
                drawings = [name for name in names if _is_drawing(name, path.stem)]
                for name in sorted(drawings, key=lambda name: name.rpartition("/")[::2]):
                    yield name, archive.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise DatasetUnavailable("omniglot", f"{path.name} is not a whole zip archive ({error})") from error


def _refuse_outside(archive: str, name: str) -> None:
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.anchor or ".." in windows.parts:
        raise DatasetUnavailable("omniglot", f"{archive} is not to be trusted: it names '{name}', outside its folder")


def _is_drawing(name: str, folder: str) -> bool:
    parts = PurePosixPath(name).parts
    return len(parts) == 4 and parts[0] == folder and name.endswith(".png")


def _write(drawings: OmniglotDrawings, path: Path, base_url: str) -> None:
    complete = len(drawings.class_names) == CHARACTERS
    split = "Vinyals 2016 (torchmeta assets)" if complete else "a part of the set, in the proportions of Vinyals 2016"
    meta = {
        "dataset": "omniglot",
        "source": base_url,
        "licence": "MIT (c) 2015 Brenden Lake, brendenlake/omniglot LICENSE",
        "polarity": "0 = ink, 255 = paper",
        "split": split,
    }
    np.savez_compressed(
        path,
        images=drawings.images,
        class_names=drawings.class_names,
        split=drawings.split,
        meta=np.array(json.dumps(meta)),
    )
