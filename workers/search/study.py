"""The Optuna study of each search: how people look inside it. Our tables stay the truth; nothing here decides anything.

A finished trial of Optuna's cannot be changed, so a trial is mirrored once its figures are final: a dropped or tested
candidate at once, a survivor when its search is over. ``study.best_trial`` of a succeeded search is then its answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from statistics import median
from typing import Any
from uuid import UUID

import optuna
import structlog
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from optuna_dashboard import save_note
from sqlalchemy import text
from sqlalchemy.orm import Session

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern, row_text
from search_service.domain.search import SearchSpec, SearchStatus
from search_service.domain.trial import TrialState
from search_service.storage import checkpoints, codec, searches, trials
from search_service.storage.database import Database, server_time
from search_service.storage.tables import SearchRow, TrialRow
from workers.search.study_pictures import save_front, save_importance
from workers.search.study_storage import StudyStorage

MIRROR_LOCK = 0x4C53_4D49_5252_4F52  # "LSMIRROR"; held by the one worker that mirrors

OBJECTIVE = "latency (s)"
DEGRADATION = "degradation"
CERTIFICATE = "certificate"
TRIAL_NUMBER = "trial_number"
PRECISIONS = CategoricalDistribution([precision.value for precision in Precision])

MAX_ROW_CHOICES = 256
"""Above this many rows parameter ``row`` is the row read as a binary number: every trial stores the list of choices."""
MAX_VIOLATION = 1e9
"""Stands for a constraint that is infinite or not a number, which the dashboard's JSON cannot carry."""

log = structlog.get_logger(__name__)


def mirror(
    database: Database, storage: StudyStorage, limit: int = 200, tell_lag: Callable[[float], None] = lambda _: None
) -> int | None:
    """Make one pass over all searches, each getting an equal share of it; only one process mirrors at a time.

    A crash leaves no trial out and doubles none: a trial is added to the study first and marked in our table then,
    and what the study shows already is not added again. Where somebody has deleted the study of a search that goes on,
    all of it is shown anew.

    Args:
        database: where our trials are.
        storage: Optuna's storage on the same database.
        limit: how many trials to add at most; a pass of 200 takes about half a second.
        tell_lag: told the age in seconds of the oldest trial that waits, where this process is the one that mirrors.

    Returns:
        How many trials were marked as mirrored; None where another process mirrors at present. Call again at once while
        it is above 0.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
        sqlalchemy.exc.SQLAlchemyError: the trials could not be written.
        optuna.exceptions.StorageInternalError: the study could not be opened.
        KeyError: somebody deleted the study this very moment.
    """
    with database.session() as guard:
        if not guard.scalar(text("select pg_try_advisory_xact_lock(:key)"), {"key": MIRROR_LOCK}):
            return None
        with database.session() as session:
            tell_lag(trials.mirror_lag_s(session))
            waiting = [row.id for row in searches.unmirrored(session, limit)]
        share = max(1, limit // max(1, len(waiting)))
        return sum(_mirror_search(database, storage, search_id, share) for search_id in waiting)


def _mirror_search(database: Database, storage: StudyStorage, search_id: UUID, limit: int) -> int:
    """Mirror up to ``limit`` trials of a search, and complete its study after the last one."""
    with database.session() as session:
        search = searches.get(session, search_id)
        is_final = SearchStatus(search.status).is_final
        # One more than may be added tells whether any are left.
        rows = trials.unmirrored(session, search_id, is_final=is_final, limit=limit + 1)
        is_last = is_final and len(rows) <= limit
        rows = rows[:limit]
        if not rows and not is_last:
            return 0
        if rows or trials.has_mirrored(session, search_id):
            subject = _Subject(search, _trained_steps(session, search), trials.latency_ratios(session, search_id))
            study, is_new = _open_study(storage, subject)
            if is_new and trials.forget_mirrored(session, search_id):
                return 1
        else:
            study = None
    if study is not None:
        storage.add_trials(study, [_frozen_trial(row, subject) for row in rows], TRIAL_NUMBER)
        if is_last:
            _complete_study(database, study, subject)
    with database.session() as session:
        search = searches.lock(session, search_id)
        trials.mark_mirrored(session, search_id, [row.number for row in rows])
        if is_last:
            search.mirrored_at = server_time(session)
    return len(rows)


class _Subject:
    """What all trials of a search have in common.

    Args:
        search: the search.
        trained_steps: inner steps that its checkpoint was trained for.
        latency_ratios: measured over predicted latency of the candidates timed so far.
    """

    def __init__(self, search: SearchRow, trained_steps: int, latency_ratios: Sequence[float]) -> None:
        self.search = search
        self.spec: SearchSpec = codec.stored_spec(search.spec)
        self.unit_names = tuple(self.spec.units)
        self.max_steps = self.spec.max_steps(trained_steps)
        self.block = self.spec.episodes.block
        # Predictions are of the eager runtime; what was timed tells how far the asked one is from them.
        eager = 1.0 if self.spec.runtime == "eager" else None
        self.latency_ratio = median(latency_ratios) if latency_ratios else eager

    @property
    def max_degradation(self) -> float | None:
        """ε in the metric's unit; None where it is relative and the baseline has not been judged."""
        return searches.threshold(self.search)

    @property
    def row_distribution(self) -> BaseDistribution:
        """Every row of the space, by its text where there are few enough of them."""
        units = len(self.unit_names)
        rows = range(1, 2**units)
        if len(rows) > MAX_ROW_CHOICES:
            return IntDistribution(1, len(rows))
        return CategoricalDistribution([f"{row:0{units}b}" for row in rows])


def _trained_steps(session: Session, search: SearchRow) -> int:
    spec = codec.stored_spec(search.spec)
    if spec.meta_training is not None:
        return spec.meta_training.inner_steps
    config = checkpoints.get(session, spec.checkpoint or "").config
    return codec.recipe_from_json(config).meta_training.inner_steps


def study_name(spec: SearchSpec, search_id: UUID) -> str:
    """What the study of a search is called."""
    return f"{spec.name}-{search_id.hex[:8]}"


def _open_study(storage: StudyStorage, subject: _Subject) -> tuple[optuna.Study, bool]:
    """The study of a search, made if it is missing, and whether it was. Two searches never share one."""
    search_id = subject.search.id
    for name in (study_name(subject.spec, search_id), f"{subject.spec.name}-{search_id.hex}"):
        study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
        attributes = study.user_attrs
        if attributes.get("search_id", str(search_id)) == str(search_id):
            break
    is_new = "search_id" not in attributes
    if is_new:
        study.set_metric_names([OBJECTIVE])
        # The identity comes last: where it stands the description is complete.
        for key, value in {**_description(subject), "search_id": str(search_id)}.items():
            study.set_user_attr(key, value)
    return study, is_new


def _description(subject: _Subject) -> dict[str, Any]:
    spec = subject.spec
    tasks = f"{spec.tasks.family}, {spec.tasks.shots}-shot, {spec.tasks.queries} queries"
    if spec.tasks.ways is not None:
        tasks = f"{tasks} per class, {spec.tasks.ways}-way"
    width = f"{spec.model.filters} filters" if spec.model.hidden is None else f"hidden {list(spec.model.hidden)}"
    # The dashboard's first page shows five.
    return {
        "max_degradation": subject.max_degradation,
        "tasks": tasks,
        "model": f"{spec.model.network}, {width}",
        "norm_statistics": spec.norm_statistics,
        "device": spec.device,
        "metric": spec.tasks.metric,
        "confidence": spec.confidence,
        "units": list(subject.unit_names),
    }


def _frozen_trial(row: TrialRow, subject: _Subject) -> FrozenTrial:
    """A trial as Optuna shows it."""
    candidate = Candidate.parse(row.candidate, units=len(subject.unit_names))
    parameters = _parameters(candidate, subject)
    constraints = _constraints(row, subject.max_degradation)
    trial = optuna.trial.create_trial(
        state=OptunaState.COMPLETE if _is_complete(row) else OptunaState.PRUNED,
        value=_latency_s(row, subject),
        params={name: value for name, (value, _) in parameters.items()},
        distributions={name: distribution for name, (_, distribution) in parameters.items()},
        user_attrs=_user_attributes(row, candidate.pattern, subject),
        # optuna-dashboard 0.21 reads the attribute of Optuna before version 5.
        system_attrs={"constraints": list(constraints.values())} if constraints else {},
        constraints=constraints,
    )
    finished_at = subject.search.finished_at
    if finished_at is not None:
        # Optuna's times are local and naive.
        trial.datetime_start = trial.datetime_complete = min(
            datetime.now(), finished_at.astimezone().replace(tzinfo=None)
        )
    return trial


def _parameters(candidate: Candidate, subject: _Subject) -> dict[str, tuple[Any, BaseDistribution]]:
    """A candidate as Optuna's parameters: steps, the row (of each step where they may differ), factors, precision."""
    space = subject.spec.space
    rows = subject.row_distribution
    texts = [row_text(row) for row in candidate.pattern.rows]
    parameters: dict[str, tuple[Any, BaseDistribution]] = {}
    named = {"row": texts[0]} if space.kind == "constant_rows" else _numbered("row", texts)
    for name, row in named.items():
        parameters[name] = (row if isinstance(rows, CategoricalDistribution) else int(row, base=2), rows)
    parameters["steps"] = (candidate.steps, IntDistribution(1, max(subject.max_steps, candidate.steps)))
    if len(space.rate_factors) > 1:
        factors = CategoricalDistribution(space.rate_factors)
        parameters.update({name: (each, factors) for name, each in _numbered("factor", candidate.factors).items()})
    if subject.spec.may_lower_precision:
        parameters["precision"] = (candidate.precision.value, PRECISIONS)
    return parameters


def _numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    return {f"{name} {number}": value for number, value in enumerate(values, start=1)}


def _latency_s(row: TrialRow, subject: _Subject) -> float | None:
    """Measured, or else predicted; Optuna asks for the best among complete trials only, which are measured."""
    if row.latency_s is not None or row.predicted_latency_s is None or subject.latency_ratio is None:
        return row.latency_s
    return row.predicted_latency_s * subject.latency_ratio


def _is_complete(row: TrialRow) -> bool:
    return row.state != TrialState.DROPPED and row.latency_s is not None


def _constraints(row: TrialRow, max_degradation: float | None) -> dict[str, float]:
    """By how much a candidate exceeds the threshold; at most 0 where it does not.

    ``degradation`` is of validation classes. Where the candidate was tested, ``certificate``, the upper bound on
    confirmation classes, stands in its place.
    """
    if max_degradation is None:
        return {}
    return {key: _finite(figure - max_degradation) for key, figure in _constrained(row).items()}


def _constrained(row: TrialRow) -> dict[str, float]:
    """The figures that the threshold is about, as far as they are known."""
    proved = (row.confirmation or {}).get("upper_bound")
    figures = {DEGRADATION: row.degradation} if proved is None else {CERTIFICATE: proved}
    return {key: figure for key, figure in figures.items() if figure is not None}


def _finite(violation: float) -> float:
    return MAX_VIOLATION if math.isnan(violation) else max(-MAX_VIOLATION, min(MAX_VIOLATION, violation))


def _constraint_text(row: TrialRow, max_degradation: float | None) -> str | None:
    """The constraints in words: the dashboard shows whether they hold, but not their figures."""
    constraints = _constraints(row, max_degradation)
    if not constraints:
        return None
    figures = _constrained(row)
    compared = [
        f"{key} {figures[key]:.4g} {'<=' if violation <= 0 else '>'} {max_degradation:.4g}"
        for key, violation in constraints.items()
    ]
    verdict = "feasible" if all(violation <= 0 for violation in constraints.values()) else "infeasible"
    return f"{', '.join(compared)}: {verdict}"


def _user_attributes(row: TrialRow, pattern: LambdaPattern, subject: _Subject) -> dict[str, Any]:
    """What else a trial shows, first what one looks for first."""
    active = pattern.active_units
    attributes: dict[str, Any] = {
        "candidate": row.candidate,
        "state": row.state,
        "constraint": _constraint_text(row, subject.max_degradation),
        "reason": row.reason,
        "speedup": row.speedup,
        "latency": "predicted" if row.latency_s is None else "measured",
        "degradation": row.degradation,
        "degradation_se": row.degradation_se,
        "quality": row.quality,
        **{name: int(unit in active) for unit, name in enumerate(subject.unit_names)},
        "blocks": row.blocks,
        "episodes": row.blocks * subject.block,
        TRIAL_NUMBER: row.number,
        **{f"confirmation_{key}": value for key, value in (row.confirmation or {}).items()},
    }
    return {key: value for key, value in attributes.items() if value is not None}


def _complete_study(database: Database, study: optuna.Study, subject: _Subject) -> None:
    """Say on the study how its search ended, and draw what it found."""
    search = subject.search
    study.set_user_attr("status", search.status)
    with database.session() as session:
        judged = [
            (Candidate.parse(row.candidate, len(subject.unit_names)), row.degradation)
            for row in trials.of_search(session, search.id)
            if row.degradation is not None
        ]
    _drawn(save_importance, study, judged, subject.unit_names)
    if search.status != SearchStatus.SUCCEEDED:
        return
    result = searches.result(search)
    _drawn(save_front, study, result)
    answer = result.fastest
    study.set_user_attr("answer", answer.candidate)
    figures = [
        ("speedup", answer.speedup),
        ("speedup_over_plain", answer.speedup_over_plain),
        ("end_to_end_speedup", answer.end_to_end_speedup),
    ]
    lines = [
        f"## Fastest pattern under the threshold: `{answer.candidate}`",
        "",
        "| figure | estimate | low | high |",
        "|---|---|---|---|",
        *(_table_line(name, [ratio.estimate, ratio.low, ratio.high]) for name, ratio in figures if ratio is not None),
        _table_line(answer.quality.metric, [answer.quality.estimate, answer.quality.low, answer.quality.high]),
        _table_line(DEGRADATION, [answer.degradation.estimate, answer.degradation.low, answer.degradation.high]),
        "",
        f"Quality and degradation are of confirmation classes; search `{search.id}`.",
    ]
    save_note(study, "\n".join(lines))


def _drawn(save: Callable[..., None], *arguments: Any) -> None:
    """Save a plot; one that cannot be drawn must not keep everything else from being shown."""
    try:
        save(*arguments)
    except Exception:
        log.exception("plot of a study not drawn", plot=getattr(save, "__name__", ""))


def _table_line(name: str, figures: Iterable[float]) -> str:
    return f"| {name} | {' | '.join(f'{figure:.4g}' for figure in figures)} |"
