"""One search under way, as a phase sees it: its row and everything that follows from its spec and checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import EvaluationScope, Split, TimingScope, content_key
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.search import NetworkSpec, Phase, Runtime, SearchSpec, TaskFamily
from search_service.storage import checkpoints, codec, evaluations
from search_service.storage.tables import CheckpointRow, SearchRow
from workers.runtime.work import ModelUnderTest
from workers.search.statistics import Qualities


@dataclass
class Case:
    """A running search inside a transaction that holds the lock on its row."""

    session: Session
    row: SearchRow
    device: dict[str, Any]
    """Fingerprint of the device that this worker's evaluator holds."""
    class_count: Callable[[TaskFamily, Split], int | None]
    """Classes of a task family's split, as this worker has it."""

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
    def checkpoint_config(self) -> codec.CheckpointConfig:
        """What the checkpoint was made from."""
        return codec.checkpoint_config_from_json(self.checkpoint.config)

    @property
    def network(self) -> NetworkSpec:
        """The architecture."""
        return self.checkpoint_config.model

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
        return self.spec.base_rate(self.checkpoint_config.meta_training.inner_rate)

    @property
    def max_steps(self) -> int:
        """Most inner steps of a candidate."""
        return self.spec.max_steps(self.checkpoint_config.meta_training.inner_steps)

    @property
    def baseline(self) -> LambdaPattern:
        """The full pattern for the baseline's steps."""
        steps = self.spec.baseline_steps(self.checkpoint_config.meta_training.inner_steps)
        return LambdaPattern.full(len(self.unit_names), steps)

    @property
    def empty(self) -> Candidate:
        """No adaptation."""
        return Candidate(LambdaPattern.empty(len(self.unit_names)))

    @property
    def full_by_steps(self) -> list[Candidate]:
        """The full pattern for one step, two, and so on, up to the baseline's or the space's most steps."""
        units = len(self.unit_names)
        most = max(self.baseline.steps, self.max_steps)
        return [Candidate(LambdaPattern.full(units, steps)) for steps in range(1, most + 1)]

    @property
    def subject(self) -> ModelUnderTest:
        """The model, as an evaluator is told of it."""
        return ModelUnderTest(
            checkpoint_uri=self.checkpoint.uri,
            tasks=self.spec.tasks,
            model=self.network,
            rate=self.rate,
            norm_statistics=self.spec.norm_statistics,
            units=tuple(self.spec.units.items()),
        )

    def scope(self, split: Split) -> EvaluationScope:
        """The key of this search's evaluations on a split."""
        tasks = self.spec.tasks
        return EvaluationScope(
            checkpoint=self.checkpoint.id,
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

    def qualities(self, split: Split, pattern: str, blocks: int | None = None) -> Qualities:
        """Stored qualities of a pattern on the first ``blocks`` blocks of a split (all of the budget unless said)."""
        wanted = self.blocks(split) if blocks is None else blocks
        stored = evaluations.blocks(self.session, self.scope(split).key, pattern, wanted)
        if len(stored) != wanted:
            raise LookupError(f"'{pattern}' has {len(stored)} of {wanted} {split} blocks")
        return np.concatenate([np.asarray(block, dtype=np.float64) for block in stored])

    def blocks(self, split: Split) -> int:
        """How many blocks of a split this search judges on."""
        budget = self.spec.episodes
        episodes = budget.validation if split == Split.VALIDATION else budget.confirmation
        return episodes // budget.block

    def add_effort(self, **counts: int) -> None:
        """Add to what judging took."""
        effort = dict(self.row.effort)
        for name, count in counts.items():
            effort[name] = effort.get(name, 0) + count
        self.row.effort = effort

    def set_progress(self, done: float, total: float, unit: str, message: str = "") -> None:
        """Say how far the phase is."""
        self.row.progress = {"done": done, "total": total, "unit": unit, "message": message}
