from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import SQLAlchemyError

from search_service.storage.database import Database
from workers.search.study_storage import StudyStorage, open_study_storage


@pytest.fixture
def storage(database: Database) -> Iterator[StudyStorage]:
    storage = open_study_storage(database)
    yield storage
    storage.engine.dispose()


def made_up_trial(number: int, **changes: Any) -> FrozenTrial:
    trial = optuna.trial.create_trial(
        **{
            "state": OptunaState.COMPLETE,
            "value": 0.001 * number,
            "params": {"row": "00111", "steps": 2},
            "distributions": {"row": CategoricalDistribution(["00111", "00010"]), "steps": IntDistribution(1, 5)},
            "user_attrs": {"pattern": "00111@2", "degradation": float("inf"), "reason": "it’s good", "number": number},
            "system_attrs": {"constraints": [-0.1]},
            "constraints": {"degradation": -0.1},
            **changes,
        }
    )
    trial.datetime_start = trial.datetime_complete = datetime(2026, 7, 1, 12, number)
    return trial


def test_trials_are_what_optuna_itself_would_have_stored(storage: StudyStorage) -> None:
    trials = [
        made_up_trial(1),
        made_up_trial(2, value=float("inf")),
        made_up_trial(3, state=OptunaState.PRUNED, value=None),
        made_up_trial(4, params={}, distributions={}, user_attrs={"number": 4}, system_attrs={}, constraints=None),
    ]
    ours, theirs = (optuna.create_study(storage=storage, study_name=name) for name in ("ours", "theirs"))
    for part in (trials[:1], trials[1:], []):
        storage.add_trials(ours, part, "number")
        theirs.add_trials(part)

    def seen(name: str) -> list[dict[str, Any]]:
        found = optuna.load_study(storage=open_again(storage), study_name=name).trials
        return [{**vars(trial), "_trial_id": None} for trial in found]

    assert [trial["_number"] for trial in seen("ours")] == [0, 1, 2, 3]
    assert seen("ours") == seen("theirs")


def open_again(storage: StudyStorage) -> StudyStorage:
    """Without what the first one remembers."""
    return StudyStorage(storage.url)


def test_trials_are_added_all_or_none(storage: StudyStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="a study")
    spoilt = made_up_trial(2, user_attrs={"number": 2, "k" * 3000: "a key that the table has no room for"})
    with pytest.raises(SQLAlchemyError):
        storage.add_trials(study, [made_up_trial(1), spoilt], "number")
    assert study.trials == []


def test_those_who_add_at_once_double_none_and_number_no_two_alike(storage: StudyStorage) -> None:
    study = optuna.create_study(storage=storage, study_name="a study")
    other = optuna.create_study(storage=storage, study_name="another study")
    storage.add_trials(other, [made_up_trial(1)], "number")

    def add(first: int) -> None:
        storage.add_trials(study, [made_up_trial(first), made_up_trial(first + 1)], "number")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, [1, 2, 3, 4, 1, 2, 3, 4]))
    assert sorted(trial.user_attrs["number"] for trial in study.trials) == [1, 2, 3, 4, 5]
    assert sorted(trial.number for trial in study.trials) == list(range(5))
