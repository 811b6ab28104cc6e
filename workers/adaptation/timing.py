"""Latency: one episode at a time, every subject of a comparison interleaved in one process.

A round times each subject once on the same episode, in rotated order, so that a drift of the machine's speed touches
all of them alike and ratios are formed round by round.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
Subject = Callable[[int], object]
"""Runs one episode, given the round's number, and returns when the device has finished it."""

WARM_UP_ROUNDS = 3
MIN_ROUNDS = 20
MAX_ROUNDS = 300
ROUNDS_BETWEEN_LOOKS = 10
"""Whether the intervals are narrow enough is computed once in so many rounds."""
TARGET_HALF_WIDTH = 0.02
"""Rounds go on until the 95 % interval of every ratio is within this fraction of the ratio, or a limit is reached."""
BOOTSTRAP_RESAMPLES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure and its two-sided 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InterleavedTiming:
    """Samples of each subject, aligned by round, and how the run ended."""

    samples_s: Mapping[str, Samples]
    """Subject -> ``rounds``-dim array of seconds."""
    load_before: float
    load_after: float
    """One-minute load averages of the machine around the run; 0 where the system has none."""
    tight: bool
    """Whether the intervals reached ``TARGET_HALF_WIDTH`` before a limit."""

    @property
    def rounds(self) -> int:
        """How many rounds were timed."""
        return len(next(iter(self.samples_s.values())))


def interleave(
    subjects: Mapping[str, Subject],
    reference: str,
    limit_s: float,
    pause: Callable[[float], None] = lambda _: None,
    clock: Callable[[], float] = time.perf_counter,
) -> InterleavedTiming:
    """Time subjects in rounds until their ratios to ``reference`` are known well enough.

    Args:
        subjects: what to time; each is warmed up first.
        reference: the subject that ratios are formed against.
        limit_s: seconds after which no new round starts (at least ``MIN_ROUNDS`` are run).
        pause: called between rounds with the fraction of ``limit_s`` used; may raise to stop.
        clock: seconds.
    """
    names = list(subjects)
    load_before = _load()
    for number in range(WARM_UP_ROUNDS):
        for name in names:
            subjects[name](number)
    samples: dict[str, list[float]] = {name: [] for name in names}
    started = clock()
    tight = False
    for number in range(MAX_ROUNDS):
        pause(min(1.0, (clock() - started) / limit_s))
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            before = clock()
            subjects[name](number)
            samples[name].append(clock() - before)
        rounds = number + 1
        if rounds >= MIN_ROUNDS:
            is_late = clock() - started > limit_s
            if is_late or rounds % ROUNDS_BETWEEN_LOOKS == 0:
                tight = _is_tight(samples, reference)
            if is_late or tight:
                break
    return InterleavedTiming(
        samples_s={name: np.asarray(values) for name, values in samples.items()},
        load_before=load_before,
        load_after=_load(),
        tight=tight,
    )


def median_ratio(slow: Samples, fast: Samples, seed: int = 0) -> Interval:
    """``median(slow) / median(fast)`` of samples aligned by round, with a percentile bootstrap over rounds.

    Args:
        slow: ``R``-dim array of seconds.
        fast: ``R``-dim array of seconds, of the same rounds.
        seed: of the bootstrap.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    rounds = generator.integers(0, len(slow), (BOOTSTRAP_RESAMPLES, len(slow)))
    ratios = np.median(slow[rounds], axis=1) / np.median(fast[rounds], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Interval(estimate=float(np.median(slow) / np.median(fast)), low=float(low), high=float(high))


def _is_tight(samples: Mapping[str, list[float]], reference: str) -> bool:
    """Whether every ratio's interval is narrow enough, by the asymptotic error of a median of paired log ratios."""
    log_reference = np.log(samples[reference])
    for name, values in samples.items():
        if name != reference:
            ratios = log_reference - np.log(values)
            spread = np.subtract(*np.quantile(ratios, (0.75, 0.25))) / 1.349
            if 1.96 * 1.253 * spread / np.sqrt(len(ratios)) > TARGET_HALF_WIDTH:
                return False
    return True


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
