"""The pictures that `lambda-search run` puts beside its document."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_service.cli import run


def test_both_stand_beside_the_document_and_are_named(
    tmp_path: Path, result_document: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "result.json"
    document.write_text(json.dumps(result_document()))
    pictures = run._draw(document, "--a <title>")
    assert pictures == [tmp_path / "result.png", tmp_path / "result.html"], capsys.readouterr().err
    assert pictures[0].read_bytes().startswith(b"\x89PNG")
    assert "<h1>--a &lt;title&gt;</h1>" in pictures[1].read_text()

    run._say_what_next(Path("spec.yaml"), document, pictures)
    said = capsys.readouterr().out
    for file in (document, *pictures):
        assert f"  {file}\n" in said


def test_pictures_that_fail_do_not_spoil_the_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = tmp_path / "result.json"
    document.write_text('{"search_id": 3}')
    assert run._draw(document, "") == []
    assert "no pictures: " in (said := capsys.readouterr().err)
    assert "is no result document" in said

    def slow(*arguments: Any, **options: Any) -> None:
        raise subprocess.TimeoutExpired("draw", options["timeout"])

    monkeypatch.setattr(subprocess, "run", slow)
    assert run._draw(document, "") == []
    assert "took longer" in capsys.readouterr().err


def test_without_pictures_none_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    run._say_what_next(Path("spec.yaml"), None, [])
    said = capsys.readouterr().out
    assert "lambda-search run spec.yaml --output result.json" in said
    assert "interactive" not in said
