from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search_service.domain.search import MetaTraining, NetworkSpec, SearchSpec, TaskFamily
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
    judged = [
        (latency or predicted, degradation, name)
        for name, (predicted, degradation, latency) in zip(names, figures, strict=True)
        if degradation is not None
    ]
    expected = {
        mine[2] for mine in judged if not any(other < mine and other[1] <= mine[1] for other in judged if other != mine)
    }
    assert shown == expected
