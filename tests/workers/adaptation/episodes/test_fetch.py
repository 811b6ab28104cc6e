"""The download: whole or not at all, and plain about what went wrong."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from search_service.domain.errors import DatasetUnavailable
from workers.adaptation.episodes import unavailable_reason
from workers.adaptation.episodes.fetch import OMNIGLOT_MD5S, fetch_omniglot
from workers.adaptation.episodes.omniglot import load_omniglot

BACKGROUND, EVALUATION = OMNIGLOT_MD5S


def zipped(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


class Server:
    """An HTTP server on this machine; ``bodies`` by file name, ``cut_bytes`` are promised and not sent."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}
        self.cut_bytes = 0
        self.asked: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                body = server.bodies.get(self.path.rpartition("/")[2])
                if body is None:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) - server.cut_bytes])

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/python"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def md5s(self) -> dict[str, str]:
        return {name: hashlib.md5(body).hexdigest() for name, body in self.bodies.items()}


@pytest.fixture
def server(originals: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    for archive in OMNIGLOT_MD5S:
        folder = archive.removesuffix(".zip")
        # any order in the archive, and litter such as macOS leaves
        files = {name: data for name, data in reversed(originals.items()) if name.startswith(folder)}
        server.bodies[archive] = zipped({f"__MACOSX/{folder}/x/y/._z.png": b"litter", **files})
    yield server
    server.close()


def refused(data_dir: Path, url: str, md5s: dict[str, str]) -> str:
    """The reason why the fetch fails; nothing must remain of it."""
    before = sorted(data_dir.rglob("*"))
    with pytest.raises(DatasetUnavailable) as caught:
        fetch_omniglot(data_dir, url, md5s=md5s)
    assert sorted(data_dir.rglob("*")) == before
    return caught.value.reason


def test_a_fetched_dataset_is_usable(server: Server, tmp_path: Path, originals: dict[str, bytes]) -> None:
    data_dir = tmp_path / "not" / "there"
    told: list[tuple[str, int, int | None]] = []
    path = fetch_omniglot(data_dir, server.url, md5s=server.md5s, progress=lambda *news: told.append(news))
    assert path == data_dir / "omniglot28.npz"
    assert list(data_dir.iterdir()) == [path]
    assert unavailable_reason("omniglot", data_dir) is None
    sizes = {name: len(body) for name, body in server.bodies.items()}
    assert {(name, size, size) for name, size in sizes.items()} <= set(told)

    for name, data in originals.items():
        target = tmp_path / "unpacked" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    fetched, unpacked = load_omniglot(data_dir), load_omniglot(tmp_path / "unpacked")
    np.testing.assert_array_equal(fetched.images, unpacked.images)
    np.testing.assert_array_equal(fetched.class_names, unpacked.class_names)
    np.testing.assert_array_equal(fetched.split, unpacked.split)
    with np.load(path, allow_pickle=False) as arrays:
        assert json.loads(str(arrays["meta"]))["source"] == server.url


def test_a_usable_file_is_not_fetched_again(server: Server, small_dir: Path) -> None:
    before = (small_dir / "omniglot28.npz").read_bytes()
    assert fetch_omniglot(small_dir, server.url, md5s=server.md5s).read_bytes() == before
    assert server.asked == []


def test_a_corrupt_file_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "omniglot28.npz").write_bytes(b"half")
    fetch_omniglot(tmp_path, server.url, md5s=server.md5s)
    assert unavailable_reason("omniglot", tmp_path) is None


def test_another_content_than_expected(server: Server, tmp_path: Path) -> None:
    expected = server.md5s
    server.bodies[EVALUATION] += b"more"
    reason = refused(tmp_path, server.url, expected)
    assert f"{server.url}/{EVALUATION} has MD5" in reason
    assert "by hand" in reason


def test_an_archive_that_is_not_there(server: Server, tmp_path: Path) -> None:
    md5s = server.md5s
    del server.bodies[EVALUATION]
    reason = refused(tmp_path, server.url, md5s)
    assert f"{server.url}/{EVALUATION} answers 404" in reason
    assert str(tmp_path) in reason


def test_a_body_that_breaks_off(server: Server, tmp_path: Path) -> None:
    server.cut_bytes = 100
    reason = refused(tmp_path, server.url, server.md5s)
    assert f"{server.url}/{BACKGROUND} could not be downloaded" in reason


def test_nobody_answers(server: Server, tmp_path: Path) -> None:
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        reason = refused(tmp_path, url, server.md5s)
    assert f"{url}/{BACKGROUND} cannot be reached, there is no network to it" in reason
    assert "unpack both in" in reason


@pytest.mark.parametrize("url", ["not a url", "http://127.0.0.1:port", "ftp://127.0.0.1"])
def test_an_address_that_is_none(tmp_path: Path, url: str) -> None:
    assert "could not be downloaded" in refused(tmp_path, url, {BACKGROUND: ""})


@pytest.mark.parametrize(
    "name", ["../out.png", "images_background/../../out.png", "/out.png", "C:\\out.png", "a\\..\\b"]
)
def test_an_archive_that_points_outside(server: Server, tmp_path: Path, name: str) -> None:
    server.bodies[BACKGROUND] = zipped({name: b"out"})
    assert "is not to be trusted" in refused(tmp_path, server.url, server.md5s)


@pytest.mark.parametrize(
    ("body", "text"),
    [(b"no archive", "is not a whole zip archive"), (zipped({"README": b"hello"}), "there are no drawings")],
)
def test_an_archive_without_drawings(server: Server, tmp_path: Path, body: bytes, text: str) -> None:
    server.bodies = {BACKGROUND: body}
    assert text in refused(tmp_path, server.url, server.md5s)


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be stored in" in refused(tmp_path / "file" / "data", server.url, server.md5s)
