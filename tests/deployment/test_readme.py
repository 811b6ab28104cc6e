"""What README tells people to type exists: make targets, subcommands, and a spec that would be accepted."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from search_service.storage import codec

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("make ")])
def test_make_targets_exist(line: str) -> None:
    target = line.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("lambda-search ")])
def test_subcommands_and_their_options_exist(line: str) -> None:
    from search_service.cli.app import app

    command: object = get_command(app)
    words = shlex.split(line)[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    assert not getattr(command, "commands", {}), f"'{line}' names no subcommand"
    known = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
    assert {word for word in words if word.startswith("--")} <= known


def test_the_spec_that_readme_posts_would_be_accepted() -> None:
    posted = re.search(r"--json '(\{.*?\n\})'", README, re.DOTALL)
    assert posted is not None
    assert codec.spec_from_json(json.loads(posted[1])).tasks.family == "glyphs"


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", README))
def test_links_lead_somewhere(target: str) -> None:
    if not target.startswith("http"):
        assert (ROOT / target).exists()
