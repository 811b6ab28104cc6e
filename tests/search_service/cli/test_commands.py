"""The commands: what they accept, what they print, and how they end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from search_service.cli.spec_file import read_spec
from search_service.domain.search import Phase
from search_service.storage import searches
from search_service.storage.database import Database

Call = Callable[..., Any]

HEAVY = {"torch", "optuna", "workers", "sqlalchemy", "fastapi", "uvicorn", "alembic", "matplotlib", "numpy"}
COMMANDS = [
    *(
        "run",
        "up",
        "submit",
        "watch",
        "show",
        "trials",
        "result",
        "list",
        "events",
        "pause",
        "resume",
        "stop",
        "cancel",
        "priority",
    ),
    *("keys", "api", "worker", "dashboard", "migrate"),
]
NOBODY = "http://127.0.0.1:9"
"""Where nothing listens."""


@pytest.fixture
def spec_file(tmp_path: Path, spec: dict[str, Any]) -> Path:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file


@pytest.fixture
def failing(database: Database) -> Callable[[str], None]:
    def fail(search: str) -> None:
        with database.session() as session:
            searches.fail(session, searches.lock(session, UUID(search)), title="It broke", detail="out of memory")

    return fail


@pytest.fixture
def succeeding(database: Database, result_document: Callable[..., dict[str, Any]]) -> Callable[[str], None]:
    def succeed(search: str) -> None:
        with database.session() as session:
            row = searches.lock(session, UUID(search))
            searches.enter_phase(session, row, Phase.BASELINE)
            searches.succeed(session, row, result_document(search_id=search))

    return succeed


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["datasets", "fetch"], ["datasets", "list"]])
def test_every_command_has_help(call: Call, command: list[str]) -> None:
    ended = call(*command, "--help")
    assert ended.code == 0
    assert " ".join(["lambda-search", *command]) in ended.out


def test_importing_it_loads_nothing_heavy() -> None:
    script = f"import sys, search_service.cli; print(sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "search_service.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "lambda-search" in done.stdout


@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("tasks: [glyphs\nmodel: conv4", "line 2, column 6", "expected ',' or ']'"),
        ("seed: 1\nseed: 2", "line 2, column 1", "'seed' is given twice"),
        ("? [a]\n: b", "line 1, column 3", "unhashable key"),
        ("- a\n- b", "spec", "must be an object of named fields"),
        ("", "spec", "must be an object of named fields"),
        ("a: \x00", "YAML", "unacceptable character"),
        ("{}", "tasks", "is required"),
    ],
)
def test_a_file_that_is_no_spec(call: Call, tmp_path: Path, command: str, text: str, field: str, reason: str) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(text)
    ended = call(command, str(file))
    assert ended.code == 2
    assert ended.out == ""
    assert f"  {field}: " in ended.err
    assert reason in ended.err


@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"colour": "red"}, "colour", "unknown field"),
        ({"tasks": {"family": "glyphs", "shot": 1}}, "tasks.shot", "unknown field"),
        ({"tasks": {"family": "glyphs", "shots": 1000}}, "tasks.shots", "must be 1 to 100"),
        ({"max_degradation": -1}, "max_degradation", "must be a number above 0"),
        ({"max_degradation": float("nan")}, "max_degradation", "must be a number above 0"),
        ({"seed": "many"}, "seed", "must be a whole number"),
        ({"name": None}, "name", "must be text"),
    ],
)
def test_a_spec_that_cannot_be_run(
    call: Call, tmp_path: Path, spec: dict[str, Any], command: str, changes: dict[str, Any], field: str, reason: str
) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump({**spec, **changes}))
    ended = call(command, str(file))
    assert ended.code == 2
    assert f"  {field}: " in ended.err
    assert reason in ended.err
    assert "Traceback" not in ended.err


def test_every_wrong_field_is_named(call: Call, tmp_path: Path, spec: dict[str, Any]) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump({**spec, "colour": "red", "seed": "many", "model": {}}))
    ended = call("run", str(file))
    assert [line.split(":")[0].strip() for line in ended.err.splitlines()[1:]] == ["model.network", "seed", "colour"]


@pytest.mark.parametrize(
    ("place", "reason"), [("nothing.yaml", "No such file"), (".", "Is a directory"), ("latin.yaml", "not UTF-8")]
)
def test_a_file_that_cannot_be_read(call: Call, tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe4")
    ended = call("run", str(tmp_path / place))
    assert ended.code == 2
    assert reason in ended.err


def test_exponents_are_numbers_and_dates_are_text(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(
        """
        name: 2026-11-23
        tasks: {family: sinusoid}
        model: {network: mlp}
        meta_training: {outer_rate: 1e-3}
        max_degradation: 2E-1
        degradation_bound: 1
        """
    )
    document = read_spec(file)
    assert document["name"] == "2026-11-23"
    assert document["meta_training"]["outer_rate"] == 0.001
    assert document["max_degradation"] == 0.2


@pytest.mark.parametrize("output", ["no/such/folder/result.json", "result.png", "."])
def test_an_output_that_cannot_be_written_is_refused_at_once(
    call: Call, spec_file: Path, tmp_path: Path, output: str
) -> None:
    ended = call("run", str(spec_file), "--output", str(tmp_path / output))
    assert ended.code == 2
    assert "--output" in ended.err


@pytest.mark.parametrize("command", [["list"], ["watch", "x"], ["result", "x"], ["cancel", "x"]])
def test_nobody_is_there(call: Call, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search_service.client.FIRST_PAUSE", 0.0)
    monkeypatch.setenv("LAMBDA_SEARCH_URL", NOBODY)
    ended = call(*command)
    assert ended.code == 1
    assert f"no Lambda Search answers at {NOBODY}" in ended.err
    assert "lambda-search up" in ended.err


def test_submit_list_cancel(call: Call, service: str, spec_file: Path) -> None:
    assert call("list", "--url", service).out == "no searches\n"
    submitted = call("submit", str(spec_file), "--url", service)
    assert submitted.code == 0
    search = submitted.out.strip()
    listed = call("list", "--url", service)
    assert search in listed.out
    assert "running" in listed.out
    assert [view["id"] for view in json.loads(call("list", "--json", "--url", service).out)] == [search]
    assert json.loads(call("list", "--json", "--status", "failed", "--url", service).out) == []
    assert call("cancel", search, "--url", service).out == f"{search} cancelled\n"
    watched = call("watch", search, "--url", service)
    assert watched.code == 1
    assert "was cancelled" in watched.err


def test_a_spec_from_standard_input(
    call: Call, service: str, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(spec)))
    ended = call("submit", "-", "--json", "--url", service)
    assert ended.code == 0
    assert json.loads(ended.out)["status"] == "running"


def test_a_spec_that_the_service_refuses(call: Call, service: str, tmp_path: Path, spec: dict[str, Any]) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump({**spec, "tasks": {"family": "omniglot"}}))
    ended = call("submit", str(file), "--url", service)
    assert ended.code == 2
    assert "  tasks.family: the 'cpu' worker on " in ended.err
    assert "cannot draw omniglot" in ended.err


def test_a_failed_search(call: Call, service: str, spec_file: Path, failing: Callable[[str], None]) -> None:
    search = call("submit", str(spec_file), "--url", service).out.strip()
    failing(search)
    for command in ("watch", "result"):
        ended = call(command, search, "--url", service)
        assert ended.code == 1
        assert ended.out == ""
        assert "during meta_training" in ended.err
        assert "out of memory" in ended.err


def test_a_result(call: Call, service: str, spec_file: Path, tmp_path: Path, succeeding: Callable[[str], None]) -> None:
    search = call("submit", str(spec_file), "--url", service).out.strip()
    ended = call("result", search, "--url", service)
    assert ended.code == 1
    assert "has no result yet" in ended.err
    succeeding(search)
    output = tmp_path / "result.json"
    shown = call("result", search, "--url", service, "--output", str(output))
    assert shown.code == 0
    assert "00111@2" in shown.out
    document = json.loads(call("result", search, "--json", "--url", service).out)
    assert document == json.loads(output.read_text())
    watched = call("watch", search, "--json", "--url", service)
    assert json.loads(watched.out) == document
    assert "succeeded" in watched.err


def test_another_threshold(call: Call, service: str, spec_file: Path, succeeding: Callable[[str], None]) -> None:
    search = call("submit", str(spec_file), "--url", service).out.strip()
    assert "has no result yet" in call("answer", search, "--max-degradation", "0.01", "--url", service).err
    succeeding(search)
    known = call("answer", search, "--max-degradation", "0.009", "--url", service)
    assert known.code == 0
    assert "00111@2 loses at most 0.008, 0.009 was allowed" in known.out
    unknown = call("answer", search, "--max-degradation", "0.5", "--url", service)
    assert "needs evaluation" in unknown.out
    assert "Another search takes about" in unknown.out
    assert (
        json.loads(call("answer", search, "--max-degradation", "0.5", "--json", "--url", service).out)["answer"] is None
    )
    refused = call("answer", search, "--max-degradation", "-1", "--url", service)
    assert refused.code != 0
    assert "max_degradation" in refused.err


def test_no_such_search(call: Call, service: str) -> None:
    ended = call("result", "nonsense", "--url", service)
    assert ended.code == 1
    assert "no search is called 'nonsense'" in ended.err


def test_migrate(call: Call, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("migrate").code == 1
    monkeypatch.setenv("LAMBDA_SEARCH_DATABASE_URL", empty_database_url)
    for _ in range(2):
        ended = call("migrate")
        assert ended.code == 0
        assert "up to date" in ended.out


def test_api_without_a_database(call: Call) -> None:
    ended = call("api")
    assert ended.code == 1
    assert "LAMBDA_SEARCH_DATABASE_URL" in ended.err


def test_settings_that_cannot_be(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_SEARCH_PORT", "many")
    ended = call("api")
    assert ended.code == 1
    assert "LAMBDA_SEARCH_PORT" in ended.err
    assert "'many'" in ended.err


def test_datasets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "search_service.cli", "datasets"]
    listed = subprocess.run([*command, "list", "--data-dir", str(tmp_path)], capture_output=True, text=True, check=True)
    lines = {line.split()[0]: line for line in listed.stdout.splitlines()}
    assert set(lines) == {"glyphs", "omniglot", "sinusoid"}
    assert "ready" in lines["glyphs"]
    assert "datasets fetch omniglot" in lines["omniglot"]
    told = subprocess.run([*command, "list", "--data-dir", str(tmp_path), "--json"], capture_output=True, check=True)
    assert {family: reason is None for family, reason in json.loads(told.stdout).items()} == {
        "glyphs": True,
        "omniglot": False,
        "sinusoid": True,
    }
    unknown = subprocess.run([*command, "fetch", "imagenet"], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "imagenet" in unknown.stderr


def test_a_fetch_that_fails_says_why(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "workers.adaptation.episodes", "fetch", "omniglot"]
    arguments = ["--data-dir", str(tmp_path), "--base-url", NOBODY]
    done = subprocess.run([*module, *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no network" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
