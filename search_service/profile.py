"""Where the service is and with which key to ask it: told by options, the environment, a profile, or found locally.

A profile file holds the services that a person uses::

    default = "team"

    [team]
    url = "https://search.example.org"
    key = "lsk_..."

It is ``config.toml`` in the user's configuration folder for ``lambda-search``, or what LAMBDA_SEARCH_CONFIG names.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from search_service.domain.errors import LambdaSearchError

DEFAULT_URL = "http://127.0.0.1:8000"
KEY_FILE = "key"
"""In LAMBDA_SEARCH_HOME: the key that `lambda-search up` made for whoever runs it."""


class UnusableProfile(LambdaSearchError, ValueError):
    """The profile file cannot be read, or has no such profile."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where to ask, and with which key."""

    url: str
    key: str | None


def find_connection(url: str | None = None, key: str | None = None, profile: str | None = None) -> Connection:
    """What was said, or else the environment, a profile, and at last the service that runs on this machine.

    Args:
        url: as an option gave it.
        key: as an option gave it.
        profile: name of a profile; the file's ``default`` unless said here or in LAMBDA_SEARCH_PROFILE.

    Raises:
        UnusableProfile: the file cannot be read, or the profile asked for is not in it.
    """
    stored = _profile(profile or os.environ.get("LAMBDA_SEARCH_PROFILE") or None)
    url = url or os.environ.get("LAMBDA_SEARCH_URL") or stored.get("url") or DEFAULT_URL
    # A stored key belongs to its own service and is sent to no other.
    stored_key = stored.get("key") if url == stored.get("url", DEFAULT_URL) else None
    key = key or os.environ.get("LAMBDA_SEARCH_KEY") or stored_key
    if key is None and is_loopback(urlsplit(url).hostname or ""):
        key = read_local_key(local_key_file())
    return Connection(url, key)


def local_key_file() -> Path:
    """Where the local user's key is kept."""
    home = os.environ.get("LAMBDA_SEARCH_HOME") or platformdirs.user_data_path("lambda-search")
    return Path(home).expanduser().absolute() / KEY_FILE


def read_local_key(file: Path) -> str | None:
    """The local user's key, if there is one."""
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def config_file() -> Path:
    """The profile file."""
    named = os.environ.get("LAMBDA_SEARCH_CONFIG")
    return Path(named).expanduser() if named else platformdirs.user_config_path("lambda-search") / "config.toml"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _profile(name: str | None) -> dict[str, Any]:
    file = config_file()
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if name is not None:
            raise UnusableProfile(f"no profile '{name}': there is no {file}") from error
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnusableProfile(f"{file} cannot be read: {error}") from error
    name = name or document.get("default")
    if name is None:
        return {}
    found = document.get(name)
    if not isinstance(found, dict):
        known = ", ".join(sorted(key for key, value in document.items() if isinstance(value, dict))) or "none"
        raise UnusableProfile(f"no profile '{name}' in {file}; there is: {known}")
    return {key: str(value) for key, value in found.items()}
