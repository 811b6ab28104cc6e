from __future__ import annotations

import urllib.request
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from search_service.domain.events import EventKind
from search_service.domain.trial import TrialState
from search_service.storage import codec, events, searches, trials
from search_service.storage.database import Database
from search_service.storage.tables import EventRow, TrialRow
from search_service.storage.trials import NewTrial
from workers.runtime import metrics
from workers.runtime.work import JudgingOutcome, TimingOutcome


def value(name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def search(database: Database) -> UUID:
    """A search with three candidates."""
    spec = {
        "tasks": {"family": "glyphs"},
        "model": {"network": "conv4"},
        "meta_training": {},
        "max_degradation": 0.01,
    }
    with database.session() as session:
        row = searches.add(session, codec.spec_from_json(spec))
        session.flush()
        trials.add_many(session, row.id, [NewTrial(text, "g", 0.001) for text in ("00001", "00010", "00100")])
        return row.id


def decide(session: Session, search: UUID, number: int, state: TrialState) -> None:
    row = session.get(TrialRow, (search, number))
    assert row is not None
    row.state = state
    session.flush()
    events.add(session, search, EventKind.TRIAL, candidate=row.candidate, state=state)


def test_trials_are_counted_once_they_are_stored(database: Database, search: UUID) -> None:
    states = (TrialState.DROPPED, TrialState.SURVIVED, TrialState.QUALIFIED, TrialState.PENDING)
    before = [value("lambda_search_trials_total", state=state) for state in states]
    with database.session() as session:
        metrics.count_trials(session)
        decide(session, search, 0, TrialState.DROPPED)
        decide(session, search, 1, TrialState.SURVIVED)
        decide(session, search, 1, TrialState.QUALIFIED)
        untouched = session.get(TrialRow, (search, 2))
        assert untouched is not None
        untouched.blocks = 3
        assert [value("lambda_search_trials_total", state=state) for state in states] == before
    with database.session() as session:
        metrics.count_trials(session)
        decide(session, search, 2, TrialState.DROPPED)
        session.rollback()
    after = [value("lambda_search_trials_total", state=state) for state in states]
    assert [now - then for now, then in zip(after, before, strict=True)] == [1, 1, 1, 0]


def test_latencies_of_a_timing_run_are_noted_and_of_no_other() -> None:
    before = value("lambda_search_adaptation_seconds_count", device="test")
    figures: dict[str, Any] = {text: {"latency_s": {"median": 0.002}} for text in ("00001", "00010")}
    metrics.adaptations("test", TimingOutcome(figures=figures))
    metrics.adaptations("test", JudgingOutcome(qualities={}, digest=""))
    metrics.adaptations("test", None)
    assert value("lambda_search_adaptation_seconds_count", device="test") == before + 2


def test_what_cannot_be_counted_fails_nothing() -> None:
    metrics.adaptations("test", TimingOutcome(figures={"00001": {}}))
    metrics.reaped(-1)
    metrics.step("search", "done")


def test_the_lag_of_the_mirror_is_the_age_of_the_oldest_decision(database: Database, search: UUID) -> None:
    def lag_s() -> float:
        with database.session() as session:
            return trials.mirror_lag_s(session)

    assert lag_s() == 0
    with database.session() as session:
        decide(session, search, 0, TrialState.DROPPED)
        decide(session, search, 1, TrialState.SURVIVED)  # waits for the end of its search
        session.execute(update(EventRow).values(at=EventRow.at - timedelta(seconds=60)))
    assert 60 <= lag_s() < 70
    with database.session() as session:
        trials.mark_mirrored(session, search, [0])
    assert lag_s() == 0
    with database.session() as session:
        row = searches.lock(session, search)
        searches.cancel(session, row)
        row.finished_at = row.finished_at - timedelta(seconds=30)  # type: ignore[operator]
    assert 30 <= lag_s() < 40
    with database.session() as session:
        trials.mark_mirrored(session, search, session.scalars(select(TrialRow.number)).all())
    assert lag_s() == 0


def test_they_are_served_by_their_names() -> None:
    assert metrics.serve(None) is None
    metrics.step("search", "done")
    metrics.device_seconds("cpu", "search", 1.5)
    metrics.evaluator_died()
    metrics.mirror_lag(2.0)
    port = metrics.serve(0)
    assert port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    assert set(families) == {
        "lambda_search_steps",
        "lambda_search_trials",
        "lambda_search_device_seconds",
        "lambda_search_adaptation_seconds",
        "lambda_search_reaped_tokens",
        "lambda_search_evaluator_deaths",
        "lambda_search_mirror_lag_seconds",
    }
    (lag,) = families["lambda_search_mirror_lag_seconds"].samples
    assert lag.value == 2.0
    metrics.mirror_lag(None)
    assert metrics.registry.get_sample_value("lambda_search_mirror_lag_seconds") is None
    assert metrics.serve(port) is None  # it is taken
