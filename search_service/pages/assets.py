"""What pages load beside their HTML: our styles and scripts, and those of Plotly and Swagger UI.

All of it comes from this machine, under addresses that name the content, so that a browser keeps what it has. Plotly
and Swagger UI are JavaScript that two Python distributions carry; their files are read, nothing of theirs is imported.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution, version
from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path

PREFIX = "/static"
OWN = files("search_service.pages").joinpath("static")
FOREIGN = {
    "plotly.min.js": ("plotly", "plotly/package_data/plotly.min.js"),
    "swagger-ui-bundle.js": ("swagger-ui-py", "swagger_ui/static/swagger-ui-bundle.js"),
    "swagger-ui.css": ("swagger-ui-py", "swagger_ui/static/swagger-ui.css"),
}
"""Name of a file -> the distribution that carries it, and where."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    media_type: str
    plain: bytes
    compressed: bytes


@cache
def load(name: str) -> Asset:
    """A file by its name.

    Raises:
        FileNotFoundError: there is none.
    """
    body = _own().get(name)
    if body is None:
        body = _foreign(name)
    media_type = guess_type(name)[0] or "application/octet-stream"
    text = media_type.startswith("text/") or media_type in ("image/svg+xml", "application/javascript")
    return Asset(f"{media_type}; charset=utf-8" if text else media_type, body, gzip.compress(body, 6, mtime=0))


def address(name: str) -> str:
    """Where a file is."""
    return f"{PREFIX}/{digest()}/{name}"


@cache
def digest() -> str:
    """Names the content of all files: ours by what stands in them, the others by their versions."""
    seen = hashlib.sha256()
    for name, body in sorted(_own().items()):
        seen.update(name.encode() + b"\0" + hashlib.sha256(body).digest())
    for carrier in sorted({carrier for carrier, _ in FOREIGN.values()}):
        seen.update(f"{carrier} {version(carrier)}".encode())
    return seen.hexdigest()[:16]


@cache
def _own() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in OWN.iterdir() if file.is_file()}


def _foreign(name: str) -> bytes:
    if name not in FOREIGN:
        raise FileNotFoundError(name)
    carrier, place = FOREIGN[name]
    return Path(str(distribution(carrier).locate_file(place))).read_bytes()
