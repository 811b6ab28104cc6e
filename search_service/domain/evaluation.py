"""What is measured of a candidate: its qualities on blocks of episodes, and its latency on a device.

Both are keyed by everything that determines them and nothing else, so that any later search may reuse them. Device,
thread count and library versions are provenance of an evaluation and part of the key of a timing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Literal

ENGINE_VERSION = 1
"""Raised whenever the arithmetic of adaptation or the drawing of episodes changes: older evaluations are not reused."""


DIVERGED_QUALITY = -1e30
"""The quality that stands for "not a number" or minus infinity: far below any other, and storable as JSON."""
_DIVERGED_MEAN = DIVERGED_QUALITY / 1e9
"""A mean of qualities below this has a diverged episode in it, if it is of fewer than 10^9."""


def known_mean(quality: float | None) -> float | None:
    """A mean of qualities; None where adaptation diverged on one of its episodes, so that it is no figure."""
    return None if quality is None or quality < _DIVERGED_MEAN else quality


class Split(StrEnum):
    """Class-disjoint parts of a task family."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    """The confirmation classes: the search never sees them before the certificate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Fields that together are a key."""

    @property
    def key(self) -> str:
        """Identity: SHA-256 of the fields, as hexadecimal text."""
        return content_key(asdict(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationScope(_Scope):
    """Everything, beside candidate and block, that determines an evaluation."""

    checkpoint: str
    family: str
    ways: int | None
    shots: int
    queries: int
    split: Split
    seed: int
    block_size: int
    rate: float
    norm_statistics: Literal["support", "query"]
    units: tuple[tuple[str, ...], ...] | None = None
    """Parameters of each unit, where they are not the network's own units."""
    adaptation_rule: Literal["gradient_descent"] = "gradient_descent"
    engine_version: int = ENGINE_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyScope(_Scope):
    """Everything, beside the candidate, that determines the latency of a candidate in a runtime on a device.

    The latency of gradient descent does not depend on the values of the parameters, so the architecture stands here and
    the checkpoint does not.
    """

    network: str
    family: str
    ways: int | None
    shots: int
    norm_statistics: Literal["support", "query"]
    units: tuple[tuple[str, ...], ...] | None = None
    """Parameters of each unit, where they are not the network's own units."""
    max_steps: int
    """Of the candidates that a model is fitted to."""
    lowered: bool
    """Whether some of these have a lowered precision."""
    runtime: str
    fingerprint: str
    engine_version: int = ENGINE_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingScope(_Scope):
    """Everything, beside the candidate, that determines its figures in a timing run: predictions are timed as well."""

    network: str
    family: str
    ways: int | None
    shots: int
    queries: int
    rate: float
    norm_statistics: Literal["support", "query"]
    units: tuple[tuple[str, ...], ...] | None = None
    """Parameters of each unit, where they are not the network's own units."""
    baseline: str
    runtime: str
    fingerprint: str
    engine_version: int = ENGINE_VERSION


def content_key(fields: dict[str, object]) -> str:
    """SHA-256 of the canonical JSON of ``fields``, as hexadecimal text."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
