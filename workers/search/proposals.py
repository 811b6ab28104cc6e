"""Which candidates to judge next where a space is too large to list: neighbours of the best one, and a sampler's.

Latency is predicted before a candidate is judged, so only those predicted to be faster than the best candidate found
are worth it. The sampler (Optuna) sees every trial so far, latency as the objective and degradation as the constraint;
the study it sees is made anew from our trials for each round, so nothing of it must survive.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState as OptunaState

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.errors import LambdaSearchError
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.space import CandidateSpace

ROUND = 32
"""Candidates proposed at a time."""
NEIGHBOURS = 0.5
"""Share of a round that are neighbours of the best candidates, while they have any that are untried and fast."""
BASES = 8
"""Candidates whose neighbours are tried."""
TRIES = 20
"""Proposals of a sampler per candidate wanted: those known already or predicted too slow are told and asked anew."""
BITS_ABOVE = 8
"""Rows of more units than this are one parameter per unit, not one choice among all rows."""

Predict = Callable[[Sequence[Candidate]], Sequence[float]]


class UnknownSampler(LambdaSearchError):
    """The workers lack a sampler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a candidate."""

    candidate: Candidate
    predicted_s: float
    violation: float | None
    """Mean degradation less the threshold; None while it is being judged."""


def seeds(space: CandidateSpace, most: int) -> list[Candidate]:
    """Where a search in a large space begins: constant rows at the base rate, in float32.

    All of them where they are at most ``most``; otherwise those that update the last 1, 2, ... units, or one unit.
    """
    rows = CandidateSpace("constant_rows", space.units, space.max_steps)
    if rows.size <= most:
        return [candidate for candidate in rows.candidates() if candidate in space]
    chosen = [[unit >= first for unit in range(space.units)] for first in range(space.units)]
    chosen += [[unit == one for unit in range(space.units)] for one in range(space.units)]
    steps = range(1, space.max_steps + 1)
    found = [Candidate(LambdaPattern.constant(row, count)) for count in steps for row in chosen]
    return [candidate for candidate in dict.fromkeys(found) if candidate in space][:most]


def propose(
    space: CandidateSpace,
    sampler: str,
    known: Sequence[Known],
    predict: Predict,
    faster_than_s: float,
    count: int,
    seed: int,
) -> list[Candidate]:
    """Up to ``count`` candidates that are not known, predicted to be faster than ``faster_than_s``.

    Args:
        space: they are of.
        sampler: a name of ``search_service.domain.search.SAMPLERS``, or ``hub:<package>``.
        known: every candidate judged or being judged.
        predict: latencies of candidates.
        faster_than_s: of the best candidate found, or infinity.
        count: how many are wanted.
        seed: of the sampler; with equal arguments the same candidates are proposed.

    Raises:
        UnknownSampler: the package is not installed here.
    """
    taken = {each.candidate.text for each in known}
    near = dict.fromkeys(neighbour for base in _bases(known) for neighbour in neighbours(base, space))
    around = _faster([each for each in near if each.text not in taken], predict, faster_than_s)
    order = np.random.default_rng([seed, len(known)]).permutation(len(around))
    shuffled = [around[index] for index in order]
    chosen = shuffled[: math.ceil(NEIGHBOURS * count)]
    left = shuffled[len(chosen) :]

    taken.update(candidate.text for candidate in chosen)
    study = _study(space, sampler, known, seed)
    for _ in range(TRIES * count):
        if len(chosen) >= count:
            break
        trial = study.ask(distributions(space))
        candidate = candidate_of(trial.params, space)
        if candidate.text not in taken and float(predict([candidate])[0]) < faster_than_s:
            chosen.append(candidate)
            taken.add(candidate.text)
            continue  # it stays running: samplers that know how keep away from it
        study.tell(trial, state=OptunaState.FAIL)
    # Where hardly anything is fast enough a sampler seldom hits it; what lies near the best may still be there.
    chosen += [candidate for candidate in left if candidate.text not in taken][: count - len(chosen)]
    return chosen


def _bases(known: Sequence[Known]) -> list[Candidate]:
    """Candidates whose neighbours are worth a try: the fastest feasible ones, and those nearest to being feasible."""
    judged = [each for each in known if each.violation is not None]
    feasible = [each for each in judged if (each.violation or 0.0) <= 0]
    feasible.sort(key=lambda each: (each.predicted_s, each.candidate.text))
    nearly = sorted(judged, key=lambda each: (max(each.violation or 0.0, 0.0), each.predicted_s, each.candidate.text))
    chosen = [each.candidate for each in [*feasible[: BASES // 2], *nearly]]
    return list(dict.fromkeys(chosen))[:BASES]


def neighbours(candidate: Candidate, space: CandidateSpace) -> Iterator[Candidate]:
    """Candidates of a space that differ by one bit, one factor, one step less or more, or the precision."""
    rows, factors, precision = candidate.pattern.rows, candidate.factors, candidate.precision

    def variants() -> Iterator[tuple[Sequence[Sequence[bool]], Sequence[float], Precision]]:
        for step in range(len(rows)):
            yield [*rows[:step], *rows[step + 1 :]], [*factors[:step], *factors[step + 1 :]], precision
            yield [*rows[:step], rows[step], *rows[step:]], [*factors[:step], factors[step], *factors[step:]], precision
            for unit in range(space.units):
                flipped = [bit != (index == unit) for index, bit in enumerate(rows[step])]
                yield [*rows[:step], flipped, *rows[step + 1 :]], factors, precision
            for factor in space.factors:
                yield rows, [*factors[:step], factor, *factors[step + 1 :]], precision
        for other in Precision:
            yield rows, factors, other

    seen = {candidate.text}
    for shape, rates, kind in variants():
        if not shape or not all(any(row) for row in shape) or len(shape) > space.max_steps:
            continue
        pattern = LambdaPattern(space.units, tuple(tuple(row) for row in shape))
        if kind != Precision.FLOAT32 and not pattern.lowest_active_unit:
            continue
        neighbour = Candidate(pattern, tuple(rates), kind)
        if neighbour.text not in seen and neighbour in space:
            seen.add(neighbour.text)
            yield neighbour


def distributions(space: CandidateSpace) -> dict[str, BaseDistribution]:
    """A candidate as a sampler's parameters: all of them always, those of steps not taken mean nothing."""
    found: dict[str, BaseDistribution] = {"steps": IntDistribution(1, space.max_steps)}
    rows = 1 if space.kind == "constant_rows" else space.max_steps
    for number in range(1, rows + 1):
        if space.units <= BITS_ABOVE:
            texts = [f"{row:0{space.units}b}" for row in range(1, 2**space.units)]
            found[f"row {number}"] = CategoricalDistribution(texts)
        else:
            found.update(
                {f"row {number} unit {unit}": CategoricalDistribution([False, True]) for unit in range(space.units)}
            )
    if len(space.factors) > 1:
        for number in range(1, space.max_steps + 1):
            found[f"factor {number}"] = CategoricalDistribution(space.factors)
    if space.lowered:
        found["precision"] = CategoricalDistribution([precision.value for precision in Precision])
    return found


def candidate_of(parameters: Mapping[str, Any], space: CandidateSpace) -> Candidate:
    """The candidate that a sampler's parameters describe."""
    steps = parameters["steps"]
    rows = []
    for number in range(1, steps + 1):
        name = "row 1" if space.kind == "constant_rows" else f"row {number}"
        if name in parameters:
            row = tuple(bit == "1" for bit in parameters[name])
        else:
            row = tuple(bool(parameters[f"{name} unit {unit}"]) for unit in range(space.units))
        rows.append(row if any(row) else (*row[:-1], True))  # a row of zeros is no step: the head stands in
    pattern = LambdaPattern(space.units, tuple(rows))
    fixed = space.factors[0] if len(space.factors) == 1 else None
    factors = tuple(fixed if fixed is not None else parameters[f"factor {number}"] for number in range(1, steps + 1))
    precision = Precision(parameters.get("precision", Precision.FLOAT32))
    return Candidate(pattern, factors, precision if pattern.lowest_active_unit else Precision.FLOAT32)


def parameters_of(candidate: Candidate, space: CandidateSpace) -> dict[str, Any]:
    """A sampler's parameters for a candidate; those of steps not taken repeat its last one's."""
    parameters: dict[str, Any] = {"steps": candidate.steps}
    for name in distributions(space):
        kind, _, rest = name.partition(" ")
        if kind == "steps":
            continue
        if kind == "precision":
            parameters[name] = candidate.precision.value
            continue
        number, _, unit = rest.partition(" unit ")
        step = min(int(number), candidate.steps) - 1
        row = candidate.pattern.rows[step]
        if kind == "factor":
            parameters[name] = candidate.factors[step]
        else:
            parameters[name] = row[int(unit)] if unit else "".join("1" if bit else "0" for bit in row)
    return parameters


def _study(space: CandidateSpace, sampler: str, known: Sequence[Known], seed: int) -> optuna.Study:
    """An in-memory study of everything known."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=_sampler(sampler, seed + len(known)))
    named = distributions(space)
    for each in known:
        if each.candidate not in space:
            continue
        is_judged = each.violation is not None
        study.add_trial(
            optuna.trial.create_trial(
                state=OptunaState.COMPLETE if is_judged else OptunaState.RUNNING,
                value=each.predicted_s if is_judged else None,
                params=parameters_of(each.candidate, space),
                distributions=named,
                constraints={"degradation": each.violation} if each.violation is not None else {},
            )
        )
    return study


def _sampler(name: str, seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "tpe":
            return TPESampler(seed=seed)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        if name == "nsga2":
            return NSGAIISampler(seed=seed)
        if name == "random":
            return RandomSampler(seed=seed)
    package = name.removeprefix("hub:")
    try:
        hub = importlib.import_module("optunahub")  # not among our requirements: whoever wants it installs it
    except ImportError as error:
        raise UnknownSampler(f"sampler '{name}' needs optunahub: install it on every worker") from error
    module = hub.load_module(package=package)
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, BaseSampler) and value.__module__.startswith(module.__name__):
            return value()
    raise UnknownSampler(f"OptunaHub's package '{package}' has no sampler")


def _faster(candidates: Sequence[Candidate], predict: Predict, faster_than_s: float) -> list[Candidate]:
    if not candidates:
        return []
    return [each for each, seconds in zip(candidates, predict(candidates), strict=True) if seconds < faster_than_s]
