"""One search under way, as a phase sees it: its row and everything that follows from its spec and checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import EvaluationScope, LatencyScope, Split, TimingScope, content_key
from search_service.domain.events import EventKind
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.recipe import Recipe
from search_service.domain.search import DEFAULT_TRIALS, NetworkSpec, Phase, Runtime, SearchSpec, TaskFamily
from search_service.domain.space import CandidateSpace
from search_service.domain.trial import TrialState
from search_service.storage import checkpoints, codec, evaluations, events, trials
from search_service.storage.database import server_time
from search_service.storage.tables import CheckpointRow, SearchRow, TrialRow
from workers.adaptation.episodes import Episodes
from workers.runtime.work import ModelUnderTest
from workers.search.confidence import Degradations, Question, clip
from workers.search.decisions import question_of
from workers.search.statistics import Qualities

OpenEpisodes = Callable[[TaskFamily], Episodes]
"""Opens a task family, as a worker has it."""

NO_QUESTION = ("name", "priority", "goal", "max_degradation", "meta_training", "retrain")
"""Fields of a spec that two searches with the same question may differ in; what was trained is the checkpoint."""


@dataclass
class Case:
    """A running search inside a transaction that holds the lock on its row."""

    session: Session
    row: SearchRow
    device: dict[str, Any]
    """Fingerprint of the device that this worker's evaluator holds."""
    open_episodes: OpenEpisodes
    """Opens a task family, as this worker has it."""

    @cached_property
    def spec(self) -> SearchSpec:
        """What was asked for."""
        return codec.spec_from_json(self.row.spec)

    @cached_property
    def checkpoint(self) -> CheckpointRow:
        """The checkpoint that adapts; there is one after the meta-training phase."""
        if self.row.checkpoint is None:
            raise LookupError(f"search {self.row.id} has no checkpoint in phase {self.row.phase}")
        return checkpoints.get(self.session, self.row.checkpoint)

    @cached_property
    def recipe(self) -> Recipe:
        """What the checkpoint was made from."""
        return codec.recipe_from_json(self.checkpoint.config)

    @property
    def network(self) -> NetworkSpec:
        """The architecture."""
        return self.recipe.model

    @property
    def unit_names(self) -> tuple[str, ...]:
        """What patterns speak of, input to output."""
        return tuple(self.spec.units)

    @property
    def regrouped_units(self) -> tuple[tuple[str, ...], ...] | None:
        """The parameters of each unit, where they are not the network's own units."""
        units, own = tuple(self.spec.units.values()), tuple(self.network.units.values())
        return None if units == own else units

    @property
    def rate(self) -> float:
        """Inner learning rate of baseline and candidates."""
        return self.spec.base_rate(self.recipe.meta_training.inner_rate)

    @cached_property
    def space(self) -> CandidateSpace:
        """What is searched."""
        trained_steps = self.recipe.meta_training.inner_steps
        return self.spec.candidates(trained_steps, fast_bfloat16=bool(self.device.get("fast_bfloat16")))

    @property
    def method(self) -> str:
        """How candidates are found: ``ordered``, or a sampler's name."""
        return self.spec.method.chosen_for(self.space)[0]

    @property
    def trial_budget(self) -> int:
        """Most candidates that a sampler's search judges."""
        return self.spec.method.trials or DEFAULT_TRIALS

    @property
    def baseline(self) -> LambdaPattern:
        """The full pattern for the baseline's steps."""
        steps = self.spec.baseline_steps(self.recipe.meta_training.inner_steps)
        return LambdaPattern.full(len(self.unit_names), steps)

    @property
    def empty(self) -> Candidate:
        """No adaptation."""
        return Candidate(LambdaPattern.empty(len(self.unit_names)))

    @property
    def full_by_steps(self) -> list[Candidate]:
        """The full pattern for one step, two, and so on, up to the baseline's or the space's most steps."""
        units = len(self.unit_names)
        most = max(self.baseline.steps, self.space.max_steps)
        return [Candidate(LambdaPattern.full(units, steps)) for steps in range(1, most + 1)]

    @property
    def answer(self) -> TrialRow | None:
        """The fastest candidate that qualified, if any has; ties go to the canonical text."""
        qualified = trials.of_search(self.session, self.row.id, [TrialState.QUALIFIED])
        return min(qualified, key=lambda row: (-(row.speedup or 0.0), row.candidate), default=None)

    def tell_trials(self, decided: Iterable[TrialRow]) -> None:
        """Tell what was decided about candidates, as events."""
        told = [
            {
                "candidate": row.candidate,
                "state": row.state,
                "degradation": row.degradation,
                "latency_s": row.latency_s,
                "speedup": row.speedup,
                "reason": row.reason,
            }
            for row in decided
        ]
        events.add_many(self.session, self.row.id, EventKind.TRIAL, told)

    def tell_best(self) -> None:
        """Tell which candidate is the best so far: the fastest proved, or else the fastest timed that is still in."""
        best = self.answer
        if best is None:
            timed = [row for row in trials.of_search(self.session, self.row.id, [TrialState.SURVIVED]) if row.speedup]
            best = min(timed, key=lambda row: (-(row.speedup or 0.0), row.candidate), default=None)
        if best is not None:
            events.add(
                self.session,
                self.row.id,
                EventKind.BEST,
                candidate=best.candidate,
                speedup=best.speedup,
                degradation=best.degradation,
                proved=best.state == TrialState.QUALIFIED,
            )

    @property
    def subject(self) -> ModelUnderTest:
        """The model, as an evaluator is told of it."""
        return self.subject_of(self.checkpoint)

    def subject_of(self, checkpoint: CheckpointRow) -> ModelUnderTest:
        """The model with the parameters of a checkpoint: the search's own, or the retrained one."""
        return ModelUnderTest(
            checkpoint_uri=checkpoint.uri,
            tasks=self.spec.tasks,
            model=self.network,
            rate=self.rate,
            norm_statistics=self.spec.norm_statistics,
            units=tuple(self.spec.units.items()),
        )

    def scope(self, split: Split, checkpoint: CheckpointRow | None = None) -> EvaluationScope:
        """The key of evaluations on a split: of the search's checkpoint, or of another that adapts likewise."""
        tasks = self.spec.tasks
        return EvaluationScope(
            checkpoint=(checkpoint or self.checkpoint).id,
            family=tasks.family,
            ways=tasks.ways,
            shots=tasks.shots,
            queries=tasks.queries,
            split=split,
            seed=self.spec.seed,
            block_size=self.spec.episodes.block,
            rate=self.rate,
            norm_statistics=self.spec.norm_statistics,
            units=self.regrouped_units,
        )

    @property
    def latency_scope(self) -> LatencyScope:
        """The key of the latency model of this search on this worker's device; it is one of the eager runtime."""
        tasks = self.spec.tasks
        return LatencyScope(
            network=content_key({"network": repr(self.network)}),
            family=tasks.family,
            ways=tasks.ways,
            shots=tasks.shots,
            norm_statistics=self.spec.norm_statistics,
            units=self.regrouped_units,
            max_steps=self.space.max_steps,
            lowered=self.space.lowered,
            runtime="eager",
            fingerprint=content_key(self.device),
        )

    def timing_scope(self, runtime: Runtime) -> TimingScope:
        """The key of this search's timings in a runtime on this worker's device."""
        tasks = self.spec.tasks
        return TimingScope(
            network=content_key({"network": repr(self.network)}),
            family=tasks.family,
            ways=tasks.ways,
            shots=tasks.shots,
            queries=tasks.queries,
            rate=self.rate,
            norm_statistics=self.spec.norm_statistics,
            units=self.regrouped_units,
            baseline=self.baseline.text,
            runtime=runtime,
            fingerprint=content_key(self.device),
        )

    @property
    def phase(self) -> Phase:
        """The running phase."""
        if self.row.phase is None:
            raise LookupError(f"search {self.row.id} has not begun")
        return Phase(self.row.phase)

    @property
    def max_degradation(self) -> float:
        """ε in the metric's unit; set at the end of the baseline phase."""
        if self.row.max_degradation is None:
            raise LookupError(f"search {self.row.id} has no threshold in phase {self.row.phase}")
        return self.row.max_degradation

    @property
    def degradation_bound(self) -> float:
        """The most that one episode may lose, in the metric's unit."""
        bound = self.spec.degradation_bound or 1.0
        if self.spec.degradation == "relative":
            return bound * self.max_degradation / self.spec.max_degradation
        return bound

    def question(self, position: int) -> Question:
        """What the ``position``-th candidate tested (from 1) is asked."""
        return question_of(self.max_degradation, self.degradation_bound, self.spec.confidence, position)

    @property
    def question_key(self) -> str:
        """Identity of everything that determines the answer but the threshold."""
        asked = {name: value for name, value in codec.spec_to_json(self.spec).items() if name not in NO_QUESTION}
        timed = self.timing_scope(self.spec.runtime).key
        return content_key({**asked, "checkpoint": self.checkpoint.id, "timing_scope": timed})

    def qualities(
        self, split: Split, candidate: str, blocks: int, checkpoint: CheckpointRow | None = None
    ) -> Qualities:
        """Stored qualities of a candidate on the first ``blocks`` blocks of a split.

        Raises:
            LookupError: not all of them are stored.
        """
        stored = evaluations.blocks(self.session, self.scope(split, checkpoint).key, candidate, blocks)
        if len(stored) != blocks:
            raise LookupError(f"'{candidate}' has {len(stored)} of {blocks} {split} blocks")
        return np.concatenate([np.asarray(block, dtype=np.float64) for block in stored])

    def degradations(
        self, split: Split, candidate: str, blocks: int, checkpoint: CheckpointRow | None = None
    ) -> Degradations:
        """Paired degradations of a candidate on the first ``blocks`` blocks of a split, clipped.

        The baseline is the one of the search's own checkpoint, whatever the candidate adapts from.
        """
        lost = self.qualities(split, self.baseline.text, blocks) - self.qualities(split, candidate, blocks, checkpoint)
        return clip(lost, self.degradation_bound)

    def blocks(self, split: Split) -> int:
        """Most blocks of a split that a candidate is judged on."""
        budget = self.spec.episodes
        episodes = budget.validation if split == Split.VALIDATION else budget.confirmation
        return episodes // budget.block

    def add_effort(self, **counts: int) -> None:
        """Add to what judging took."""
        effort = dict(self.row.effort)
        for name, count in counts.items():
            effort[name] = effort.get(name, 0) + count
        self.row.effort = effort

    def seconds_in(self, phase: Phase) -> float:
        """Wall-clock seconds of a phase, in all its rounds up to now."""
        before: float = self.row.phase_seconds.get(phase.value, 0.0)
        if self.phase != phase or self.row.phase_started_at is None:
            return before
        return before + (server_time(self.session) - self.row.phase_started_at).total_seconds()

    def set_progress(self, done: float, total: float, unit: str, message: str = "") -> None:
        """Say how far the phase is."""
        self.row.progress = {"done": done, "total": total, "unit": unit, "message": message}
