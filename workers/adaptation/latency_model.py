"""Latency known before running: what a candidate computes is counted per unit, and each count has a price.

The pruned program of a candidate (``workers.adaptation.program``) consists of passes whose reach follows from the
pattern alone, so nothing has to be traced to know what is in it (:func:`counts`):

======== ===============================================================================================================
forward  The first step passes every unit, a later one those from the lowest that the step before it changed: below,
         everything is as it was. Where predictions need the support set's statistics, one more pass after the last
         step goes from the lowest unit that this changed to the last one that normalises.
lowered  Under a lowered precision, the first pass through the frozen prefix, in place of a forward one.
back     The gradient of a step passes back through every unit above the lowest one of its row.
own      The gradient of the unit's own parameters, taken at each step that updates it.
======== ===============================================================================================================

Latency is a constant plus the sum of these counts, each times the seconds that one costs on a device: a
:class:`LatencyModel`, fitted by non-negative least squares of relative error to a few candidates timed whole
(:func:`calibration_candidates`). Where compiling makes even those too dear, a handful of compiled ones says by how much
the eager model is to be scaled (:func:`rescaled`).

Convolutions and matrix products of layers that follow each other are so counted exactly. PyTorch's LSTM and multi-head
attention, which compute in another way where no gradient is asked for, share less between steps than is assumed.

Notation: U units, S steps of a pattern, N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls
from scipy.stats import spearmanr

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern

KINDS = ("forward", "lowered", "back", "own")
"""What is counted of each unit, in the order of the columns of :func:`counts`."""
FEWEST_CANDIDATES = 3
"""Below this many timings there is no model."""
MOST_CALIBRATING = 96
"""Enough for every parameter tensor of a conv4 as a unit of its own."""
MOST_PRICES = 64
"""Above this many units, runs of neighbours share their prices."""
LONG_STEPS = 5
"""Steps of the longer patterns that calibrate, if candidates have as many: enough to tell a step from a program."""
MOST_FOLDS = MOST_CALIBRATING
"""Up to this many candidates, each is predicted from all others; above, every ``MOST_FOLDS``-th at once."""
PULL = 0.002
"""How strongly prices are drawn together: if they all differ from their neighbours' by as much as they are large, it
counts like an error of so much in every timing. Where timings say what a price is, they decide; elsewhere this does."""
VALUES_AT_ONCE = 2**22
"""Counts held in memory at a time when many candidates are predicted."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelError:
    """How well candidates are predicted by a model that was not fitted to them."""

    candidates: int
    median: float
    """Of |predicted / measured - 1|."""
    largest: float
    rank_correlation: float
    """Spearman's, of predicted and measured latency; 0 where either are all the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Latency of the candidates for one network, in one runtime on one device. Plain numbers, to be stored."""

    constant_s: float
    forward_s: tuple[float, ...]
    """Seconds of one forward pass through each of U units."""
    lowered_s: tuple[float, ...]
    """Seconds of one forward pass through each unit in the lower precision; the last unit never is."""
    back_s: tuple[float, ...]
    """Seconds of one gradient's way back through each unit; nothing passes back through the first."""
    own_s: tuple[float, ...]
    """Seconds of one gradient of each unit's own parameters."""
    statistics_units: int
    """How many units the pass for the support set's statistics goes through."""
    error: ModelError
    """Of the candidates that the model was fitted to, each predicted without its own timing."""

    def predict_s(self, candidate: Candidate) -> float:
        """Latency of a candidate, in seconds."""
        return float(self.predict_many([candidate])[0])

    def predict_many(self, candidates: Sequence[Candidate]) -> Array:
        """Latency of each of N candidates, in seconds: ``N``-dim array, each the same as on its own.

        Raises:
            ValueError: a candidate has another number of units than the model.
        """
        prices = np.array([*self.forward_s, *self.lowered_s, *self.back_s, *self.own_s, self.constant_s])
        predicted = np.empty(len(candidates))
        for part in _parts(candidates):
            features = counts(candidates[part], self.statistics_units)
            if features.shape[1] != len(prices):
                raise ValueError(
                    f"candidates like {candidates[part][0]} do not have the {len(self.forward_s)} units of this model"
                )
            predicted[part] = (features * prices).sum(1)  # a matrix product would round by the number of candidates
        return predicted


def counts(candidates: Sequence[Candidate], statistics_units: int) -> Array:
    """What the programs of candidates compute, counted from their patterns; the work is proportional to ``N S U``.

    Args:
        candidates: N of them, for networks of the same U units. Rate factors cost nothing.
        statistics_units: how many units the pass for the support set's statistics goes through.

    Returns:
        ``N x (4U + 1)``-dim array: for each of ``KINDS``, U counts; then 1, for the constant.

    Raises:
        ValueError: they have different numbers of units.
    """
    if len({candidate.pattern.units for candidate in candidates}) > 1:
        raise ValueError("candidates for networks of different numbers of units")
    units = candidates[0].pattern.units if candidates else 0
    of_steps: dict[int, list[int]] = {}
    for number, candidate in enumerate(candidates):
        of_steps.setdefault(candidate.pattern.steps, []).append(number)
    counted = np.ones((len(candidates), len(KINDS) * units + 1))
    for steps, numbers in of_steps.items():
        rows = np.array([candidates[number].pattern.rows for number in numbers], dtype=bool)
        is_lowered = np.array([candidates[number].precision != Precision.FLOAT32 for number in numbers])
        counted[numbers, :-1] = _counts(rows.reshape(len(numbers), steps, units), is_lowered, statistics_units)
    return counted


def _counts(rows: NDArray[np.bool_], is_lowered: NDArray[np.bool_], statistics_units: int) -> Array:
    """``N x 4U``-dim array of counts of N patterns of the same number of steps.

    Args:
        rows: ``N x S x U``-dim array.
        is_lowered: ``N``-dim array.
        statistics_units: as for :func:`counts`.
    """
    patterns, _, units = rows.shape
    unit = np.arange(units)
    lowest = rows.argmax(2)  # N x S
    # N x (S + 1): the unit at which each step's pass starts, and last the one for the statistics.
    starts = np.concatenate([np.zeros((patterns, 1), int), lowest], axis=1)
    begun = _histogram(starts[:, :-1], units)  # passes that start at each unit: N x U
    ended = _histogram(lowest, units)  # gradients that go no further
    is_frozen = ended.cumsum(1) == 0  # the prefix below every row's lowest unit
    lowered = (is_frozen & is_lowered[:, None]).astype(float)
    forward = begun.cumsum(1) - lowered + ((unit >= starts[:, -1:]) & (unit < statistics_units))
    back = ended.cumsum(1) - ended
    return np.concatenate([forward, lowered, back, rows.sum(1)], axis=1)


def _histogram(indices: NDArray[np.int_], size: int) -> Array:
    """How often each of ``size`` indices is in each row of ``indices``."""
    histogram = np.zeros((len(indices), size))
    np.add.at(histogram, (np.arange(len(indices))[:, None], indices), 1)
    return histogram


def _parts(candidates: Sequence[Candidate]) -> Iterator[slice]:
    """Slices of so many candidates that their counts stay small."""
    largest = max((candidate.pattern.units * (candidate.pattern.steps + 8) for candidate in candidates), default=1)
    size = max(1, VALUES_AT_ONCE // largest)
    return (slice(start, start + size) for start in range(0, len(candidates), size))


def calibration_candidates(units: int, max_steps: int, lowered: bool) -> list[Candidate]:
    """What to time in order to fit a model for every candidate of a network: each once, three to five per unit.

    The full pattern of one and of all steps. One unit alone, for one step and for several; every unit from it on, for
    several; it and then the last one, whose pass is longer than its gradient's way; it alone with its frozen prefix
    lowered. Of many units, evenly spread ones stand for all, ``MOST_CALIBRATING`` candidates at most.

    Where there is but one unit, patterns longer than any candidate make up ``FEWEST_CANDIDATES``.

    Args:
        units: of the network.
        max_steps: of the longest candidate.
        lowered: whether candidates may have their frozen prefix in bfloat16.
    """
    long, last = min(max_steps, LONG_STEPS), units - 1
    steps_of_full = {1, max_steps}
    if units == 1:
        steps_of_full.update(range(1, FEWEST_CANDIDATES + 1))
    candidates = [Candidate(LambdaPattern.full(units, steps)) for steps in sorted(steps_of_full)]
    per_unit = (4 if max_steps > 1 else 2) + lowered
    for unit in _spread(units, (MOST_CALIBRATING - len(candidates)) // per_unit):
        alone, above = _row(units, unit, unit), _row(units, unit, last)
        patterns = [LambdaPattern.constant(alone, 1), LambdaPattern.constant(alone, long)]
        patterns.append(LambdaPattern.constant(above, long))
        if max_steps > 1:
            patterns.append(LambdaPattern(units, (alone, _row(units, last, last))))
        candidates += map(Candidate, patterns)
        if lowered and unit:
            candidates.append(Candidate(patterns[0], precision=Precision.BFLOAT16))
    return list(dict.fromkeys(candidates))


def fit(candidates: Sequence[Candidate], latencies_s: Sequence[float], statistics_units: int) -> LatencyModel:
    """Fit a model to candidates timed whole, by relative error, and report how well it predicts what it has not seen.

    Args:
        candidates: N of them, best those of :func:`calibration_candidates`.
        latencies_s: measured latency of each, in the runtime and on the device that the model is for.
        statistics_units: how many units the pass for the support set's statistics goes through.

    Raises:
        ValueError: fewer candidates than ``FEWEST_CANDIDATES``, not one positive, finite latency for each, or
            candidates of different numbers of units.
    """
    measured = _measured(candidates, latencies_s)
    features = counts(candidates, statistics_units)
    predicted = np.empty(len(measured))
    for left_out in _folds(len(measured)):
        predicted[left_out] = features[left_out] @ _prices(features[~left_out], measured[~left_out])
    *of_units, constant_s = _prices(features, measured)
    forward_s, lowered_s, back_s, own_s = (tuple(map(float, part)) for part in np.split(np.array(of_units), len(KINDS)))
    return LatencyModel(
        constant_s=float(constant_s),
        forward_s=forward_s,
        lowered_s=lowered_s,
        back_s=back_s,
        own_s=own_s,
        statistics_units=statistics_units,
        error=prediction_error(predicted, measured),
    )


def rescaled(model: LatencyModel, candidates: Sequence[Candidate], latencies_s: Sequence[float]) -> LatencyModel:
    """The model for another runtime: a constant and a multiple, neither negative, of what ``model`` predicts.

    Args:
        model: of a runtime in which many candidates could be timed.
        candidates: a few.
        latencies_s: measured latency of each, in the runtime that the returned model is for.

    Raises:
        ValueError: as for :func:`fit`.
    """
    measured = _measured(candidates, latencies_s)
    features = np.stack([np.ones(len(measured)), model.predict_many(candidates)], axis=1)
    predicted = np.empty(len(measured))
    for left_out in _folds(len(measured)):
        predicted[left_out] = features[left_out] @ _least_squares(features[~left_out], measured[~left_out])
    constant_s, multiple = map(float, _least_squares(features, measured))

    def times(prices_s: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(multiple * price_s for price_s in prices_s)

    return LatencyModel(
        constant_s=constant_s + multiple * model.constant_s,
        forward_s=times(model.forward_s),
        lowered_s=times(model.lowered_s),
        back_s=times(model.back_s),
        own_s=times(model.own_s),
        statistics_units=model.statistics_units,
        error=prediction_error(predicted, measured),
    )


def prediction_error(predicted_s: ArrayLike, measured_s: ArrayLike) -> ModelError:
    """How far predictions of candidates that a model was not fitted to are from their measured latencies."""
    predicted, measured = np.asarray(predicted_s), np.asarray(measured_s)
    errors = np.abs(predicted / measured - 1)
    ranked = np.ptp(predicted) > 0 and np.ptp(measured) > 0
    return ModelError(
        candidates=len(errors),
        median=float(np.median(errors)),
        largest=float(errors.max()),
        rank_correlation=float(spearmanr(predicted, measured).statistic) if ranked else 0.0,
    )


def _measured(candidates: Sequence[Candidate], latencies_s: Sequence[float]) -> Array:
    """``N``-dim array of latencies that a model can be fitted to."""
    measured = np.asarray(latencies_s, dtype=np.float64)
    is_usable = measured.shape == (len(candidates),) and bool((np.isfinite(measured) & (measured > 0)).all())
    if len(candidates) < FEWEST_CANDIDATES or not is_usable:
        raise ValueError(
            f"{len(candidates)} candidates with latencies {list(latencies_s)}: at least {FEWEST_CANDIDATES} and one "
            "positive, finite latency for each are needed"
        )
    return measured


def _folds(candidates: int) -> Iterator[NDArray[np.bool_]]:
    """Which of N candidates to leave out at a time: ``N``-dim arrays."""
    fold = np.arange(candidates) % MOST_FOLDS
    return (fold == number for number in range(min(candidates, MOST_FOLDS)))


def _prices(features: Array, measured: Array) -> Array:
    """Price in seconds of each column of ``features``: ``(4U + 1)``-dim array.

    Args:
        features: ``N x (4U + 1)``-dim array of counts.
        measured: ``N``-dim array of seconds.
    """
    units = features.shape[1] // len(KINDS)
    shared = min(units, MOST_PRICES)
    # Unit -> which of the shared prices is its own. The last unit, a network's head, always has one to itself.
    price_of = np.arange(units) * (shared - 1) // max(1, units - 1)
    columns = np.concatenate([*(kind * shared + price_of for kind in range(len(KINDS))), [len(KINDS) * shared]])
    of_price = np.zeros((len(columns), columns[-1] + 1))
    of_price[np.arange(len(columns)), columns] = 1
    summed = features @ of_price
    usual = np.median(measured / summed.sum(1))  # what each would be if all were equal: in this unit they are about one
    pull = PULL * np.sqrt(len(measured)) * _differences(shared)
    return (usual * _least_squares(usual * summed, measured, pull))[columns]  # type: ignore[no-any-return]


def _differences(units: int) -> Array:
    """What is drawn towards zero: differences of neighbours' forward prices, and of other kinds' from forward ones.

    Forward pass, gradient's way back and own gradient are the same multiply-adds in convolutions and matrix products.

    Returns:
        ``R x (4U + 1)``-dim array whose product with prices is R differences over the root of R.
    """
    one = np.eye(units)
    nothing = np.zeros_like(one)
    kinds = len(KINDS)
    neighbours = [one[:-2] - one[1:-1], *[nothing[:-2]] * (kinds - 1)]  # but the last: a head is like no other
    others = [[one, *[-one if other == kind else nothing for other in range(1, kinds)]] for kind in range(1, kinds)]
    rows: Array = np.block([neighbours, *others])
    constant = np.zeros((len(rows), 1))  # which nothing draws
    return np.concatenate([rows, constant], axis=1) / math.sqrt(len(rows))


def _least_squares(features: Array, measured: Array, pull: Array | None = None) -> Array:
    """Weights, none negative, that minimise the squares of relative errors, and of ``pull`` times weights.

    Args:
        features: ``N x F``-dim array.
        measured: ``N``-dim array of seconds.
        pull: ``R x F``-dim array.
    """
    matrix, target = features / measured[:, None], np.ones(len(measured))
    if pull is not None:
        matrix, target = np.concatenate([matrix, pull]), np.concatenate([target, np.zeros(len(pull))])
    weights, _ = nnls(matrix, target)
    return weights  # type: ignore[no-any-return]


def _row(units: int, first: int, last: int) -> tuple[bool, ...]:
    """The row of all units from ``first`` to ``last``."""
    return tuple(first <= unit <= last for unit in range(units))


def _spread(units: int, most: int) -> list[int]:
    """The first and the last of so many units, and others evenly between, at most ``most`` in all."""
    return sorted({round(position) for position in np.linspace(0, units - 1, min(units, most))})
