"""The product's main path as a user walks it: one command, real processes, a result document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from sqlalchemy import select

from search_service.client import Client
from search_service.domain.keys import NewKey
from search_service.domain.thresholds import answer_at, answerable
from search_service.storage import codec, keys, searches
from search_service.storage.tables import TrialRow
from tests.system.conftest import Stack, small_spec, wait_until
from workers.adaptation.device import compiler, has_fast_bfloat16

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

API_MEMORY_LIMIT = 150 * 2**20  # bytes


def run_cli(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LAMBDA_SEARCH_DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "search_service.cli", *arguments],
        env={**environment, "LAMBDA_SEARCH_LOCK_DIR": str(home / "locks")},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_run_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(small_spec()))
    output = tmp_path / "result.json"
    before = {process.pid for process in psutil.process_iter()}

    done = run_cli("run", str(spec), "--json", "--output", str(output), home=tmp_path)

    assert done.returncode == 0, done.stderr[-3000:]
    document = json.loads(done.stdout)
    result = codec.result_from_json(document)
    assert json.loads(output.read_text()) == document
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "plotly" in output.with_suffix(".html").read_text()

    assert result.status == "succeeded"
    assert result.search.space_size == 14
    assert 1 <= result.search.judged <= 14
    assert result.search.predicted.calibrated_on >= 3
    assert result.baseline.pattern == "111@2"
    assert [entry.pattern for entry in result.full_by_steps] == ["111", "111@2"]
    assert result.empty.pattern == "000"
    assert result.empty.latency_s is None
    assert result.confirmed.split == "test"
    assert 13 <= result.confirmed.episodes <= 40  # no fewer could prove half of an error that is bounded by two
    assert result.method == "betting"
    upper_bound = result.fastest.degradation.upper_bound
    assert upper_bound is not None
    assert upper_bound <= result.max_degradation
    assert result.fastest.pattern in [*result.search.qualified, result.baseline.pattern]
    assert result.fastest.speedup is not None
    assert result.fastest.speedup_over_plain is not None
    split = result.speedup_split
    product = split.steps * split.rows * split.engine
    assert product == pytest.approx(result.fastest.speedup_over_plain.estimate, rel=0.02)
    assert result.fastest.rates == [0.02] * result.fastest.steps
    assert result.checkpoint["quality"]["metric"] == "negative_mse"
    assert set(result.seconds) == {
        "meta_training",
        "baseline",
        "calibration",
        "search",
        "timing",
        "certificate",
        "total",
    }

    ours = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if process.pid not in before and any(str(tmp_path) in word for word in process.info["cmdline"] or [])
    ]
    assert ours == []


def test_a_bad_spec_is_refused_by_field_and_reason(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(small_spec(max_degradation=-1, modle={})))
    done = run_cli("run", str(spec), home=tmp_path)
    assert done.returncode == 2
    assert "modle" in done.stderr
    assert "unknown field" in done.stderr


def test_the_api_process_stays_small_and_a_search_goes_through_it(stack: Stack) -> None:
    stack.start_worker()
    wait_until(lambda: "announced" in stack.workers[0].log.read_text(), f"the worker; {stack.logs()}")
    ready = stack.home / "api.log"
    with ready.open("wb") as log:
        api = subprocess.Popen(
            [sys.executable, "-m", "search_service.cli", "api", "--port", "0"],
            env=stack.environment(),
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: "http://127.0.0.1:" in ready.read_text(), "the API to say its address")
        text = ready.read_text()
        port = text.split("http://127.0.0.1:", 1)[1].split()[0].strip("/")
        with stack.database.session() as session:
            _, key = keys.create(session, NewKey(name="tests"))
        with Client(f"http://127.0.0.1:{port}", key) as client:
            view = client.submit(small_spec())
            told = list(client.events(view["id"]))
            final = client.get(view["id"])
            assert final["status"] == "succeeded", (final, stack.logs())
            assert client.result(view["id"])["fastest"]["pattern"]
        kinds = [event.kind for event in told]
        assert kinds[:3] == ["submitted", "progress", "started"] or kinds[:2] == ["submitted", "started"]
        assert kinds[-1] == "succeeded"
        assert {"phase", "trial", "best", "progress"} <= set(kinds)
        shares = [event.data["share"] for event in told if event.kind == "progress"]
        assert 0 <= shares[0] < shares[-1] <= 1
        assert psutil.Process(api.pid).memory_info().rss < API_MEMORY_LIMIT
    finally:
        api.terminate()
        api.wait(20)


@pytest.mark.skipif(compiler(torch.device("cpu")) is None, reason="no C++ compiler, or no Python headers")
def test_a_search_for_the_compiled_runtime_with_lowered_prefixes(stack: Stack) -> None:
    stack.start_worker()
    spec = small_spec(runtime="compiled", precision="auto", max_degradation=5.0, degradation_bound=20.0)
    row = stack.wait_for(stack.submit(spec))
    result = searches.result(row)
    assert result.runtime == "compiled"
    lowered = has_fast_bfloat16(torch.device("cpu"))
    assert result.search.space_size == (20 if lowered else 14)
    for figures in (result.fastest, result.baseline):
        assert figures.compilation is not None
        assert figures.compilation.backend == "inductor"
        assert figures.speedup is not None
    assert any((stack.home / "compiled").rglob("*.so"))


def test_the_answer_is_retrained_under_and_proved_again(stack: Stack) -> None:
    stack.start_worker()
    spec = small_spec(retrain=True, max_degradation=2.0, degradation_bound=10.0)
    row = stack.wait_for(stack.submit(spec))
    result = searches.result(row)
    retrained = result.retrained
    assert retrained is not None
    assert retrained.candidate == result.fastest.candidate != result.baseline.candidate
    assert retrained.iterations == 6  # a fifth
    assert retrained.checkpoint["id"] != result.checkpoint["id"]
    assert retrained.checkpoint["retraining"]["checkpoint"] == result.checkpoint["id"]
    assert retrained.position == len(result.proved) + 1
    assert retrained.state == "qualified"
    assert retrained.degradation.upper_bound is not None
    assert retrained.degradation.upper_bound <= result.max_degradation
    assert {"retraining", "retrained_certificate"} <= result.seconds.keys()

    # The same again is known; another search may begin from the retrained checkpoint.
    again = stack.wait_for(stack.submit(spec))
    assert searches.result(again).retrained == retrained
    further = small_spec(meta_training=None, checkpoint=retrained.checkpoint["id"], max_degradation=2.0)
    del further["meta_training"]
    result = searches.result(stack.wait_for(stack.submit({**further, "degradation_bound": 10.0})))
    assert result.baseline.steps == retrained.checkpoint["meta_training"]["inner_steps"]


def test_a_sampler_searches_a_large_space_within_its_budget(stack: Stack) -> None:
    stack.start_worker()
    spec = small_spec(
        space={"kind": "per_step", "max_steps": 2, "rate_factors": [1, 2]},
        method={"sampler": "tpe", "trials": 24},
        max_degradation=0.05,
        episodes={"block": 5, "validation": 20, "confirmation": 400},
    )
    result = searches.result(stack.wait_for(stack.submit(spec)))
    assert result.search.space_size == 14 + 14**2
    assert result.search.method == "tpe"
    assert "asked for" in result.search.method_reason
    assert 14 // 2 <= result.search.judged <= 24
    with stack.database.session() as session:
        trials = session.scalars(select(TrialRow)).all()
        assert len({row.candidate for row in trials}) == len(trials)
        assert sum(row.blocks > 0 for row in trials) == result.search.judged
    proposed = [row.candidate for row in trials if "*2" in row.candidate or "/" in row.candidate]
    assert proposed, "nothing but constant rows was tried"


@pytest.mark.parametrize(("limit", "most_blocks"), [({"episodes": 100}, 20), ({"seconds": 0.001}, 0)])
def test_a_budget_of_a_samplers_search_is_exact(stack: Stack, limit: dict[str, float], most_blocks: int) -> None:
    stack.start_worker()
    spec = small_spec(
        space={"kind": "per_step", "max_steps": 2, "rate_factors": [1, 2]}, method={"sampler": "random", **limit}
    )
    result = searches.result(stack.wait_for(stack.submit(spec)))
    with stack.database.session() as session:
        blocks = sum(row.blocks for row in session.scalars(select(TrialRow)))
    # Seconds are over when the first block would start; episodes are spent to the last block that fits.
    assert blocks <= most_blocks
    assert result.search.judged == 0 or most_blocks
    if not most_blocks:
        assert result.fastest.candidate == result.baseline.candidate


def test_a_front_answers_other_thresholds_with_no_new_evaluation(stack: Stack) -> None:
    stack.start_worker()
    spec = small_spec(goal="front", episodes={"block": 5, "validation": 20, "confirmation": 100})
    row = stack.wait_for(stack.submit(spec))
    result = searches.result(row)
    assert result.goal == "front"
    # Everything faster than the baseline was screened, and the front of it tested.
    assert result.search.judged >= 10
    assert [each.position for each in result.proved] == list(range(1, len(result.proved) + 1))
    evaluations = stack.evaluations()
    low, high = answerable(result)
    assert high == result.max_degradation
    for each in result.proved:
        told = answer_at(result, min(max(each.upper_bound, low), high))
        assert told.status == "answered"
    assert answer_at(result, 2 * high).status == "needs_evaluation"

    # A search with another threshold in that range is answered at once.
    relative = 0.5 * max(low, 0.8 * high) / high
    asked = small_spec(max_degradation=relative, episodes={"block": 5, "validation": 20, "confirmation": 100})
    other = stack.wait_for(stack.submit(asked))
    answer = searches.result(other)
    expected = answer_at(result, answer.max_degradation).answer
    assert answer.search.answered_from == str(row.id)
    assert answer.max_degradation == pytest.approx(max(low, 0.8 * high))
    assert expected is not None
    assert answer.fastest.candidate == expected.candidate
    assert answer.fastest.degradation.upper_bound == expected.upper_bound
    assert answer.search.episode_adaptations == 0
    assert set(answer.seconds) <= {"meta_training", "total"}
    assert stack.evaluations() == evaluations

    # One that asks something else of the same checkpoint reuses what is known.
    again = stack.wait_for(stack.submit(small_spec(max_degradation=0.4)))
    assert again.checkpoint == row.checkpoint
    assert again.effort["reused_evaluations"] > 0
    assert "calibration" not in again.phase_seconds or again.phase_seconds["calibration"] < 1
    assert evaluations.items() <= stack.evaluations().items()
