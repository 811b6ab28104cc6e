"""A recipe: everything that determines a trained checkpoint, and its identity."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import ENGINE_VERSION, content_key
from search_service.domain.search import MetaTraining, NetworkSpec, SearchSpec, TaskFamily

RETRAINING_SHARE = 0.2
"""Iterations of a retraining, of those that its checkpoint was trained for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """What a retraining begins from, and the candidate that its inner loop is."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    checkpoint: str
    """Identity of the checkpoint whose parameters it begins from."""
    uri: str
    """Where that is, relative to the artifact store."""
    candidate: str
    """The candidate's canonical text."""
    units: tuple[tuple[str, tuple[str, ...]], ...]
    """Name of each unit that the candidate speaks of, and of its parameters, input to output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained, on what, and how. The same recipe is never trained twice."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    tasks: TaskFamily
    model: NetworkSpec
    meta_training: MetaTraining
    norm_statistics: Literal["support", "query"]
    retraining: Retraining | None = None
    """None where training begins from random parameters and its inner loop is full adaptation."""

    @classmethod
    def of(cls, spec: SearchSpec) -> Recipe:
        """The recipe of a spec that trains.

        Raises:
            ValueError: the spec names a checkpoint instead.
        """
        if spec.meta_training is None:
            raise ValueError("the spec names a checkpoint, it has no recipe")
        return cls(
            tasks=spec.tasks,
            model=spec.model,
            meta_training=spec.meta_training,
            norm_statistics=spec.norm_statistics,
        )

    def retrained(self, retraining: Retraining, rate: float) -> Recipe:
        """The recipe of a short training that goes on from this one's checkpoint, on tasks of its own.

        Args:
            retraining: under which candidate.
            rate: base rate of the inner loop.
        """
        before = self.meta_training
        training = replace(
            before,
            inner_steps=Candidate.parse(retraining.candidate).steps,
            inner_rate=rate,
            outer_loss="last_step",
            iterations=max(1, round(RETRAINING_SHARE * before.iterations)),
            seed=before.seed + 1,
        )
        return replace(self, meta_training=training, retraining=retraining)

    @property
    def config(self) -> dict[str, Any]:
        """The recipe as JSON."""
        fields = asdict(self)
        if self.retraining is None:
            del fields["retraining"]
        return fields

    @property
    def key(self) -> str:
        """Identity: SHA-256 of the recipe and of the engine's version."""
        return content_key({**self.config, "engine_version": ENGINE_VERSION})
