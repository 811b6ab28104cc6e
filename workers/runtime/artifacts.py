"""Files that must last (training states, checkpoints), in a folder or any bucket that fsspec knows."""

from __future__ import annotations

import uuid
from contextlib import suppress

import fsspec


class Artifacts:
    """A place for files, named by paths relative to it.

    Args:
        url: a folder, or any fsspec URL, for example ``s3://bucket/lambda-search``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._root = fsspec.core.url_to_fs(url)

    def put(self, name: str, data: bytes) -> None:
        """Store ``data``; whoever reads ``name`` sees the old file or the new one, never a part."""
        path = self._path(name)
        part = f"{path}.{uuid.uuid4().hex}.part"
        self._files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        try:
            self._files.pipe_file(part, data)
            self._files.mv(part, path)
        except BaseException:
            with suppress(FileNotFoundError):
                self._files.rm_file(part)
            raise

    def get(self, name: str) -> bytes:
        """The bytes of ``name``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        data: bytes = self._files.cat_file(self._path(name))
        return data

    def remove(self, name: str) -> None:
        """Delete ``name`` if it is there."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"
