"""A recipe: everything that determines a trained checkpoint, and its identity."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from search_service.domain.evaluation import ENGINE_VERSION, content_key
from search_service.domain.search import MetaTraining, NetworkSpec, SearchSpec, TaskFamily


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is trained, on what, and how. The same recipe is never trained twice."""

    tasks: TaskFamily
    model: NetworkSpec
    meta_training: MetaTraining
    norm_statistics: Literal["support", "query"]

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

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Recipe:
        """The recipe whose :attr:`config` this is."""
        return cls(
            tasks=TaskFamily(**config["tasks"]),
            model=NetworkSpec(**config["model"]),
            meta_training=MetaTraining(**config["meta_training"]),
            norm_statistics=config["norm_statistics"],
        )

    @property
    def config(self) -> dict[str, Any]:
        """The recipe as JSON."""
        return asdict(self)

    @property
    def key(self) -> str:
        """Identity: SHA-256 of the recipe and of the engine's version."""
        return content_key({**self.config, "engine_version": ENGINE_VERSION})
