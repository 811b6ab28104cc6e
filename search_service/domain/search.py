"""A search: what is asked for (the spec), where it stands (status, phase) and which moves between statuses are legal.

The spec is parsed once into these values, which check themselves when built; nobody else looks at its text. The field
descriptions below are what the API's documentation shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal

from search_service.domain.candidate import factor_problem
from search_service.domain.certificate import GUARANTEED, CertificateMethod, fewest_episodes, spent_alpha
from search_service.domain.errors import IllegalMove, InvalidSpec
from search_service.domain.lambda_pattern import MAX_UNITS
from search_service.domain.space import MAX_CANDIDATES, MAX_LISTED_CANDIDATES, CandidateSpace, SpaceKind
from search_service.domain.units import Units, grouped

_STRICT: dict[str, Any] = {"extra": "forbid", "use_attribute_docstrings": True}
"""How the wire format reads these dataclasses: unknown fields are refused by name, docstrings become descriptions."""


Runtime = Literal["eager", "compiled"]
"""How a program runs: operation by operation, or compiled."""


class SearchStatus(StrEnum):
    """Where a search stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no move leads away from here."""
        return not LEGAL_MOVES[self]


_Q, _R, _P = SearchStatus.QUEUED, SearchStatus.RUNNING, SearchStatus.PAUSED
_S, _F, _C = SearchStatus.SUCCEEDED, SearchStatus.FAILED, SearchStatus.CANCELLED
LEGAL_MOVES: dict[SearchStatus, frozenset[SearchStatus]] = {
    _Q: frozenset({_R, _P, _F, _C}),
    _R: frozenset({_P, _S, _F, _C}),
    _P: frozenset({_Q, _F, _C}),
    _S: frozenset(),
    _F: frozenset(),
    _C: frozenset(),
}


def check_move(search_id: str, present: SearchStatus, wanted: SearchStatus) -> None:
    """Refuse an illegal move.

    Raises:
        IllegalMove: ``wanted`` cannot follow ``present``.
    """
    if wanted not in LEGAL_MOVES[present]:
        raise IllegalMove(search_id, present, wanted)


class Phase(StrEnum):
    """What a running search is doing, in this order; the last of its tokens to end ends a phase.

    Search, timing and certificate repeat until a candidate qualifies or none is left. The last two are there where the
    answer is to be retrained under.
    """

    META_TRAINING = "meta_training"
    BASELINE = "baseline"
    CALIBRATION = "calibration"
    SEARCH = "search"
    TIMING = "timing"
    CERTIFICATE = "certificate"
    RETRAINING = "retraining"
    RETRAINED_CERTIFICATE = "retrained_certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFamily:
    """What few-shot tasks are drawn from."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    family: Literal["omniglot", "glyphs", "sinusoid"]
    """`omniglot` (handwritten characters, needs the dataset), `glyphs` (drawn by the service, needs nothing) or
    `sinusoid` (regression)."""
    ways: int | None = None
    """Classes per task, 2 to 100; 5 unless said. Not for `sinusoid`."""
    shots: int = 1
    """Support examples per class (per task for `sinusoid`), 1 to 100."""
    queries: int = 15
    """Query examples per class (per task for `sinusoid`), 1 to 1000."""

    def __post_init__(self) -> None:
        if self.is_regression:
            if self.ways is not None:
                raise InvalidSpec("tasks.ways", "sinusoid is a regression family, its tasks have no classes")
        else:
            if self.ways is None:
                object.__setattr__(self, "ways", 5)
            _check_range("tasks.ways", self.ways, 2, 100)
        _check_range("tasks.shots", self.shots, 1, 100)
        _check_range("tasks.queries", self.queries, 1, 1000)
        drawings = self.shots + self.queries
        if not self.is_regression and drawings > DRAWINGS_PER_CLASS:
            raise InvalidSpec(
                "tasks.queries",
                f"{self.family} has {DRAWINGS_PER_CLASS} drawings per class, shots + queries asks for {drawings}",
            )

    @property
    def is_regression(self) -> bool:
        """Whether targets are numbers rather than classes."""
        return self.family == "sinusoid"

    @property
    def metric(self) -> Literal["accuracy", "negative_mse"]:
        """The quality of these tasks, larger is better."""
        return "negative_mse" if self.is_regression else "accuracy"

    @property
    def outputs(self) -> int:
        """Outputs of the network: one per class, or one number."""
        return 1 if self.ways is None else self.ways

    @property
    def support_size(self) -> int:
        """Examples in a support set."""
        return self.shots * self.outputs

    @property
    def query_size(self) -> int:
        """Examples in a query set."""
        return self.queries * self.outputs


DRAWINGS_PER_CLASS = 20
"""Drawings of each class of `omniglot` and `glyphs`."""


KINDS = ("weight", "bias")
"""Parameters of every module of a network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """The architecture that adapts."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    network: Literal["conv4", "mlp"]
    """`conv4`: four convolution blocks and a linear head. `mlp`: fully connected layers and a linear head."""
    filters: int | None = None
    """Filters per block of `conv4`, 1 to 1024; 64 unless said."""
    pooling: Literal["max", "stride"] | None = None
    """How `conv4` halves its feature maps: max-pooling, or convolutions of stride 2. `max` unless said."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers of `mlp`, 1 to 16 layers of 1 to 4096; two of 40 unless said (Finn et al. 2017)."""

    def __post_init__(self) -> None:
        if self.network == "conv4":
            if self.hidden is not None:
                raise InvalidSpec("model.hidden", "conv4 has no hidden layers, it has filters")
            object.__setattr__(self, "filters", 64 if self.filters is None else self.filters)
            object.__setattr__(self, "pooling", self.pooling or "max")
            _check_range("model.filters", self.filters, 1, 1024)
        else:
            for name in ("filters", "pooling"):
                if getattr(self, name) is not None:
                    raise InvalidSpec(f"model.{name}", "mlp has hidden layers, no filters or pooling")
            object.__setattr__(self, "hidden", (40, 40) if self.hidden is None else tuple(self.hidden))
            _check_range("model.hidden", len(self.hidden or ()), 1, 16, what="number of layers")
            for width in self.hidden or ():
                _check_range("model.hidden", width, 1, 4096, what="width")

    @property
    def units(self) -> Units:
        """The network's own units, input to output, and the parameters of each."""
        if self.network == "conv4":
            names = [f"conv{number}" for number in range(1, 5)]
            modules = ["convolution", "norm"]
        else:
            names = [f"layer{number}" for number in range(1, len(self.hidden or ()) + 1)]
            modules = ["linear"]
        body = {name: tuple(f"{name}.{module}.{kind}" for module in modules for kind in KINDS) for name in names}
        return {**body, "head": tuple(f"head.{kind}" for kind in KINDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaTraining:
    """How a checkpoint is made: MAML (Finn et al., arXiv 1703.03400) with an Adam outer loop."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    order: Literal["first", "second"] = "first"
    """`second` differentiates through the inner steps (MAML); `first` does not (first-order MAML)."""
    outer_loss: Literal["last_step", "every_step"] = "last_step"
    """`last_step` minimises the query loss after the last inner step; `every_step` begins with the mean over all inner
    steps and moves to the last over the first tenth of the iterations (MAML++, Antoniou et al., arXiv 1810.09502)."""
    inner_steps: int = 5
    """Inner steps per task, 1 to 20."""
    inner_rate: float = 0.1
    """Inner learning rate."""
    outer_rate: float = 0.001
    """Adam's learning rate at the start."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """`cosine` lowers the outer rate to zero over the iterations; `constant` keeps it."""
    meta_batch: int = 4
    """Tasks per iteration, 1 to 1024."""
    iterations: int = 2000
    """Outer steps, 1 to 1,000,000."""
    seed: int = 0
    """Seeds the initial parameters and the training tasks."""

    def __post_init__(self) -> None:
        _check_range("meta_training.inner_steps", self.inner_steps, 1, 20)
        _check_rate("meta_training.inner_rate", self.inner_rate)
        _check_rate("meta_training.outer_rate", self.outer_rate)
        _check_range("meta_training.meta_batch", self.meta_batch, 1, 1024)
        _check_range("meta_training.iterations", self.iterations, 1, 1_000_000)
        _check_range("meta_training.seed", self.seed, 0, MAX_SEED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Which candidates there are."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    kind: SpaceKind = "constant_rows"
    """`constant_rows`: one row, repeated at every step. `per_step`: each step has a row of its own."""
    max_steps: int | None = None
    """Most inner steps a candidate may take, 1 to 64; the baseline's steps unless said."""
    units: tuple[tuple[str, ...], ...] | None = None
    """What is updated or frozen as one, input to output: each unit a list of names, of a network's units
    (`[[conv1, conv2], [conv3], [conv4], [head]]`), their modules (`conv1.norm`) or single parameters
    (`head.bias`); every parameter in exactly one. The network's own units unless said."""
    rate_factors: tuple[float, ...] = (1.0,)
    """Each row's rate is the base rate times one of these: up to 8 numbers above 0 and at most 1000."""

    def __post_init__(self) -> None:
        if self.max_steps is not None:
            _check_range("space.max_steps", self.max_steps, 1, 64)
        _check_range("space.rate_factors", len(self.rate_factors), 1, 8, what="number of factors")
        factors = tuple(sorted(map(float, self.rate_factors)))
        if len(set(factors)) != len(factors):
            raise InvalidSpec("space.rate_factors", "names a factor twice")
        for factor in factors:
            if problem := factor_problem(factor):
                raise InvalidSpec("space.rate_factors", problem)
        object.__setattr__(self, "rate_factors", factors)
        if self.units is not None:
            object.__setattr__(self, "units", tuple(map(tuple, self.units)))
            _check_range("space.units", len(self.units), 1, MAX_UNITS, what="number of units")


SAMPLERS = ("tpe", "gp", "nsga2", "random")
"""Optuna's samplers that a spec may name; others come as ``hub:<package>`` from OptunaHub, if workers have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How candidates are found."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    sampler: str = "auto"
    """`ordered` goes through the whole space in order of predicted latency. `tpe`, `gp`, `nsga2`, `random` (or
    `hub:<package>` of OptunaHub) propose candidates, after the constant rows and beside the neighbours of the best one
    found. `auto` is `ordered` where the space can be listed, up to 100,000 candidates, and `tpe` above."""
    trials: int | None = None
    """Most candidates that a sampler's search judges, 1 to 100,000; 500 unless said. Not for `ordered`."""
    episodes: int | None = None
    """Most episodes, over all candidates, that a sampler's search judges on validation classes."""
    seconds: float | None = None
    """Seconds of searching after which no block starts; those that survived by then are proved."""

    def __post_init__(self) -> None:
        is_from_hub = self.sampler.startswith("hub:") and len(self.sampler) > len("hub:")
        if self.sampler not in ("auto", "ordered", *SAMPLERS) and not is_from_hub:
            names = ", ".join(("auto", "ordered", *SAMPLERS))
            raise InvalidSpec("method.sampler", f"must be one of {names} or hub:<package>, not '{self.sampler}'")
        limits = {"trials": self.trials, "episodes": self.episodes, "seconds": self.seconds}
        if self.sampler == "ordered" and (given := [name for name, limit in limits.items() if limit is not None]):
            raise InvalidSpec(f"method.{given[0]}", "is for samplers; ordered stops where nothing faster is left")
        if self.trials is not None:
            _check_range("method.trials", self.trials, 1, 100_000)
        if self.episodes is not None:
            _check_range("method.episodes", self.episodes, 1, 10**9)
        if self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds > 0):
            raise InvalidSpec("method.seconds", f"must be a number above 0, not {self.seconds}")

    def chosen_for(self, space: CandidateSpace) -> tuple[str, str]:
        """The method for a space, and why it is that one."""
        size = size_in_words(space)
        if self.sampler != "auto":
            return self.sampler, f"asked for; the space has {size} candidates"
        if space.is_listable:
            return "ordered", f"the space has {size} candidates, at most {MAX_LISTED_CANDIDATES:,} can be listed"
        return "tpe", f"the space has {size} candidates, too many to list ({MAX_LISTED_CANDIDATES:,})"


DEFAULT_TRIALS = 500
"""Candidates that a sampler's search judges unless the spec says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeBudget:
    """How many episodes a candidate is judged on."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    block: int = 16
    """Episodes judged and stored together, 2 to 1000; after each block candidates that are surely too bad are
    dropped."""
    validation: int = 400
    """Most episodes of validation classes that a candidate is screened on, a whole number of blocks."""
    confirmation: int = 4000
    """Most episodes of confirmation classes that a candidate is tested on, a whole number of blocks; clear cases take
    fewer."""

    def __post_init__(self) -> None:
        _check_range("episodes.block", self.block, 2, 1000)
        for name in ("validation", "confirmation"):
            episodes = getattr(self, name)
            _check_range(f"episodes.{name}", episodes, self.block, 1_000_000)
            if episodes % self.block:
                raise InvalidSpec(f"episodes.{name}", f"{episodes} is not a whole number of blocks of {self.block}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The adaptation that candidates are compared with, where it differs from the checkpoint's training."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    steps: int | None = None
    """Inner steps of the full pattern, 1 to 64; the steps the checkpoint was trained for unless said."""
    rate: float | None = None
    """Inner learning rate of baseline and candidates; the rate the checkpoint was trained for unless said."""

    def __post_init__(self) -> None:
        if self.steps is not None:
            _check_range("baseline.steps", self.steps, 1, 64)
        if self.rate is not None:
            _check_rate("baseline.rate", self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpec:
    """What a search is asked for: a model, a family of tasks, a device and the quality one is willing to lose."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT

    name: str = "search"
    """What people call this search, 1 to 200 characters."""
    tasks: TaskFamily
    model: NetworkSpec
    meta_training: MetaTraining | None = None
    """How to make the checkpoint. Give either this or `checkpoint`."""
    checkpoint: str | None = None
    """Identity of a checkpoint that this service has already made, from an earlier result."""
    norm_statistics: Literal["support", "query"] = "support"
    """Whose batch statistics normalise: `support` (each prediction stands alone) or `query` (transductive: all queries
    of a task must arrive together)."""
    baseline: Baseline = field(default_factory=Baseline)
    space: Space = field(default_factory=Space)
    method: Method = field(default_factory=Method)
    max_degradation: float
    """ε, the most quality one is willing to lose, > 0: in the metric's unit (accuracy is a fraction of 1), or as a
    fraction of the baseline's mean squared error where `degradation` is `relative`."""
    goal: Literal["fastest", "front"] = "fastest"
    """`fastest` ends with the fastest candidate under the threshold. `front` also tests the slower ones that lose less,
    so that any threshold up to `max_degradation` can be asked for afterwards, with no new evaluation."""
    degradation: Literal["absolute", "relative"] = "absolute"
    """`relative` is for regression only."""
    degradation_bound: float | None = None
    """The most that one episode may lose or gain: more than that counts as that. 1 for accuracy; regression must name
    it, in the unit of `max_degradation`. The proof is about the mean of what is so bounded."""
    confidence: float = 0.95
    """How sure the answer must be, 0.5 (not included) to 0.9999."""
    certificate: CertificateMethod = "betting"
    """How the answer is proved: `betting` and `empirical_bernstein` keep `confidence` for any distribution of losses;
    `asymptotic` needs fewer episodes, and only keeps it where losses are not rare and large."""
    episodes: EpisodeBudget = field(default_factory=EpisodeBudget)
    retrain: bool = False
    """Whether to train the model a little further with the answer as its inner loop, and to prove that once more."""
    runtime: Runtime = "eager"
    """How the adaptation runs in use, and so when it is timed: operation by operation, or compiled (on workers that
    have a compiler)."""
    precision: Literal["float32", "auto"] = "float32"
    """`auto` also tries each pattern with what it leaves frozen in bfloat16, where the device is fast at that; what
    adapts is float32 either way."""
    device: str = "cpu"
    """Device class of the workers: `cpu` or `cuda:<name>` as a worker has announced it."""
    priority: int = 0
    """Higher goes first, -1000 to 1000."""
    seed: int = 0
    """Seeds the episodes."""

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > 200 or not self.name.isprintable():
            raise InvalidSpec("name", "give 1 to 200 printable characters")
        if (self.meta_training is None) == (self.checkpoint is None):
            raise InvalidSpec("meta_training", "give either meta_training or checkpoint, not both and not neither")
        if self.model.network == "conv4" and self.tasks.is_regression:
            raise InvalidSpec("model.network", f"conv4 needs images, {self.tasks.family} has none; use mlp")
        if not (math.isfinite(self.max_degradation) and self.max_degradation > 0):
            raise InvalidSpec("max_degradation", f"must be a number above 0, not {self.max_degradation}")
        if self.degradation == "relative" and not self.tasks.is_regression:
            raise InvalidSpec("degradation", "relative is for regression families; accuracy loss is absolute")
        if self.degradation == "absolute" and not self.tasks.is_regression and self.max_degradation >= 1:
            raise InvalidSpec(
                "max_degradation", f"accuracy is a fraction of 1; losing {self.max_degradation} is no limit"
            )
        if not 0.5 < self.confidence <= 0.9999:
            raise InvalidSpec("confidence", f"must be above 0.5 and at most 0.9999, not {self.confidence}")
        self._check_certificate()
        if self.device != "cpu" and not self.device.startswith("cuda:"):
            raise InvalidSpec("device", f"must be 'cpu' or 'cuda:<name>', not '{self.device}'")
        _check_range("priority", self.priority, -1000, 1000)
        _check_range("seed", self.seed, 0, MAX_SEED)
        if self.meta_training is not None:
            check_space(self.candidates(self.meta_training.inner_steps), self.method)

    def _check_certificate(self) -> None:
        """Refuse a bound that does not fit, and a cap below which nothing could be proved."""
        if self.tasks.is_regression:
            if self.degradation_bound is None:
                raise InvalidSpec("degradation_bound", "regression has no largest loss of its own; name one")
        elif self.degradation_bound is None:
            object.__setattr__(self, "degradation_bound", 1.0)
        elif self.degradation_bound != 1:
            raise InvalidSpec("degradation_bound", f"no accuracy loses more than 1; leave {self.degradation_bound} out")
        bound = self.degradation_bound or 1.0
        if not (math.isfinite(bound) and bound > self.max_degradation):
            raise InvalidSpec("degradation_bound", f"must be above max_degradation, {self.max_degradation}")
        if self.episodes.confirmation < self.fewest_confirmation_episodes:
            raise InvalidSpec(
                "episodes.confirmation",
                f"{self.episodes.confirmation} episodes can prove nothing: a loss of at most {self.max_degradation} at "
                f"{self.confidence:g} confidence takes at least {self.fewest_confirmation_episodes}, even of a "
                "candidate that loses nothing",
            )

    @property
    def fewest_confirmation_episodes(self) -> int:
        """The least number of confirmation episodes that could prove the first candidate tested."""
        if self.certificate not in GUARANTEED:
            return LEAST_ASYMPTOTIC_EPISODES
        alpha = spent_alpha(self.confidence, 1)
        return fewest_episodes(self.max_degradation, alpha, self.degradation_bound or 1.0)

    @property
    def units(self) -> Units:
        """What patterns speak of, input to output, and the parameters of each.

        Raises:
            InvalidSpec: `space.units` does not name every parameter of the network once.
        """
        if self.space.units is None:
            return self.model.units
        return grouped(self.model.units, self.space.units)

    def candidates(self, trained_steps: int, fast_bfloat16: bool = True) -> CandidateSpace:
        """The space, given what the checkpoint was trained for and whether the device is fast at bfloat16."""
        return CandidateSpace(
            kind=self.space.kind,
            units=len(self.units),
            max_steps=self.max_steps(trained_steps),
            factors=self.space.rate_factors,
            lowered=self.may_lower_precision and fast_bfloat16,
        )

    @property
    def may_lower_precision(self) -> bool:
        """Whether candidates with a frozen prefix in bfloat16 may be tried."""
        return self.precision == "auto"

    def baseline_steps(self, trained_steps: int) -> int:
        """Inner steps of the baseline, given what the checkpoint was trained for."""
        return trained_steps if self.baseline.steps is None else self.baseline.steps

    def base_rate(self, trained_rate: float) -> float:
        """Inner learning rate of baseline and candidates, given what the checkpoint was trained for."""
        return trained_rate if self.baseline.rate is None else self.baseline.rate

    def max_steps(self, trained_steps: int) -> int:
        """Most inner steps of a candidate, given what the checkpoint was trained for."""
        return self.baseline_steps(trained_steps) if self.space.max_steps is None else self.space.max_steps


MAX_SEED = 2**63 - 1
LEAST_ASYMPTOTIC_EPISODES = 64
"""Before which nothing is accepted asymptotically: on real skews that was wrong up to 18 % of the time."""


def check_space(space: CandidateSpace, method: Method) -> None:
    """Refuse a space that cannot be searched, or not by the method that was asked for.

    Raises:
        InvalidSpec: it has more candidates than can be listed, or than can be searched at all.
    """
    made = (
        f"{space.units} units, up to {space.max_steps} steps and {len(space.factors)} rate factors make "
        f"{size_in_words(space)} candidates"
    )
    if space.size > MAX_CANDIDATES:
        raise InvalidSpec("space", f"{made}; no method searches more than 2^512: use fewer units, steps or factors")
    if method.sampler == "ordered" and not space.is_listable:
        raise InvalidSpec(
            "method.sampler",
            f"{made}; ordered lists them all, at most {MAX_LISTED_CANDIDATES:,}: use a sampler ({', '.join(SAMPLERS)})",
        )


def size_in_words(space: CandidateSpace) -> str:
    """How many candidates a space has; very many are not written out."""
    if space.size > MAX_CANDIDATES:
        return "more than 2^512"
    return f"{space.size:,}" if space.size < 10**12 else f"about 2^{math.log2(space.size):.0f}"


def _check_range(name: str, value: int | None, low: int, high: int, what: str = "value") -> None:
    if value is None or not low <= value <= high:
        raise InvalidSpec(name, f"{what} must be {low} to {high}, not {value}")


def _check_rate(name: str, value: float) -> None:
    if not (math.isfinite(value) and 0 < value <= 100):
        raise InvalidSpec(name, f"must be a number above 0 and at most 100, not {value}")
