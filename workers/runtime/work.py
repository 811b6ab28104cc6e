"""What an evaluator is asked to compute, and what it answers. Plain values: they cross a process boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter

from search_service.domain.evaluation import Split
from search_service.domain.recipe import Recipe
from search_service.domain.search import NetworkSpec, Runtime, TaskFamily
from search_service.domain.space import CandidateSpace
from workers.adaptation.latency_model import LatencyModel

LATENCY_MODEL: TypeAdapter[LatencyModel] = TypeAdapter(LatencyModel)
"""Between a latency model and the JSON that it is stored and sent as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUnderTest:
    """A checkpoint and how it adapts."""

    checkpoint_uri: str
    tasks: TaskFamily
    model: NetworkSpec
    rate: float
    norm_statistics: Literal["support", "query"]
    units: tuple[tuple[str, tuple[str, ...]], ...]
    """Name of each unit and of its parameters, input to output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWork:
    """Meta-train for a while; ends in a stored state."""

    recipe: Recipe
    state_uri: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """Where training stands."""

    iteration: int
    iterations: int
    mean_loss: float
    state_uri: str | None
    """None where the stored states were lost and training begins again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointWork:
    """Make a checkpoint of a finished training state and measure its quality on validation classes."""

    recipe: Recipe
    state_uri: str
    episodes: int
    block: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOutcome:
    """A stored checkpoint: its identity (SHA-256 of its file), where it is, and its quality."""

    id: str
    uri: str
    quality: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingWork:
    """Judge candidates, and with each its first 1, 2, ... steps, on a block of episodes."""

    subject: ModelUnderTest
    candidates: list[str]
    split: Split
    seed: int
    block: int
    block_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingOutcome:
    """Per candidate, qualities after each step: one list of ``block_size`` numbers per step (without steps, one)."""

    qualities: dict[str, list[list[float]]]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalWork:
    """Propose candidates to judge next (``workers.search.proposals``)."""

    space: CandidateSpace
    sampler: str
    known: list[tuple[str, float, float | None]]
    """Text, predicted latency and violation of every candidate so far."""
    latency_model: dict[str, Any]
    faster_than_s: float
    count: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalOutcome:
    """Candidates, none of them known; fewer than wanted, or none, where nothing faster was found."""

    candidates: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationWork:
    """Time candidates, eagerly, for a latency model."""

    subject: ModelUnderTest
    candidates: list[str]
    seed: int
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOutcome:
    """Median latency of each candidate, and what else a model needs (``workers.adaptation.latency_model``)."""

    latencies_s: dict[str, float]
    statistics_units: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingWork:
    """Time candidates against the baseline and plain PyTorch, interleaved."""

    subject: ModelUnderTest
    baseline: str
    candidates: list[str]
    runtime: Runtime
    seed: int
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingOutcome:
    """Per candidate: latencies and ratios, as :class:`search_service.domain.result.PatternFigures` names them."""

    figures: dict[str, dict[str, Any]]


Work = TrainingWork | CheckpointWork | JudgingWork | ProposalWork | CalibrationWork | TimingWork
Outcome = TrainingOutcome | CheckpointOutcome | JudgingOutcome | ProposalOutcome | CalibrationOutcome | TimingOutcome


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a piece of work is, while it runs."""

    done: float
    total: float
    unit: str
    message: str = ""
