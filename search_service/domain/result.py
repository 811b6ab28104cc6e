"""The result document: what a finished search answers.

Figures under ``fastest``, ``baseline``, ``empty`` and ``full_by_steps`` come from confirmation classes; validation
figures stand under ``search`` and ``front``. ``low`` and ``high`` are two-sided 95 % intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds of one episode at a time."""

    median: float
    p10: float
    p90: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """How many times faster, with its interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Mean quality over episodes, with its interval."""

    metric: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Degradation:
    """Mean paired quality loss against the baseline, with its interval."""

    estimate: float
    low: float
    high: float
    upper_bound: float | None
    """One-sided bound at the confidence the method spent on this candidate; None where no test was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """What compiling a program took, once; no part of any latency."""

    seconds: float
    from_cache: bool
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatternFigures:
    """One pattern and everything that was measured of it."""

    pattern: str
    precision: Precision = Precision.FLOAT32
    """In what the frozen prefix is computed; what adapts is float32."""
    rows: list[str]
    units: list[str]
    """Names of the units, input to output: what each digit of a row stands for."""
    steps: int
    rates: list[float]
    """Inner learning rate of each step: the base rate times the row's rate factor."""
    rate_factors: list[float]
    latency_s: Latency | None
    """None for the empty pattern, which does nothing."""
    prediction_latency_s: dict[str, Latency]
    """``one_query`` and ``all_queries``: prediction from the adapted state."""
    speedup: Ratio | None
    """Against this engine's own baseline in the same runtime, each in its fastest layout, interleaved in one
    process."""
    speedup_over_plain: Ratio | None
    """Against plain PyTorch, eager, adapting all units for the baseline's steps."""
    end_to_end_speedup: Ratio | None
    """Adaptation and prediction of the episode's queries, against this engine's own baseline."""
    quality: Quality
    degradation: Degradation
    layout: str | None = None
    """Memory layout of images and filters, chosen by measurement; None where nothing was timed."""
    multiply_adds: int | None = None
    """Counted in the program's convolutions and matrix products."""
    compilation: Compilation | None = None
    """None in the runtime ``eager``."""

    @property
    def candidate(self) -> str:
        """The candidate's canonical text."""
        return _candidate_text(self.pattern, self.rate_factors, self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """A candidate that no other beats in both latency and validation quality."""

    pattern: str
    precision: Precision = Precision.FLOAT32
    rate_factors: list[float]
    latency_s: float
    speedup: float
    quality: float
    degradation: float
    degradation_low: float
    degradation_high: float

    @property
    def candidate(self) -> str:
        """The candidate's canonical text."""
        return _candidate_text(self.pattern, self.rate_factors, self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """A candidate tested on confirmation classes, and what was proved of it."""

    candidate: str
    latency_s: float
    speedup: float
    speedup_over_plain: float
    quality: float
    degradation: float
    """Mean, on the episodes of its test."""
    upper_bound: float
    """Of its mean degradation; the bounds of all candidates tested hold together at the search's confidence."""
    episodes: int
    position: int
    """How manieth of the candidates tested it was."""
    state: str
    """`qualified`, `unqualified` or `unresolved`, at the search's own threshold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """What the answer was proved on."""

    split: str
    classes: int | None
    """Confirmation classes; None for regression families."""
    episodes: int
    position: int | None
    """How manieth of the candidates tested the answer was; None where the answer is the baseline."""
    alpha: float | None
    """The error that its test spent."""
    class_interval: Interval | None
    """Of the answer's degradation, had other classes of the same kind been drawn: classes resampled (bootstrap). The
    proof itself speaks of episodes of the classes above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedLatency:
    """How far predicted latencies were off, on candidates that the model was not fitted to."""

    calibrated_on: int
    """Candidates timed for the model."""
    median_error: float
    """Relative."""
    largest_error: float
    rank_correlation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEffort:
    """What the search did, and what became of the candidates that it judged."""

    method: str
    """`ordered`, or the sampler that proposed candidates."""
    method_reason: str
    """Why it was that one."""
    episodes: int
    """Most validation episodes that a candidate was judged on."""
    judged: int
    space_size: int
    dropped: int
    """Candidates surely over the threshold on validation classes."""
    survived: list[str]
    """Candidates that validation did not rule out, in canonical text order."""
    qualified: list[str]
    """Candidates proved on confirmation classes to stay under the threshold."""
    unqualified: list[str]
    """Candidates tested on confirmation classes and surely over the threshold."""
    unresolved: list[str]
    """Candidates too near the threshold to be told from it: each may be under it or over it."""
    untested: list[str]
    """Survivors not tested on confirmation classes, since they are slower than the answer."""
    predicted: PredictedLatency
    """Where the order of candidates came from."""
    episode_adaptations: int
    """Episodes times patterns judged, in all phases."""
    image_passes: int
    """Forward passes of single examples that judging took, in all phases."""
    reused_evaluations: int
    """Evaluation blocks that earlier searches had already stored."""
    answered_from: str | None = None
    """The earlier search, with another threshold, that had judged, timed and tested all of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedupSplit:
    """Where ``speedup_over_plain`` comes from; the three factors multiply to it."""

    steps: float
    """Fewer inner steps, all units: baseline over full with the answer's steps."""
    rows: float
    """Fewer units at the same steps, and a lower precision of what they leave frozen."""
    engine: float
    """This engine's full baseline against plain PyTorch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retrained:
    """The answer once more, with parameters that were trained a little further under it; its latency is the answer's.

    Degradations are against the baseline of the checkpoint that was searched.
    """

    candidate: str
    checkpoint: dict[str, Any]
    """Identity, place, quality on validation classes, and what it was made from."""
    iterations: int
    """Of the retraining."""
    quality: Quality
    degradation: Degradation
    episodes: int
    """Confirmation episodes that it was tested on."""
    position: int
    """How manieth of all that was tested; its bound holds together with those of the candidates."""
    state: str
    """`qualified`, `unqualified` or `unresolved`."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The fastest pattern whose quality loss stays under the threshold, and everything needed to believe it."""

    search_id: str
    status: str
    fastest: PatternFigures
    baseline: PatternFigures
    empty: PatternFigures
    full_by_steps: list[PatternFigures]
    speedup_split: SpeedupSplit
    max_degradation: float
    """ε in the metric's unit, also where the spec gave it relative."""
    confidence: float
    method: str
    goal: str
    """`fastest`, or `front`: then all candidates of the front were tested, and other thresholds can be asked for."""
    proved: list[Proved]
    """Every candidate that was tested, fastest first."""
    confirmed: Confirmed
    search: SearchEffort
    front: list[FrontPoint]
    checkpoint: dict[str, Any]
    norm_statistics: str
    device: dict[str, Any]
    runtime: str
    seconds: dict[str, float]
    """Wall-clock seconds of each phase, and ``total`` from submission to result."""
    warnings: list[str]
    retrained: Retrained | None = None
    """Where the spec asked for retraining, and there was an answer to retrain under."""


def _candidate_text(pattern: str, factors: list[float], precision: Precision) -> str:
    return Candidate(LambdaPattern.parse(pattern), tuple(factors), precision).text
