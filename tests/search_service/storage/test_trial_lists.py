from __future__ import annotations

from statistics import median

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_service.domain.search import MetaTraining, NetworkSpec, SearchSpec, TaskFamily
from search_service.domain.trial import TrialState
from search_service.storage import searches, trial_lists, trials
from search_service.storage.database import Database

SPEC = SearchSpec(
    tasks=TaskFamily(family="glyphs"),
    model=NetworkSpec(network="conv4"),
    meta_training=MetaTraining(),
    max_degradation=0.01,
)
LATENCIES = st.integers(1, 6).map(float)
DEGRADATIONS = st.integers(-3, 3).map(float)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    figures=st.lists(
        st.tuples(LATENCIES, st.none() | DEGRADATIONS, st.none() | LATENCIES),
        min_size=1,
        max_size=12,
    )
)
def test_the_front_is_what_no_faster_one_beats(
    database: Database, figures: list[tuple[float, float | None, float | None]]
) -> None:
    with database.session() as session:
        row = searches.add(session, SPEC)
        names = [f"{number:05b}" for number in range(1, len(figures) + 1)]
        trials.add_many(
            session,
            row.id,
            [trials.NewTrial(name, "group", predicted) for name, (predicted, _, _) in zip(names, figures, strict=True)],
        )
        for trial, (_, degradation, latency) in zip(trials.of_search(session, row.id), figures, strict=True):
            trial.degradation, trial.latency_s = degradation, latency
        session.flush()
        shown = {trial.candidate for trial in trial_lists.front(session, row.id)}
    both = [latency / predicted for predicted, _, latency in figures if latency is not None]
    ratio = median(both) if both else 1.0
    judged = [
        (latency or predicted * ratio, degradation, name)
        for name, (predicted, degradation, latency) in zip(names, figures, strict=True)
        if degradation is not None
    ]
    expected = {
        mine[2] for mine in judged if not any(other < mine and other[1] <= mine[1] for other in judged if other != mine)
    }
    assert shown == expected


def test_predictions_are_compared_as_what_they_would_measure(database: Database) -> None:
    with database.session() as session:
        row = searches.add(session, SPEC)
        names = ["00001", "00010", "00100", "01000"]
        trials.add_many(session, row.id, [trials.NewTrial(name, "group", at) for at, name in enumerate(names, start=1)])
        first, second, timed, slower = trials.of_search(session, row.id)
        for trial, degradation in ((first, 0.3), (second, 0.2), (timed, 0.25), (slower, 0.1)):
            trial.state, trial.degradation = TrialState.SURVIVED, degradation
        session.flush()
        assert trial_lists.latency_ratio(session, row.id) is None
        timed.latency_s = 0.3  # a tenth of what was predicted: the others are compiled, too
        session.flush()
        assert trial_lists.latency_ratio(session, row.id) == pytest.approx(0.1)
        assert [trial.candidate for trial in trial_lists.front(session, row.id)] == ["00001", "00010", "01000"]
        best = trial_lists.best(session, row.id)
        assert best is not None
        assert best.candidate == "00001"


def test_a_long_front_is_all_there(database: Database) -> None:
    with database.session() as session:
        row = searches.add(session, SPEC)
        new = [trials.NewTrial(f"{at:07b}", "group", float(at)) for at in range(1, 121)]
        trials.add_many(session, row.id, new)
        for trial in trials.of_search(session, row.id):
            trial.degradation = 1.0 - trial.number * 0.001
        session.flush()
        assert [trial.number for trial in trial_lists.front(session, row.id)] == list(range(120))
