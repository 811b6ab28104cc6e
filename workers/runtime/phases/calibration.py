"""Calibration: a latency model of this network on this device, and with it the order in which candidates are judged.

The model is shared by every search with the same network, tasks and device, so most searches find it stored.
"""

from __future__ import annotations

from search_service.domain.candidate import Candidate
from search_service.domain.search import Phase
from search_service.storage import latency_models, tokens, trials
from search_service.storage.tables import TokenRow
from search_service.storage.trials import NewTrial
from workers.adaptation.latency_model import LatencyModel, calibration_candidates, fit
from workers.runtime.case import Case
from workers.runtime.phases.rules import Batch
from workers.runtime.work import LATENCY_MODEL, CalibrationOutcome, CalibrationWork, Outcome, Work
from workers.search.decisions import batch_group
from workers.search.proposals import seeds

LIMIT_SECONDS = 10.0
"""Seconds of rounds; tracing comes on top."""


def plan(case: Case) -> int:
    """One token, unless the model is stored; then the candidates are listed in its order."""
    scope = case.latency_scope
    model = latency_models.get(case.session, scope.key)
    if model is None and not tokens.count_of(case.session, case.row.id, case.phase):
        case.set_progress(0, 1, "share", "waiting for a worker")
        return 1
    if model is None:
        raise LookupError(f"no latency model was stored for search {case.row.id}")
    case.row.latency_model = model
    _list_trials(case)
    return 0


def take(case: Case, token: TokenRow) -> Batch | None:
    """The candidates to time, once."""
    if token.step:
        return None
    space = case.space
    candidates = calibration_candidates(space.units, space.max_steps, space.lowered)
    return {"candidates": [candidate.text for candidate in candidates]}


def work(case: Case, batch: Batch) -> Work | None:
    """Time them, eagerly."""
    return CalibrationWork(
        subject=case.subject, candidates=batch["candidates"], seed=case.spec.seed, limit_s=LIMIT_SECONDS
    )


def record(case: Case, token: TokenRow, batch: Batch, outcome: Outcome | None) -> None:
    """Fit the model and store it."""
    assert isinstance(outcome, CalibrationOutcome)
    candidates = [Candidate.parse(text, len(case.unit_names)) for text in batch["candidates"]]
    latencies_s = [outcome.latencies_s[candidate.text] for candidate in candidates]
    model = fit(candidates, latencies_s, outcome.statistics_units)
    latency_models.put(case.session, case.latency_scope, LATENCY_MODEL.dump_python(model, mode="json"))


def following(case: Case) -> Phase:
    """The search."""
    return Phase.SEARCH


def _list_trials(case: Case) -> None:
    """A trial for every candidate, or for those that a sampler begins with."""
    if case.method == "ordered":
        add_trials(case, list(case.space.candidates()))
    else:
        add_trials(case, seeds(case.space, max(1, case.trial_budget // 2)))


def model_of(case: Case) -> LatencyModel:
    """The latency model that the search goes by."""
    assert case.row.latency_model is not None, "there is one after the calibration"
    return LATENCY_MODEL.validate_python(case.row.latency_model)


def add_trials(case: Case, candidates: list[Candidate]) -> None:
    """One trial per candidate; those that share most of their work are judged together."""
    predicted_s = model_of(case).predict_many(candidates)
    new = [
        NewTrial(candidate.text, batch_group(candidate), float(seconds))
        for candidate, seconds in zip(candidates, predicted_s, strict=True)
    ]
    trials.add_many(case.session, case.row.id, new)
