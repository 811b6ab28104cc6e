"""Latency known before running: from seconds of single operations to the latency of a whole program.

First the operations: each distinct one (what it does, to which shapes, types and strides) is timed alone, once on a
device. The programs of one network are made of a few dozen, so all but the first few need no measurement. Then the
model: latency is a constant, plus a multiple of the seconds in contractions, plus a multiple of the seconds in
everything else. The three are fitted for a device and a runtime to a handful of programs timed whole: what alone
differs from in a row (caches, the interpreter), and what a compiler fuses, ends in the multiples.

Measured (``benchmarks/latency_model.py``: conv4 with 64 filters, 28x28, one thread): fitted to six patterns, the median
error of 87 others is 1 to 2 %; a multiple of the multiply-adds and a constant is wrong by 14 %.
The number of calls, as a fourth term, was given no weight. In a process whose C library hands freed memory back
(``workers.adaptation.memory``) the median error was up to 17 %: page faults come and go with the state of the heap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr
from torch import Tensor, fx

from workers.adaptation.cost import computing, is_contraction
from workers.adaptation.timing import Clock, clock_of

PASSES = 5
"""Runs through a program, in each of which every operation is sampled once: a disturbance seldom lasts through all."""
SAMPLE_S = 2e-3  # seconds
MAX_CALLS_PER_SAMPLE = 10
FEWEST_PROGRAMS = 4
"""One more than the model has weights, so that each program can be predicted from the others."""
PULL = 0.1
"""How strongly weights are drawn to "one multiple for all, no constant", relative to the programs: with six of them
chosen at random it left the median error alone and halved the worst (18 % to 8 %)."""

OperationSeconds = Mapping[str, float]
"""Signature of an operation -> seconds of one call, on one device at one number of threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSeconds:
    """Seconds of a program's operations, each as if alone."""

    contractions_s: float
    """In convolutions, their gradients and matrix products."""
    others_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelError:
    """How well each calibrating program is predicted by a model fitted to the others."""

    programs: int
    median: float
    """Of |predicted / measured - 1|."""
    largest: float
    rank_correlation: float
    """Spearman's, of predicted and measured latency; 0 where either are all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Latency of programs in one runtime on one device."""

    constant_s: float
    contractions: float
    """Seconds of latency per second in contractions."""
    others: float
    """Seconds of latency per second in everything else."""
    error: ModelError

    def predict(self, seconds: ProgramSeconds) -> float:
        """Latency of a program, in seconds."""
        return self.constant_s + self.contractions * seconds.contractions_s + self.others * seconds.others_s


def signature(node: fx.Node) -> str:
    """What the time of an operation depends on: itself, shapes, types and strides of tensors, all other arguments."""
    return f"{node.target} {fx.map_arg(node.args, _described)} {fx.map_arg(node.kwargs, _described)}"


def missing_operations(module: fx.GraphModule, known: OperationSeconds) -> dict[str, fx.Node]:
    """Signatures of a program's operations that are not known yet, and the first operation that has each."""
    missing: dict[str, fx.Node] = {}
    for node in computing(module):
        if (name := signature(node)) not in known:
            missing.setdefault(name, node)
    return missing


@torch.no_grad()
def measure_operations(
    module: fx.GraphModule, examples: Sequence[Tensor], known: OperationSeconds, device: torch.device
) -> dict[str, float]:
    """Time the operations of a program that are not known yet; where there are none, nothing runs.

    Operands are those that the program itself computes, so that indices are valid and values are usual ones. The
    shortest of ``PASSES`` samples counts: interference only ever adds.

    Args:
        module: a traced program.
        examples: its arguments, flat.
        known: seconds of operations timed before, on this device at this number of threads.
        device: where the program runs.

    Returns:
        ``known`` and what was missing.
    """
    missing = missing_operations(module, known)
    samples: dict[str, list[float]] = {name: [] for name in missing}
    if missing:
        for _ in range(PASSES):
            _Sampler(module, {node: samples[name] for name, node in missing.items()}, clock_of(device)).run(*examples)
    return {**known, **{name: min(seconds) for name, seconds in samples.items()}}


def program_seconds(module: fx.GraphModule, known: OperationSeconds) -> ProgramSeconds:
    """Seconds of a program's operations; all must be known.

    Raises:
        KeyError: one is not.
    """
    contractions_s = others_s = 0.0
    for node in computing(module):
        if is_contraction(node):
            contractions_s += known[signature(node)]
        else:
            others_s += known[signature(node)]
    return ProgramSeconds(contractions_s=contractions_s, others_s=others_s)


def calibrating(programs: Sequence[ProgramSeconds], count: int) -> tuple[int, ...]:
    """Indices of ``count`` programs that are unlike each other: what to time in order to fit a model for all of them.

    The shortest and the longest, then always the program farthest from those chosen (in the logarithm of its seconds
    and the share of contractions in them, each scaled to 0..1).
    """
    features = _matrix(programs)[:, 1:]
    total = features.sum(1)
    points = np.stack([np.log(total), features[:, 0] / total], 1)
    points = (points - points.min(0)) / np.maximum(np.ptp(points, axis=0), np.finfo(float).tiny)
    chosen = list(dict.fromkeys((int(total.argmin()), int(total.argmax()))))
    while len(chosen) < min(count, len(programs)):
        distances = np.linalg.norm(points[:, None] - points[None, chosen], axis=2).min(1)
        distances[chosen] = -1.0  # others may coincide with a chosen one
        chosen.append(int(distances.argmax()))
    return tuple(chosen[:count])


def fit(programs: Sequence[ProgramSeconds], latencies_s: Sequence[float]) -> LatencyModel:
    """Fit a model to programs timed whole, by relative error, and report how well it predicts what it has not seen.

    Args:
        programs: seconds of the operations of each.
        latencies_s: measured latency of each, in the runtime and on the device that the model is for.

    Raises:
        ValueError: fewer programs than ``FEWEST_PROGRAMS``, or not one positive latency for each.
    """
    features, measured = _matrix(programs), np.asarray(latencies_s, dtype=np.float64)
    if len(programs) < FEWEST_PROGRAMS or measured.shape != (len(programs),) or not (measured > 0).all():
        raise ValueError(
            f"{len(programs)} programs with latencies {list(latencies_s)}: at least {FEWEST_PROGRAMS} and one positive "
            "latency for each are needed"
        )
    everyone = np.arange(len(programs))
    predicted = np.array(
        [features[one] @ _weights(features[everyone != one], measured[everyone != one]) for one in everyone]
    )
    constant_s, contractions, others = _weights(features, measured)
    return LatencyModel(
        constant_s=float(constant_s),
        contractions=float(contractions),
        others=float(others),
        error=prediction_error(predicted, measured),
    )


def prediction_error(predicted_s: ArrayLike, measured_s: ArrayLike) -> ModelError:
    """How far predictions of programs that a model was not fitted to are from their measured latencies."""
    predicted, measured = np.asarray(predicted_s), np.asarray(measured_s)
    errors = np.abs(predicted / measured - 1)
    ranked = np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return ModelError(
        programs=len(errors),
        median=float(np.median(errors)),
        largest=float(errors.max()),
        rank_correlation=float(spearmanr(predicted, measured).statistic) if ranked else 0.0,
    )


class _Sampler(fx.Interpreter):
    """Runs a program once and samples the seconds of some of its operations on the way.

    Args:
        module: the program.
        samples: operation -> where its sample goes.
        clock: waits for the device before it tells the time.
    """

    def __init__(self, module: fx.GraphModule, samples: Mapping[fx.Node, list[float]], clock: Clock) -> None:
        super().__init__(module)
        self.samples = samples
        self.clock = clock

    def run_node(self, n: fx.Node) -> Any:
        """Run an operation, and if it is to be sampled, a few more times."""
        if n not in self.samples:
            return super().run_node(n)
        started = self.clock.wall()
        result = super().run_node(n)
        calls = max(1, min(MAX_CALLS_PER_SAMPLE, int(SAMPLE_S / (self.clock.wall() - started))))
        arguments, named = self.fetch_args_kwargs_from_env(n)
        started = self.clock.wall()
        for _ in range(calls):  # without waiting in between: a GPU is fed ahead of its work, as it is by a program
            n.target(*arguments, **named)  # type: ignore[operator]
        self.samples[n].append((self.clock.wall() - started) / calls)
        return result


def _weights(features: NDArray[np.float64], measured: NDArray[np.float64]) -> NDArray[np.float64]:
    """Constant and multiples, none negative, that minimise squared relative errors and stay near one multiple for all.

    Args:
        features: ``P x 3``-dim array: 1, seconds in contractions, seconds in everything else.
        measured: ``P``-dim array of seconds.
    """
    # Each column becomes the share of the latency that it would be for a usual program: weights of about one to fit.
    one_multiple = np.median(measured / features[:, 1:].sum(1))
    scales = np.array([np.median(measured), one_multiple, one_multiple])
    relative = features * scales / measured[:, None]
    pull = PULL * np.sqrt(len(measured)) * np.diag(np.median(relative, axis=0))
    solution, _ = nnls(
        np.concatenate([relative, pull]), np.concatenate([np.ones(len(measured)), pull @ np.array([0.0, 1.0, 1.0])])
    )
    return solution * scales  # type: ignore[no-any-return]


def _matrix(programs: Sequence[ProgramSeconds]) -> NDArray[np.float64]:
    return np.array([[1.0, program.contractions_s, program.others_s] for program in programs])


def _described(node: fx.Node) -> str:
    value = node.meta["val"]
    return f"{value.dtype} {tuple(value.shape)} {value.stride()}" if isinstance(value, Tensor) else repr(value)
