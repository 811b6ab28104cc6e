"""What an operator sees of a search: log lines that name it in every process, and figures that add up."""

from __future__ import annotations

import json
import socket
import urllib.request
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from search_service.domain.trial import TrialState
from search_service.storage import trials
from tests.system.conftest import Stack, small_spec

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]


def test_logs_and_metrics_tell_of_a_search(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("LAMBDA_SEARCH_METRICS_PORT", str(port))
    worker = stack.start_worker()
    search = stack.submit(small_spec())
    stack.wait_for(search)

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        samples: list[Any] = [
            sample for family in text_string_to_metric_families(answer.read().decode()) for sample in family.samples
        ]
    assert worker.stop() == 0
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert not [line for line in lines if line["level"] in ("error", "critical")]
    of_search = [line for line in lines if line.get("search") == str(search)]
    done = [line for line in of_search if line["event"] == "step done"]
    computed = [line for line in of_search if line["event"] == "computed"]
    assert {line["process"] for line in done} == {"worker"}
    assert {line["process"] for line in computed} == {"evaluator"}
    steps = {(line["phase"], line["token"], line["step"]) for line in done}
    assert {(line["phase"], line["token"], line["step"]) for line in computed} <= steps
    assert any(line["trials"] for line in done if line["phase"] == "search")

    def total(name: str, **labels: str) -> float:
        return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())

    assert total("lambda_search_steps_total", outcome="done") == len(done)
    assert total("lambda_search_steps_total", outcome="failed") == 0
    assert 0 < total("lambda_search_device_seconds_total", device="cpu") < sum(line["seconds"] for line in done) + 1
    with stack.database.session() as session:
        counts = trials.counts(session, search)
    assert total("lambda_search_trials_total", state="dropped") == counts[TrialState.DROPPED]
    assert total("lambda_search_trials_total", state="qualified") == counts[TrialState.QUALIFIED]
    assert total("lambda_search_adaptation_seconds_count", device="cpu") > 0
    assert total("lambda_search_evaluator_deaths_total") == 0
