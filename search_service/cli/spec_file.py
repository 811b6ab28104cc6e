"""A search spec from a file: YAML, or JSON, which is YAML too."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from search_service.cli.exits import BadSpec
from search_service.domain.errors import FieldProblem, UnreadableSpec

STDIN = Path("-")


class _Loader(yaml.SafeLoader):
    """YAML with the values that JSON has: no dates, numbers with an exponent are numbers, no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+"), list("-+0123456789")
)


def read_spec(file: Path) -> dict[str, Any]:
    """Read a spec and check it as the service will.

    Args:
        file: where it is; ``-`` for standard input.

    Raises:
        BadSpec: it cannot be read, is no YAML, or has fields that are missing, unknown or wrong.
    """
    from search_service.storage.codec import spec_from_json

    document = _load(file)
    try:
        spec_from_json(document)
    except UnreadableSpec as error:
        raise BadSpec(str(file), error.problems) from error
    spec: dict[str, Any] = document
    return spec


def _load(file: Path) -> Any:
    try:
        text = sys.stdin.read() if file == STDIN else file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadSpec(str(file), [FieldProblem("file", error.strerror or str(error))]) from error
    except UnicodeDecodeError as error:
        raise BadSpec(str(file), [FieldProblem("file", f"is not UTF-8 text ({error.reason})")]) from error
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "YAML" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        raise BadSpec(str(file), [FieldProblem(place, error.problem or "is not YAML")]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadSpec(str(file), [FieldProblem("YAML", str(error).splitlines()[0])]) from error
