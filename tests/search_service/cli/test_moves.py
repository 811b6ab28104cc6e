"""Commands that move searches, follow them, and make keys, against a real API."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from search_service.domain.trial import TrialState
from search_service.storage import trials
from search_service.storage.database import Database
from tests.search_service.cli.conftest import Call


@pytest.fixture(autouse=True)
def at(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_SEARCH_URL", service)


@pytest.fixture
def submitted(call: Call, spec: dict[str, Any], tmp_path: Path) -> str:
    file = tmp_path / "spec.yaml"
    file.write_text(yaml.safe_dump(spec))
    return call("submit", str(file)).out.strip()


def test_a_search_is_moved_about(call: Call, submitted: str) -> None:
    assert call("priority", submitted, "7").out == f"{submitted} priority 7\n"
    assert call("pause", submitted).out == f"{submitted} paused\n"
    assert call("resume", submitted).out == f"{submitted} running\n"
    assert call("stop", submitted).out == f"{submitted} cancelled\n"  # it knew nothing yet
    refused = call("pause", submitted)
    assert refused.code == 1
    assert "is cancelled and cannot become paused" in refused.err


@pytest.mark.parametrize("command", ["pause", "resume", "stop", "cancel", "priority", "show"])
def test_programs_are_told_the_search(call: Call, submitted: str, command: str) -> None:
    arguments = ["7"] if command == "priority" else []
    view = json.loads(call(command, submitted, *arguments, "--json").out)
    assert view["id"] == submitted
    assert view["status"] == {"pause": "paused", "stop": "cancelled", "cancel": "cancelled"}.get(command, "running")


def test_a_search_is_shown_as_it_stands(call: Call, submitted: str, database: Database) -> None:
    text = call("show", submitted).out
    assert "running" in text
    assert "meta-training" in text
    assert call("trials", submitted).out == "no candidates\n"
    with database.session() as session:
        new = [trials.NewTrial(f"{row:05b}", "group", row * 0.001) for row in range(1, 4)]
        trials.add_many(session, UUID(submitted), new)
        dropped, survived, _ = trials.of_search(session, UUID(submitted))
        dropped.state, dropped.degradation = TrialState.DROPPED, 0.2
        survived.state, survived.degradation, survived.latency_s, survived.speedup = "survived", 0.004, 0.0018, 6.5
    text = call("show", submitted).out
    assert "best so far 00010: speedup 6.5x, degradation +0.0040 on validation classes" in text
    assert "front so far" in text
    rows = {line.split()[1]: line.split() for line in call("trials", submitted).out.splitlines() if "00" in line}
    assert rows["00001"][2:4] == ["dropped", "~1"]
    assert rows["00010"][2:5] == ["survived", "1.8", "6.50x"]
    told = json.loads(call("trials", submitted, "--state", "dropped", "--json").out)
    assert [trial["candidate"] for trial in told] == ["00001"]


def test_events_are_followed_to_the_end(call: Call, submitted: str) -> None:
    call("pause", submitted)
    call("cancel", submitted)
    ended = call("events", submitted)
    assert ended.code == 0
    assert [line.split()[2] for line in ended.out.splitlines()] == [
        "submitted",
        "started",
        "phase",
        "paused",
        "cancelled",
    ]
    told = [json.loads(line) for line in call("events", submitted, "--json").out.splitlines()]
    numbered = [event for event in told if event["no"] is not None]
    later = call("events", submitted, "--after", str(numbered[-2]["no"]))
    assert later.out.split()[2] == "cancelled"


def test_keys_are_made_listed_and_revoked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(call("keys", "create", "nightly", "--scope", "read", "--expires", "2100-01-01", "--json").out)
    assert made["expires_at"].startswith("2100-01-01T00:00:00")
    listed = call("keys", "list")
    assert "nightly" in listed.out
    assert made["key"] not in listed.out
    admin = os.environ["LAMBDA_SEARCH_KEY"]
    monkeypatch.setenv("LAMBDA_SEARCH_KEY", made["key"])
    assert call("list").code == 0
    assert "scope 'read', this needs 'admin'" in call("keys", "list").err
    monkeypatch.setenv("LAMBDA_SEARCH_KEY", admin)
    assert call("keys", "revoke", made["id"]).out == f"{made['id']} revoked\n"
    monkeypatch.setenv("LAMBDA_SEARCH_KEY", made["key"])
    refused = call("list")
    assert refused.code == 1
    assert "An API key is needed" in refused.err


def test_without_a_key_it_says_what_is_missing(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAMBDA_SEARCH_KEY")
    refused = call("list")
    assert refused.code == 1
    assert "An API key is needed" in refused.err
