"""The files that deployment is made of, parsed once."""

from __future__ import annotations

import io
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Stage:
    """One `FROM base AS name` of a Dockerfile and the instructions below it."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def values(self, instruction: str) -> list[str]:
        return [value for name, value in self.instructions if name == instruction]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def stages() -> dict[str, Stage]:
    parser = DockerfileParser(fileobj=io.BytesIO((REPOSITORY / "Dockerfile").read_bytes()), env_replace=False)
    found: dict[str, Stage] = {}
    for step in parser.structure:
        instruction, value = step["instruction"], step["value"]
        if instruction == "FROM":
            base, _, name = value.partition(" AS ")
            found[name] = Stage(name, base, ())
        elif found and instruction != "COMMENT":
            last = found[next(reversed(found))]
            found[last.name] = Stage(last.name, last.base, (*last.instructions, (instruction, value)))
    return found
