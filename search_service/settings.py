"""Settings of every process, read from the environment when asked for and never at import time."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import AfterValidator, Field
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

ENV_PREFIX = "LAMBDA_SEARCH_"
SECRETS_DIR = Path("/run/secrets")
"""Where container runtimes put secrets: a setting in a file named like its variable, in small letters."""


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _default_home() -> Path:
    return platformdirs.user_data_path("lambda-search")


def _default_data_dir(settings: dict[str, Any]) -> Path:
    return Path(settings["home"]) / "datasets"


def _default_artifacts_url(settings: dict[str, Any]) -> str:
    return (Path(settings["home"]) / "artifacts").as_uri()


def _default_compile_cache(settings: dict[str, Any]) -> Path:
    return Path(settings["home"]) / "compiled"


def _default_lock_dir() -> Path:
    return Path(tempfile.gettempdir()) / f"lambda-search-{os.getuid()}"


Folder = Annotated[Path, AfterValidator(_absolute)]


class Settings(BaseSettings):
    """What a process is told from outside: ``LAMBDA_SEARCH_HOME``, ``LAMBDA_SEARCH_DATABASE_URL`` and so on."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, use_attribute_docstrings=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments go before the environment, that before files of secrets such as ``lambda_search_database_url``."""
        if not SECRETS_DIR.is_dir():
            return init_settings, env_settings
        return init_settings, env_settings, SecretsSettingsSource(settings_cls, secrets_dir=SECRETS_DIR)

    home: Folder = Field(default_factory=_default_home, validate_default=True)
    """Data folder: the embedded Postgres, datasets, artifacts and compiled programs, unless said otherwise."""
    database_url: str | None = Field(default=None, repr=False)
    """The Postgres that everything lasting is in, as ``postgresql://user:password@host/database``."""
    data_dir: Folder = Field(default_factory=_default_data_dir)
    """Where datasets are."""
    artifacts_url: str = Field(default_factory=_default_artifacts_url)
    """Where checkpoints and exported programs go: a ``file://`` folder or any bucket that fsspec knows."""
    lock_dir: Folder = Field(default_factory=_default_lock_dir)
    """Folder of the locks between workers of one host; all of them must see the same one."""
    compile_cache: Folder = Field(default_factory=_default_compile_cache)
    """Folder of compiled programs, kept from search to search; hosts may share one."""
    threads: int | None = Field(default=None, ge=1)
    """Threads that an evaluator on a CPU computes with; all cores unless said."""
    heartbeat_file: Folder | None = None
    """A file that a worker touches every few seconds, for a container's health check."""
    host: str = "127.0.0.1"
    """Address the API listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port the API listens on; 0 takes a free one."""
    allowed_hosts: list[str] = []
    """Names under which the API and the dashboard may be asked, beside localhost; `["*"]` allows any."""
    key: str | None = Field(default=None, repr=False)
    """The API key that the command line and the client send."""
    admin_key: str | None = Field(default=None, repr=False)
    """An admin's API key, chosen outside, that `lambda-search migrate` registers: the first key of a new service."""
    dashboard_url: str | None = None
    """Where people find the Optuna dashboard, for the link on the report pages; no link unless said."""
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Port on which a worker serves Prometheus metrics; none unless said."""
    max_running_searches: int = Field(default=4, ge=1)
    """Searches admitted at once per device class; the others wait as ``queued``."""
