"""A search that a test moves along by the stores, as workers would, so that no worker is needed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from search_service.domain.events import EventKind
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns
from search_service.domain.search import Phase, SearchStatus
from search_service.domain.trial import TrialState
from search_service.storage import codec, events, searches, trials
from search_service.storage.database import Database
from search_service.storage.tables import TrialRow
from tests.made_up_result import made_up_result

BASELINE_QUALITY = 0.88
BASELINE_LATENCY = 0.048  # seconds
UNITS, STEPS = 5, 5


def spec(**changes: Any) -> dict[str, Any]:
    """What is asked for."""
    return {
        "name": "glyphs, 5-way 1-shot",
        "tasks": {"family": "glyphs"},
        "model": {"network": "conv4"},
        "meta_training": {},
        "max_degradation": 0.01,
        **changes,
    }


class MovingSearch:
    """A search in a database.

    Args:
        database: where it is, or will be.
        search_id: an existing one; a new one of ``changes`` unless given.
        changes: to the spec.
    """

    def __init__(self, database: Database, search_id: UUID | None = None, **changes: Any) -> None:
        self._database = database
        if search_id is None:
            with database.session() as session:
                search_id = searches.add(session, codec.spec_from_json(spec(**changes))).id
        self.id = search_id
        self.path = f"/searches/{search_id}"

    def start(self) -> None:
        with self._database.session() as session:
            row = searches.lock(session, self.id)
            if row.status == SearchStatus.QUEUED:
                searches.start(session, row)

    def enter(self, phase: Phase, done: int = 0, total: int = 0, message: str = "") -> None:
        with self._database.session() as session:
            row = searches.lock(session, self.id)
            if row.phase != phase:
                searches.enter_phase(session, row, phase)
            searches.set_progress(row, {"done": done, "total": total, "unit": "blocks", "message": message})

    def list_candidates(self) -> None:
        """Every constant row, its latency predicted."""
        patterns = list(constant_row_patterns(UNITS, STEPS))
        patterns.sort(key=_latency)
        new = [trials.NewTrial(pattern.text, "group", _latency(pattern)) for pattern in patterns]
        with self._database.session() as session:
            trials.add_many(session, self.id, new)

    def judge(self, upto: int, blocks: int = 4) -> None:
        """Screen the first candidates."""
        with self._database.session() as session:
            row = searches.lock(session, self.id)
            decided = []
            for trial in trials.of_search(session, self.id)[:upto]:
                pattern = LambdaPattern.parse(trial.candidate)
                trial.degradation = _loss(pattern)
                trial.quality = BASELINE_QUALITY - trial.degradation
                trial.degradation_se, trial.blocks = 0.003, blocks
                is_hopeless = trial.degradation > 0.02
                trial.state = TrialState.DROPPED if is_hopeless else TrialState.SURVIVED
                trial.reason = "surely over the threshold" if is_hopeless else "not ruled out by validation tasks"
                decided.append({"candidate": trial.candidate, "state": trial.state})
            events.add_many(session, self.id, EventKind.TRIAL, decided)
            total = len(trials.of_search(session, self.id))
            searches.set_progress(row, {"done": upto, "total": total, "unit": "candidates", "message": "screening"})

    def prove(self, candidate: str, state: TrialState = TrialState.QUALIFIED, bound: float = 0.0068) -> None:
        """Time and test a candidate."""
        with self._database.session() as session:
            (trial,) = [row for row in trials.of_search(session, self.id) if row.candidate == candidate]
            trial.state, trial.latency_s = state, _latency(LambdaPattern.parse(candidate)) * 1.02
            trial.speedup = BASELINE_LATENCY / trial.latency_s
            trial.reason = "proved to lose at most the threshold"
            trial.confirmation = {
                "position": 2,
                "target": 38,
                "quality": 0.8745,
                "degradation": 0.0015,
                "low": -0.001,
                "high": 0.004,
                "upper_bound": bound,
                "alpha": 0.0125,
                "episodes": 600,
            }

    def succeed(self, **changes: Any) -> None:
        with self._database.session() as session:
            row = searches.lock(session, self.id)
            document = made_up_result(search_id=str(self.id), **changes)
            searches.succeed(session, row, document)

    def fail(self, title: str = "The evaluator failed", detail: str = "out of memory: lower episodes.block") -> None:
        with self._database.session() as session:
            searches.fail(session, searches.lock(session, self.id), title=title, detail=detail)

    def cancel(self) -> None:
        with self._database.session() as session:
            searches.cancel(session, searches.lock(session, self.id))

    def trial(self, candidate: str) -> TrialRow:
        with self._database.session() as session:
            (row,) = [row for row in trials.of_search(session, self.id) if row.candidate == candidate]
            return row

    def run_to_the_end(self, **changes: Any) -> None:
        """From the queue to an answer."""
        self.start()
        self.enter(Phase.SEARCH)
        self.list_candidates()
        self.judge(90)
        self.enter(Phase.CERTIFICATE)
        self.prove("00111", TrialState.UNQUALIFIED, 0.013)
        self.prove("00111@2")
        self.succeed(**changes)


def _latency(pattern: LambdaPattern) -> float:
    """Seconds, more for each unit behind the first active one."""
    lowest = pattern.lowest_active_unit or 0
    return 0.0012 + pattern.steps * (UNITS - lowest) ** 1.5 * 0.0008 + 0.0003 * len(pattern.active_units)


def _loss(pattern: LambdaPattern) -> float:
    """Less for more steps, and for conv4."""
    has_conv4 = pattern.rows[0][3]
    return round(0.05 / pattern.steps**1.6 + (0 if has_conv4 else 0.03) - 0.003 * len(pattern.active_units), 4)
