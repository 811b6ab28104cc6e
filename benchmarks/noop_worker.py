"""A worker whose device does nothing for a while: real queue, real steps, real rows, made-up figures.

``python -m benchmarks.noop_worker SECONDS LOG``: every judgement takes SECONDS; its beginning and end go to LOG as
lines of JSON with the clock of this host.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from search_service.domain.candidate import Candidate
from search_service.settings import Settings
from workers.runtime import worker as worker_module
from workers.runtime.evaluator_child import EvaluatorSettings
from workers.runtime.work import (
    CalibrationOutcome,
    CalibrationWork,
    JudgingOutcome,
    JudgingWork,
    Outcome,
    Progress,
    TimingOutcome,
    TimingWork,
    Work,
)

FINGERPRINT = {"class": "cpu", "processor": "none at all", "threads": 1}
BASELINE_QUALITY = 0.9
LOSS_OF_FREEZING = 0.05
"""Quality that each frozen unit costs."""
FULL_LATENCY_S = 0.01


class NoopEvaluator:
    """Takes the place of ``workers.runtime.evaluator.Evaluator``.

    Args:
        seconds: of every judgement.
        log: where its beginning and end are noted.
    """

    fingerprint = FINGERPRINT
    pid = os.getpid()

    def __init__(self, seconds: float, log: Path) -> None:
        self._seconds = seconds
        self._log = log.open("a", buffering=1)

    def start(self, check: Callable[[], None] = lambda: None) -> None:
        """Nothing starts."""

    def kill(self) -> None:
        """Nothing ends."""

    def perform(self, work: Work, report: Callable[[Progress], None], check: Callable[[], None]) -> Outcome:
        """Made-up figures, after a while."""
        began = time.time()
        if isinstance(work, JudgingWork):
            time.sleep(self._seconds)
            outcome: Outcome = _judged(work)
            entry = {"began": began, "ended": time.time(), "split": work.split, "candidates": len(work.candidates)}
            self._log.write(json.dumps(entry) + "\n")
            return outcome
        if isinstance(work, CalibrationWork):
            latencies_s = {text: _latency_s(text) for text in work.candidates}
            return CalibrationOutcome(latencies_s=latencies_s, statistics_units=0)
        assert isinstance(work, TimingWork), f"no figures for {type(work).__name__}"
        return TimingOutcome(figures={text: _figures(text, work.baseline) for text in work.candidates})


def _judged(work: JudgingWork) -> JudgingOutcome:
    generator = np.random.default_rng([work.seed, work.block])
    noise = generator.normal(0, 0.02, work.block_size)
    qualities = {}
    for text in work.candidates:
        steps = max(1, Candidate.parse(text).steps)
        qualities[text] = [(_quality(text) + noise).tolist()] * steps
    return JudgingOutcome(qualities=qualities, digest=f"block {work.block}")


def _quality(text: str) -> float:
    pattern = Candidate.parse(text).pattern
    frozen = pattern.units - len(pattern.active_units)
    return BASELINE_QUALITY - LOSS_OF_FREEZING * frozen


def _latency_s(text: str) -> float:
    """As if every active unit of every step cost the same."""
    pattern = Candidate.parse(text).pattern
    return FULL_LATENCY_S * (0.2 + sum(map(sum, pattern.rows))) / (0.2 + 5 * pattern.units)


def _figures(text: str, baseline: str) -> dict[str, Any]:
    def latency(seconds: float) -> dict[str, float]:
        return {"median": seconds, "p10": seconds, "p90": seconds, "samples": 10}

    def ratio(estimate: float) -> dict[str, float]:
        return {"estimate": estimate, "low": estimate, "high": estimate}

    speedup = _latency_s(baseline) / _latency_s(text)
    return {
        "latency_s": latency(_latency_s(text)),
        "prediction_latency_s": {name: latency(0.001) for name in ("one_query", "all_queries")},
        "speedup": ratio(speedup),
        "speedup_over_plain": ratio(1.5 * speedup),
        "end_to_end_speedup": ratio(speedup),
        "tight": True,
        "layout": "contiguous",
        "multiply_adds": 1,
        "compilation": None,
    }


def main() -> None:
    """Work until told to end."""
    seconds, log = float(sys.argv[1]), Path(sys.argv[2])

    def noop(_: EvaluatorSettings) -> NoopEvaluator:
        return NoopEvaluator(seconds, log)

    setattr(worker_module, "Evaluator", noop)  # noqa: B010 - a name that the module merely imports
    worker = worker_module.Worker(Settings(), "cpu", 1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()


if __name__ == "__main__":
    main()
