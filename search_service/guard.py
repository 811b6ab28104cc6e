"""What every process that answers HTTP asks first: is it meant, who asks, and does one of its own pages ask.

The API with its report pages, and the dashboard, are two processes behind the same keys. A browser that signed in on
the report is signed in on the dashboard too where both go by the same name: cookies know no ports.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.requests import Request

from search_service.domain.errors import Forbidden
from search_service.storage import keys
from search_service.storage.database import Database
from search_service.storage.tables import ApiKeyRow

COOKIE = "lambda_search_session"
READING_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
ANY_HOST = "*"


def find_key(database: Database, secret: str | None, session_secret: str | None) -> ApiKeyRow | None:
    """The key that a request was sent with, if it is in force.

    Args:
        database: where the keys are.
        secret: the key itself; it goes before a session.
        session_secret: the secret of a browser's session on a key.
    """
    if secret is None and session_secret is None:
        return None
    with database.reading() as session:
        if secret is not None:
            return keys.find(session, secret)
        return keys.of_session(session, session_secret or "")


def is_meant(request: Request, names: Iterable[str]) -> bool:
    """Whether the Host header names this service. A foreign page may point a name of its own at this address.

    Args:
        request: with one Host header, if it is a sane one.
        names: what it goes by beside the names of this machine for itself, without ports; ``*`` for any.
    """
    allowed = LOCAL_HOSTS | {bracketed(name.lower()) for name in names}
    hosts = request.headers.getlist("host")
    return ANY_HOST in allowed or (len(hosts) == 1 and _without_port(hosts[0]) in allowed)


def check_same_origin(request: Request) -> None:
    """Refuse what a foreign page makes a signed-in browser send.

    Raises:
        Forbidden: the request changes something and does not come from a page of this service.
    """
    if request.method in READING_METHODS:
        return
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    is_own = _host_of(origin) == request.headers.get("host") if origin else site in ("same-origin", "none")
    if not is_own or site in ("cross-site", "same-site"):
        raise Forbidden("a signed-in browser may change things from this service's own pages only")


def bracketed(host: str) -> str:
    """A host as URLs and Host headers write it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # browsers send no such thing
        return None


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return (name if colon and (not port or port.isdigit()) else host).lower()
