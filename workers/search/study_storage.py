"""Optuna's own tables in our Postgres, opened by workers and by the dashboard."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence

import optuna
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from search_service.storage.database import Database

TABLES_LOCK = 0x4C53_5354_5544_5954  # "LSSTUDYT"; held while a process creates Optuna's tables
POOL_SIZE = 2  # connections kept open to Optuna's tables


class StudyStorage(RDBStorage):
    """Optuna's storage with two ways of its own."""

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The fastest feasible trial, or the fastest of all where none is feasible; the dashboard asks for it here."""
        complete = self.get_all_trials(study_id, deepcopy=False, states=(OptunaState.COMPLETE,))
        feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
        return min(feasible, key=lambda trial: trial.value or 0.0) if feasible else super().get_best_trial(study_id)

    def add_trials(self, study: optuna.Study, trials: Sequence[FrozenTrial], identity: str) -> None:
        """Add finished trials, all or none, save those that are there already.

        What ``study.add_trials`` leaves in the tables, which asks Postgres forty times for each: here all go together.

        Args:
            study: one of this storage.
            trials: of one objective, without intermediate values.
            identity: the user attribute, a number, that tells one trial of the study from another.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: they could not be written.
            KeyError: there is no such study.
        """
        study_id = study._study_id
        with Session(self.engine) as session, session.begin():
            # Trials are numbered within their study, so only one at a time adds to it, and sees what is there.
            models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            first = session.scalars(select(func.count()).where(models.TrialModel.study_id == study_id)).one()
            shown = _shown(session, study_id, identity, [trial.user_attrs[identity] for trial in trials])
            trials = [trial for trial in trials if trial.user_attrs[identity] not in shown]
            rows = [
                models.TrialModel(
                    study_id=study_id,
                    number=first + at,
                    state=trial.state,
                    datetime_start=trial.datetime_start,
                    datetime_complete=trial.datetime_complete,
                )
                for at, trial in enumerate(trials)
            ]
            session.add_all(rows)
            session.flush()
            for row, trial in zip(rows, trials, strict=True):
                session.add_all(_parts(row, trial))


def open_study_storage(database: Database) -> StudyStorage:
    """Optuna's storage in schema ``optuna``, its tables created if they are missing. Safe in many processes at once.

    Raises:
        DatabaseUnavailable: Postgres does not answer, or has not been migrated.
        RuntimeError: the tables belong to another version of Optuna; the message says what to do.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", message=".*set_metric_names is experimental", category=ExperimentalWarning)
    with database.session() as session:
        session.execute(text("select pg_advisory_xact_lock(:key)"), {"key": TABLES_LOCK})
        return StudyStorage(database.optuna_url, engine_kwargs={"pool_size": POOL_SIZE, "pool_pre_ping": True})


def _shown(session: Session, study_id: int, identity: str, numbers: Sequence[int]) -> set[int]:
    """Those of the numbers that trials of the study have."""
    attribute = models.TrialUserAttributeModel
    found = session.scalars(
        select(attribute.value_json)
        .join(models.TrialModel, models.TrialModel.trial_id == attribute.trial_id)
        .where(models.TrialModel.study_id == study_id, attribute.key == identity)
        .where(attribute.value_json.in_([json.dumps(number) for number in numbers]))
    )
    return {int(number) for number in found}


def _parts(row: models.TrialModel, trial: FrozenTrial) -> Iterable[models.BaseModel]:
    """What a trial is made of, beside its row."""
    trial_id = row.trial_id
    if trial.value is not None:
        value, kind = models.TrialValueModel.value_to_stored_repr(trial.value)
        yield models.TrialValueModel(trial_id=trial_id, objective=0, value=value, value_type=kind)
    for name, chosen in trial.params.items():
        distribution = trial.distributions[name]
        yield models.TrialParamModel(
            trial_id=trial_id,
            param_name=name,
            param_value=distribution.to_internal_repr(chosen),
            distribution_json=distribution_to_json(distribution),
        )
    for key, content in trial.user_attrs.items():
        yield models.TrialUserAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(content))
    for key, content in trial.system_attrs.items():
        yield models.TrialSystemAttributeModel(trial_id=trial_id, key=key, value_json=json.dumps(content))
