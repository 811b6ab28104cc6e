"""What the command line finds around it: settings, and which parts of the product are installed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from search_service.cli.processes import module_command, module_environment
from search_service.domain.errors import LambdaSearchError

if TYPE_CHECKING:
    from search_service.settings import Settings

EXTRAS = {"worker": "torch", "dashboard": "optuna_dashboard"}
"""Extras of the distribution, and a module that each one brings."""


class InvalidSettings(LambdaSearchError, ValueError):
    """Environment variables that cannot be what they are."""


class MissingExtra(LambdaSearchError):
    """A command needs packages that are not installed."""

    def __init__(self, extra: str) -> None:
        self.extra = extra
        super().__init__(f"this needs more packages: pip install 'lambda-search[{extra}]'")


def read_settings() -> Settings:
    """The settings that the environment gives.

    Raises:
        InvalidSettings: a variable has a value that it cannot have.
    """
    from pydantic import ValidationError

    from search_service.settings import ENV_PREFIX, Settings

    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"{ENV_PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}, not {e['input']!r}" for e in error.errors()]
        raise InvalidSettings("; ".join(wrong)) from error


def is_installed(extra: str) -> bool:
    """Whether an extra of the distribution is installed; imports none of it."""
    return find_spec(EXTRAS[extra]) is not None


def require(extra: str) -> None:
    """Refuse to go on without an extra.

    Raises:
        MissingExtra: it is not installed.
    """
    if not is_installed(extra):
        raise MissingExtra(extra)


def become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by a module of ours, so that signals and exit code are its own."""
    command = module_command(module, *arguments)
    os.execve(command[0], command, module_environment())
