from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import optuna
import optuna_dashboard
import plotly.graph_objects as go
import pytest
from optuna.trial import TrialState as OptunaState
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects
from sqlalchemy import text

from search_service.domain.errors import DatabaseUnavailable
from search_service.domain.lambda_pattern import constant_row_patterns
from search_service.domain.search import MetaTraining, NetworkSpec, SearchSpec, TaskFamily
from search_service.domain.trial import TrialState
from search_service.storage import searches, trials
from search_service.storage.database import Database
from tests.made_up_result import figures, made_up_result
from workers.search import study as study_module
from workers.search.study import mirror, study_name
from workers.search.study_storage import StudyStorage, open_study_storage

UNITS = 3
MAX_STEPS = 2
EPSILON = 0.01
SPEC = SearchSpec(
    name="glyphs by night",
    tasks=TaskFamily(family="glyphs"),
    model=NetworkSpec(network="mlp", hidden=(40, 40)),
    meta_training=MetaTraining(inner_steps=MAX_STEPS),
    max_degradation=EPSILON,
)


@pytest.fixture
def storage(database: Database) -> Iterator[StudyStorage]:
    storage = open_study_storage(database)
    yield storage
    storage.engine.dispose()


@pytest.fixture
def search_id(database: Database) -> UUID:
    return add_search(database)


def add_search(database: Database, spec: SearchSpec = SPEC) -> UUID:
    """A running search with every candidate pending, in the order of ``constant_row_patterns``."""
    with database.session() as session:
        row = searches.add(session, spec)
        searches.start(session, row)
        patterns = constant_row_patterns(len(spec.units), spec.max_steps(MAX_STEPS))
        trials.add_many(session, row.id, [trials.NewTrial(pattern.text, "group", 0.01) for pattern in patterns])
        return row.id


def judge(database: Database, search_id: UUID, candidate: str, **figures: Any) -> None:
    with database.session() as session:
        row = next(row for row in trials.of_search(session, search_id) if row.candidate == candidate)
        for name, value in {"blocks": 2, "quality": 0.8, "degradation_se": 0.002, **figures}.items():
            setattr(row, name, value)


def drop(database: Database, search_id: UUID, candidate: str, degradation: float = 0.2) -> None:
    judge(database, search_id, candidate, state=TrialState.DROPPED, degradation=degradation, reason="clearly bad")


def certify(database: Database, search_id: UUID, candidate: str, *, latency_s: float, upper_bound: float) -> None:
    """The certificate's outcome for a timed survivor."""
    qualifies = upper_bound <= EPSILON
    judge(
        database,
        search_id,
        candidate,
        state=TrialState.QUALIFIED if qualifies else TrialState.UNQUALIFIED,
        degradation=0.004,
        latency_s=latency_s,
        speedup=0.1 / latency_s,
        confirmation={"position": 1, "degradation": 0.006, "upper_bound": upper_bound},
    )


def cancel(database: Database, search_id: UUID) -> None:
    with database.session() as session:
        searches.cancel(session, searches.lock(session, search_id))


def succeed(database: Database, search_id: UUID, **changes: Any) -> None:
    with database.session() as session:
        row = searches.lock(session, search_id)
        searches.succeed(session, row, made_up_result(search_id=str(search_id), **changes))


def study_of(storage: StudyStorage, search_id: UUID, spec: SearchSpec = SPEC) -> optuna.Study:
    return optuna.load_study(study_name=study_name(spec, search_id), storage=storage)


def shown(study: optuna.Study) -> dict[str, optuna.trial.FrozenTrial]:
    """The study's trials by candidate; every candidate is there once."""
    candidates = [trial.user_attrs["candidate"] for trial in study.trials]
    assert len(candidates) == len(set(candidates))
    return dict(zip(candidates, study.trials, strict=True))


def test_a_dropped_candidate_is_shown_at_once_as_pruned(
    database: Database, storage: StudyStorage, search_id: UUID
) -> None:
    drop(database, search_id, "001@2", degradation=0.21)
    assert mirror(database, storage) == 1

    trial = shown(study_of(storage, search_id))["001@2"]
    assert trial.state == OptunaState.PRUNED
    assert trial.value == 0.01  # as predicted
    assert trial.user_attrs["latency"] == "predicted"
    assert trial.params == {"row": "001", "steps": 2}
    assert trial.distributions["row"].choices == ("001", "010", "011", "100", "101", "110", "111")
    assert trial.constraints["degradation"] == pytest.approx(0.20)
    assert trial.system_attrs["constraints"] == [pytest.approx(0.20)]
    attributes = trial.user_attrs
    assert [attributes[unit] for unit in SPEC.units] == [0, 0, 1]
    assert attributes["episodes"] == 2 * SPEC.episodes.block
    assert attributes["state"] == "dropped"
    assert attributes["reason"] == "clearly bad"
    assert attributes["constraint"] == "degradation 0.21 > 0.01: infeasible"
    assert "confirmation" not in str(attributes)


def test_a_tested_candidate_is_complete_with_its_latency_and_its_certificate_as_constraint(
    database: Database, storage: StudyStorage, search_id: UUID
) -> None:
    certify(database, search_id, "010", latency_s=0.004, upper_bound=0.0125)
    certify(database, search_id, "011", latency_s=0.005, upper_bound=0.008)
    drop(database, search_id, "001")
    mirror(database, storage)

    study = study_of(storage, search_id)
    failed, proved = shown(study)["010"], shown(study)["011"]
    assert failed.state == proved.state == OptunaState.COMPLETE
    assert failed.value == 0.004
    assert failed.constraints["certificate"] == pytest.approx(0.0025)
    assert "degradation" not in failed.constraints
    assert failed.system_attrs["constraints"] == [pytest.approx(0.0025)]
    assert failed.user_attrs["constraint"] == "certificate 0.0125 > 0.01: infeasible"
    assert proved.user_attrs["constraint"] == "certificate 0.008 <= 0.01: feasible"
    assert proved.user_attrs["confirmation_upper_bound"] == 0.008
    assert study.metric_names == ["latency (s)"]
    assert study.direction == optuna.study.StudyDirection.MINIMIZE


def test_the_best_trial_is_the_fastest_feasible_one(database: Database, storage: StudyStorage, search_id: UUID) -> None:
    certify(database, search_id, "001", latency_s=0.001, upper_bound=0.02)
    certify(database, search_id, "010", latency_s=0.003, upper_bound=0.007)
    certify(database, search_id, "111", latency_s=0.009, upper_bound=0.001)
    mirror(database, storage)
    study = study_of(storage, search_id)
    assert study.best_trial.user_attrs["candidate"] == "010"
    assert storage.get_best_trial(study._study_id).user_attrs["candidate"] == "010"


def test_a_study_without_a_feasible_trial_still_has_a_fastest_one(
    database: Database, storage: StudyStorage, search_id: UUID
) -> None:
    certify(database, search_id, "001", latency_s=0.001, upper_bound=0.02)
    mirror(database, storage)
    assert storage.get_best_trial(study_of(storage, search_id)._study_id).value == 0.001


def test_what_may_still_change_waits_for_the_end(database: Database, storage: StudyStorage, search_id: UUID) -> None:
    judge(database, search_id, "001", state=TrialState.SURVIVED, degradation=0.0, latency_s=0.002, speedup=4.0)
    judge(database, search_id, "010", state=TrialState.SURVIVED, degradation=0.0)
    judge(database, search_id, "011", degradation=0.0)
    assert mirror(database, storage) == 0

    cancel(database, search_id)
    assert mirror(database, storage) == 3
    found = shown(study_of(storage, search_id))
    assert {candidate: trial.state for candidate, trial in found.items()} == {
        "001": OptunaState.COMPLETE,
        "010": OptunaState.PRUNED,
        "011": OptunaState.PRUNED,
    }
    assert study_of(storage, search_id).user_attrs["status"] == "cancelled"


def test_a_second_pass_adds_nothing(database: Database, storage: StudyStorage, search_id: UUID) -> None:
    drop(database, search_id, "001")
    assert mirror(database, storage) == 1
    assert mirror(database, storage) == 0
    assert len(shown(study_of(storage, search_id))) == 1


def test_a_crash_between_adding_and_marking_doubles_nothing(
    database: Database, storage: StudyStorage, search_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    for candidate in ("001", "010"):
        drop(database, search_id, candidate)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(study_module.trials, "mark_mirrored", crash)
        with pytest.raises(KeyboardInterrupt):
            mirror(database, storage)
    assert len(shown(study_of(storage, search_id))) == 2

    drop(database, search_id, "011")
    assert mirror(database, storage) == 3
    assert len(shown(study_of(storage, search_id))) == 3
    assert mirror(database, storage) == 0


def test_processes_that_mirror_at_once_double_nothing(
    database: Database, storage: StudyStorage, search_id: UUID
) -> None:
    with database.session() as session:
        for row in trials.of_search(session, search_id):
            row.state, row.degradation, row.blocks = TrialState.DROPPED, 0.2, 1
    storages = [storage, *(open_study_storage(database) for _ in range(3))]
    with ThreadPoolExecutor(len(storages)) as pool:
        for _ in range(4):
            list(pool.map(lambda each: mirror(database, each, limit=5), storages))
    while mirror(database, storage):
        pass
    assert len(shown(study_of(storage, search_id))) == (2**UNITS - 1) * MAX_STEPS
    for each in storages:
        each.engine.dispose()


def test_one_pass_keeps_its_limit_and_gives_every_search_a_share(database: Database, storage: StudyStorage) -> None:
    ids = [add_search(database), add_search(database)]
    for search_id in ids:
        for candidate in ("001", "010", "011", "100"):
            drop(database, search_id, candidate)
    assert mirror(database, storage, limit=4) == 4
    assert [len(shown(study_of(storage, search_id))) for search_id in ids] == [2, 2]


def test_the_search_is_marked_once_its_study_is_complete(
    database: Database, storage: StudyStorage, search_id: UUID
) -> None:
    for candidate in ("001", "010", "011"):
        drop(database, search_id, candidate)
    certify(database, search_id, "111", latency_s=0.004, upper_bound=0.008)
    succeed(database, search_id, fastest=figures("111", 1, 0.006, 0.8745, bound=0.0068))

    assert mirror(database, storage, limit=2) == 2
    with database.session() as session:
        assert searches.get(session, search_id).mirrored_at is None
    mirror(database, storage, limit=2)
    with database.session() as session:
        assert searches.get(session, search_id).mirrored_at is not None

    study = study_of(storage, search_id)
    assert study.user_attrs["answer"] == study.best_trial.user_attrs["candidate"] == "111"
    assert study.user_attrs["search_id"] == str(search_id)
    assert study.user_attrs["max_degradation"] == EPSILON
    assert "Fastest pattern under the threshold: `111`" in optuna_dashboard.get_note(study)
    assert "| speedup | 8 | 7.84 | 8.16 |" in optuna_dashboard.get_note(study)
    plots = get_plotly_graph_objects(storage.get_study_system_attrs(study._study_id))
    front = go.Figure(json.loads(plots["front"]))
    assert {name for trace in front.data for name in trace.hovertext or () if "00111@3" in name}


def test_a_search_that_judged_nothing_gets_no_study(database: Database, storage: StudyStorage, search_id: UUID) -> None:
    cancel(database, search_id)
    assert mirror(database, storage) == 0
    assert optuna.get_all_study_names(storage) == []
    with database.session() as session:
        assert searches.get(session, search_id).mirrored_at is not None


def test_a_relative_threshold_counts_from_when_the_baseline_is_judged(
    database: Database, storage: StudyStorage
) -> None:
    spec = SearchSpec(
        tasks=TaskFamily(family="sinusoid"),
        degradation_bound=1.0,
        model=SPEC.model,
        meta_training=SPEC.meta_training,
        max_degradation=0.1,
        degradation="relative",
    )
    search_id = add_search(database, spec)
    drop(database, search_id, "001", degradation=0.5)
    mirror(database, storage)
    with database.session() as session:
        searches.lock(session, search_id).max_degradation = 0.3
    drop(database, search_id, "010", degradation=0.5)
    drop(database, search_id, "011", degradation=float("nan"))
    mirror(database, storage)
    found = shown(study_of(storage, search_id, spec))
    assert found["001"].constraints == {}
    assert found["010"].constraints["degradation"] == pytest.approx(0.2)
    assert found["011"].constraints["degradation"] == study_module.MAX_VIOLATION


def test_a_space_of_many_rows_stores_no_list_of_them(database: Database, storage: StudyStorage) -> None:
    spec = SearchSpec(
        tasks=SPEC.tasks,
        model=NetworkSpec(network="mlp", hidden=(8,) * 9),
        meta_training=SPEC.meta_training,
        max_degradation=EPSILON,
    )
    search_id = add_search(database, spec)
    drop(database, search_id, "0000000110@2")
    mirror(database, storage)
    trial = shown(study_of(storage, search_id, spec))["0000000110@2"]
    assert trial.params == {"row": 6, "steps": 2}


def test_searches_whose_names_collide_have_studies_of_their_own(
    database: Database, storage: StudyStorage, search_id: UUID
) -> None:
    other = optuna.create_study(storage=storage, study_name=study_name(SPEC, search_id))
    other.set_user_attr("search_id", "another")
    drop(database, search_id, "001")
    mirror(database, storage)
    assert other.trials == []
    own = optuna.load_study(study_name=f"{SPEC.name}-{search_id.hex}", storage=storage)
    assert len(own.trials) == 1


def test_many_processes_may_create_the_tables_at_once(database_url: str) -> None:
    code = (
        "import sys; from search_service.storage.database import Database; "
        "from workers.search.study_storage import open_study_storage; open_study_storage(Database(sys.argv[1])); "
        "print('torch' in sys.modules)"
    )
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code, database_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for starter in starters:
        output, complaint = starter.communicate(timeout=60)
        assert (starter.returncode, complaint, output) == (0, "", "False\n")


def test_a_database_without_the_schema_says_what_to_do(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with pytest.raises(DatabaseUnavailable, match="lambda-search migrate"):
        open_study_storage(database)
    database.close()


def test_optuna_keeps_to_its_own_schema(database: Database, storage: StudyStorage, search_id: UUID) -> None:
    drop(database, search_id, "001")
    mirror(database, storage)
    query = "select schemaname from pg_tables where tablename in ('studies', 'trial_params', 'version_info')"
    with database.session() as session:
        assert set(session.scalars(text(query))) == {"optuna"}


def test_only_what_the_mirror_showed_is_marked(database: Database, storage: StudyStorage, search_id: UUID) -> None:
    drop(database, search_id, "001")
    mirror(database, storage)
    with database.session() as session:
        marked = [row.candidate for row in trials.of_search(session, search_id) if row.mirrored]
        assert marked == ["001"]


def test_what_cannot_be_drawn_keeps_nothing_else_from_being_shown(
    database: Database, storage: StudyStorage, search_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("no such colour")

    monkeypatch.setattr(study_module, "save_front", broken)
    drop(database, search_id, "001")
    succeed(database, search_id)
    mirror(database, storage)
    study = study_of(storage, search_id)
    assert study.user_attrs["answer"] == "00111@2"
    with database.session() as session:
        assert searches.get(session, search_id).mirrored_at is not None


def test_a_study_that_somebody_deletes_while_its_search_goes_on_is_written_anew(
    database: Database, storage: StudyStorage, search_id: UUID
) -> None:
    drop(database, search_id, "001")
    drop(database, search_id, "010")
    assert mirror(database, storage) == 2
    optuna.delete_study(study_name=study_of(storage, search_id).study_name, storage=storage)
    drop(database, search_id, "100")
    while mirror(database, storage):
        pass
    assert shown(study_of(storage, search_id)).keys() == {"001", "010", "100"}


def test_the_lag_is_told_by_whoever_mirrors_even_where_that_fails(
    database: Database, storage: StudyStorage, search_id: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(database, search_id, "001")
    with database.session() as session:
        searches.cancel(session, searches.lock(session, search_id))

    def fail(*_: Any) -> None:
        raise OSError("the disk is full")

    lags: list[float] = []
    with monkeypatch.context() as patched:
        patched.setattr(storage, "add_trials", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="the disk is full"):
                mirror(database, storage, tell_lag=lags.append)
    assert mirror(database, storage, tell_lag=lags.append) == 1
    mirror(database, storage, tell_lag=lags.append)
    assert 0 < lags[0] < lags[1] < lags[2]
    assert lags[3] == 0
