"""One suite over both kinds of places: a folder and a bucket."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from workers.runtime.artifacts import Artifacts

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(params=["folder", "folder/", "file://", "memory://"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "folder":
            return str(tmp_path / "not yet there")
        case "folder/":
            return f"{tmp_path}/"
        case "file://":
            return f"file://{tmp_path}/below"
        case _:
            return f"memory://{uuid.uuid4().hex}/lambda-search"


@pytest.fixture
def artifacts(url: str) -> Artifacts:
    return Artifacts(url)


def files(artifacts: Artifacts) -> set[str]:
    """Names of all files in the place, relative to it."""
    filesystem, root = fsspec.core.url_to_fs(artifacts.url)
    root = root.rstrip("/")
    return {path[len(root) + 1 :] for path in filesystem.find(root)} if filesystem.exists(root) else set()


def test_what_is_put_can_be_got(artifacts: Artifacts) -> None:
    data = bytes(range(256)) * 400
    artifacts.put("trainings/ab/1.safetensors", data)
    artifacts.put("top", b"")
    assert artifacts.get("trainings/ab/1.safetensors") == data
    assert artifacts.get("top") == b""
    assert files(artifacts) == {"trainings/ab/1.safetensors", "top"}


def test_another_process_sees_it(artifacts: Artifacts) -> None:
    artifacts.put("a/b", b"one")
    assert Artifacts(artifacts.url).get("a/b") == b"one"


def test_a_file_is_replaced_whole(artifacts: Artifacts) -> None:
    for data in (b"long" * 1000, b"short", b"x" * 5000):
        artifacts.put("a/b", data)
        assert artifacts.get("a/b") == data
        assert files(artifacts) == {"a/b"}


def test_what_is_missing_is_missing(artifacts: Artifacts) -> None:
    with pytest.raises(FileNotFoundError):
        artifacts.get("nothing/here")
    artifacts.put("a/b", b"one")
    with pytest.raises(FileNotFoundError):
        artifacts.get("a/c")


def test_what_is_removed_is_gone_and_may_be_removed_again(artifacts: Artifacts) -> None:
    artifacts.put("a/b", b"one")
    artifacts.put("a/c", b"two")
    artifacts.remove("a/b")
    artifacts.remove("a/b")
    artifacts.remove("never/was")
    with pytest.raises(FileNotFoundError):
        artifacts.get("a/b")
    assert files(artifacts) == {"a/c"}


@pytest.mark.parametrize("step", ["pipe_file", "mv"])
def test_a_put_that_fails_leaves_the_old_file_and_no_part(
    artifacts: Artifacts, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.put("a/b", b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(artifacts._files, step, full)
        with pytest.raises(OSError, match="no space left"):
            artifacts.put("a/b", b"new")
    assert artifacts.get("a/b") == b"old"
    assert files(artifacts) == {"a/b"}


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    artifacts = Artifacts(str(tmp_path))
    versions = [bytes([value]) * 200_000 for value in range(4)]
    artifacts.put("a", versions[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for data in versions:
                artifacts.put("a", data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert all(artifacts.get("a") in versions for _ in range(150))
    finally:
        stop.set()
        writer.join()
    assert files(artifacts) == {"a"}
