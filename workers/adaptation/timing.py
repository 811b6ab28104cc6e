"""Latency: one episode at a time, every subject of a comparison interleaved in one process.

A round times each subject once on the same episode, so that a drift of the machine's speed touches all of them alike
and ratios are formed round by round. Every round has a random order of its own: a program of 1 ms takes 10 to 20 %
longer right behind one that fills the caches, and so nobody is always behind the same one. A sample during which the
process did not have its processor is taken again. Rounds go on until the ratios are known well enough or a limit is
reached, and the run says which.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Samples = NDArray[np.float64]
Subject = Callable[[int], object]
"""Runs one episode, given the round's number, and returns when the device has finished it."""
Ending = Literal["tight", "time limit", "round limit"]

WARM_UP_ROUNDS = 3
MIN_ROUNDS = 20
MAX_ROUNDS = 300
ROUNDS_BETWEEN_LOOKS = 10
"""Whether the intervals are narrow enough is computed once in so many rounds."""
TARGET_HALF_WIDTH = 0.02
"""Rounds go on until the 95 % interval of every ratio is within this fraction of the ratio, or a limit is reached."""
BOOTSTRAP_RESAMPLES = 1000
MIN_SAMPLE_S = 2e-4
"""A sample is at least this long, by repeating the call: a thousand times what reading the clock takes."""
DISTURBED_SHARE = 0.05
"""A sample is disturbed if the process lacked its processor for more than this share of it."""
RETRIES = 3
"""How often a disturbed sample is taken again at once, before it is kept as it is."""


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
    """Subject -> ``rounds``-dim array of seconds of one call."""
    load_before: float
    load_after: float
    """One-minute load averages of the machine around the run; 0 where the system has none."""
    ended: Ending
    """Why no further round was run; ``tight``: the intervals reached ``TARGET_HALF_WIDTH``."""
    repeated: int
    """Disturbed samples that were taken again."""
    disturbed: int
    """Samples that stayed disturbed and were kept."""

    @property
    def rounds(self) -> int:
        """How many rounds were timed."""
        return len(next(iter(self.samples_s.values())))

    @property
    def tight(self) -> bool:
        """Whether every ratio is known to ``TARGET_HALF_WIDTH``."""
        return self.ended == "tight"


class Clock:
    """Seconds on the wall, and seconds that this process computed.

    The second clock tells whether a sample was disturbed.
    """

    def wall(self) -> float:
        """Seconds since some moment."""
        return time.perf_counter()

    def computed(self) -> float:
        """Seconds of processor time, of all threads."""
        return time.process_time()


class CudaClock(Clock):
    """Seconds by the GPU's own events. The GPU is ours alone, so no sample is called disturbed."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._start.record(self._stream)

    def wall(self) -> float:
        """Seconds from this clock's making to the end of everything queued now."""
        now = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        now.record(self._stream)
        now.synchronize()
        return 1e-3 * float(self._start.elapsed_time(now))

    def computed(self) -> float:
        """The same."""
        return self.wall()


def clock_of(device: torch.device) -> Clock:
    """The clock that measures latency on a device."""
    return CudaClock(device) if device.type == "cuda" else Clock()


def interleave(
    subjects: Mapping[str, Subject],
    reference: str,
    limit_s: float,
    pause: Callable[[float], None] = lambda _: None,
    clock: Clock | None = None,
    min_rounds: int = MIN_ROUNDS,
) -> InterleavedTiming:
    """Time subjects in rounds until their ratios to ``reference`` are known well enough.

    Args:
        subjects: what to time; each is warmed up first.
        reference: the subject that ratios are formed against.
        limit_s: seconds after which no new round starts (at least ``min_rounds`` are run).
        pause: called between rounds with the fraction of ``limit_s`` used; may raise to stop.
        clock: the processor's unless said (see :func:`clock_of`).
        min_rounds: rounds below which no ratio is believed.
    """
    clock = clock or Clock()
    names = list(subjects)
    load_before = _load()
    calls: dict[str, int] = {}
    for number in range(WARM_UP_ROUNDS):
        for name in names:
            before = clock.wall()
            subjects[name](number)
            calls[name] = max(1, math.ceil(MIN_SAMPLE_S / max(clock.wall() - before, 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in names}
    repeated = disturbed = 0
    started = clock.wall()
    ended: Ending = "round limit"
    for number in range(MAX_ROUNDS):
        pause(min(1.0, (clock.wall() - started) / limit_s))
        for place in np.random.default_rng(number).permutation(len(names)):
            name = names[place]
            seconds, tries, is_clean = _sample(subjects[name], number, calls[name], clock)
            samples[name].append(seconds)
            repeated += tries
            disturbed += not is_clean
        rounds = number + 1
        if rounds >= min_rounds:
            is_late = clock.wall() - started > limit_s
            if (is_late or rounds % ROUNDS_BETWEEN_LOOKS == 0) and _is_tight(samples, reference):
                ended = "tight"
                break
            if is_late:
                ended = "time limit"
                break
    return InterleavedTiming(
        samples_s={name: np.asarray(values) for name, values in samples.items()},
        load_before=load_before,
        load_after=_load(),
        ended=ended,
        repeated=repeated,
        disturbed=disturbed,
    )


def _sample(subject: Subject, number: int, calls: int, clock: Clock) -> tuple[float, int, bool]:
    """Seconds of one call, how often it was taken again, and whether it is undisturbed."""
    for retry in range(RETRIES + 1):
        before, computed_before = clock.wall(), clock.computed()
        for _ in range(calls):
            subject(number)
        computed, wall = clock.computed() - computed_before, clock.wall() - before
        is_clean = wall - computed <= DISTURBED_SHARE * wall
        if is_clean or retry == RETRIES:
            return wall / calls, retry, is_clean
    raise AssertionError("unreachable")


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
