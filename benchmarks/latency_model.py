"""How well the latency of a candidate is known before it runs, or is so much as traced.

``python -m benchmarks.latency_model [--json]``: conv4 with 64 filters, 28x28, 5-way 1-shot, ``support`` statistics, one
thread, each candidate in the layout that a search would give it. In the runtime ``eager`` a model is fitted to the
candidates that calibrate, and predicts all others: every constant row of one to five steps, patterns whose rows differ,
and both with the frozen prefix in bfloat16 where the device is fast at it. In ``compiled``, where every candidate first
has to be compiled, a few are timed; each is predicted by the eager model, rescaled by the others. Latency does not
depend on the values of parameters and images, so both are random. Best on a machine with nothing else to do: about
four minutes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.report import at_least, at_most, show
from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns
from search_service.settings import Settings
from workers.adaptation.candidate_program import CandidateProgram, statistics_units
from workers.adaptation.cost import cost_of
from workers.adaptation.device import exact_float32, fingerprint, has_fast_bfloat16
from workers.adaptation.inner_loop import Adaptation, classification_loss
from workers.adaptation.latency_model import (
    LatencyModel,
    ModelError,
    calibration_candidates,
    fit,
    prediction_error,
    rescaled,
)
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.networks import Conv4
from workers.adaptation.runtime import use_compile_cache
from workers.adaptation.timed_subjects import TimedSubjects
from workers.adaptation.timing import InterleavedTiming, interleave

FILTERS = 64
WAYS = 5
UNITS = 5
MAX_STEPS = 5
PER_STEP = 40
"""Patterns of two to five steps, the rows drawn at random."""
LOWERED = 30
"""Of all those that freeze a prefix, drawn at random and lowered."""
COMPILED = ("00001", "00010", "00011", "00100", "00111", "00001@2", "00010@2", "00011@2", "01000", "00111@2")
"""Enough to vary, and few operations to compile."""
ORDERS = 8
"""How often candidates are put in a new order: a small one takes up to a fifth longer behind one that fills caches."""
MIN_ROUNDS = 5
"""In each order."""
LIMIT_S = 1.0
"""In each order, unless the rounds take longer."""
CPU = torch.device("cpu")

Programs = Mapping[Candidate, CandidateProgram]
Latencies = Mapping[Candidate, float]


def measure() -> dict[str, Any]:
    """Machine, one row per candidate and runtime, the models, and the checks."""
    torch.set_num_threads(1)
    exact_float32()
    keep_freed_memory()  # else the latency of a program hangs on where on the heap its results happen to lie
    use_compile_cache(Settings().compile_cache)
    lap = _Laps()
    has_lowered = has_fast_bfloat16(CPU)
    timed = _subjects()
    below = statistics_units(timed.adaptation, timed.parameters, timed.episodes[0][0])
    calibrating = calibration_candidates(UNITS, MAX_STEPS, has_lowered)
    programs = {
        candidate: timed.program(candidate) for candidate in dict.fromkeys([*calibrating, *_others(has_lowered)])
    }
    tracing_s = lap()

    runs = _timed(timed, programs)
    eager_s = _latencies(runs, programs)
    eager = fit(calibrating, [eager_s[candidate] for candidate in calibrating], below)
    rows = _rows("eager", eager, eager_s, calibrating, programs)
    kinds = {
        "constant rows": [one for one in programs if one.pattern.is_constant and not _is_lowered(one)],
        "rows that differ": [one for one in programs if not one.pattern.is_constant and not _is_lowered(one)],
        "lowered": [one for one in programs if _is_lowered(one)],
        "all": list(programs),
    }
    not_fitted = {
        name: _error(eager, {one: eager_s[one] for one in chosen if one not in calibrating})
        for name, chosen in kinds.items()
        if chosen
    }
    timing_s = lap()

    few = [Candidate.parse(text) for text in COMPILED]
    compiled_programs = {candidate: timed.program(candidate, "compiled") for candidate in few}
    compiling_s = lap()
    compiled_s = _latencies(_timed(timed, compiled_programs), compiled_programs)
    compiled = rescaled(eager, few, list(compiled_s.values()))
    rows += _rows("compiled", compiled, compiled_s, few, programs)

    machine = {
        **fingerprint(CPU),
        "load": [round(run.load_before, 2) for run in runs],
        "rounds": sum(run.rounds for run in runs),
        "median difference of two halves": _repeatability(runs, programs).median,
        "largest difference of two halves": _repeatability(runs, programs).largest,
        "layouts": sorted({program.layout for program in programs.values()}),
        "tracing_s": tracing_s,
        "timing_s": timing_s,
        "compiling_s": compiling_s,
    }
    return {
        "machine": machine,
        "rows": rows,
        "models": {"eager": asdict(eager), "compiled": asdict(compiled)},
        "errors": {
            **{f"eager, {name}": asdict(error) for name, error in not_fitted.items()},
            "eager, those fitted, each left out": asdict(eager.error),
            "compiled, each left out": asdict(compiled.error),
        },
        "checks": [*_checks("eager", not_fitted["all"]), *_checks("compiled", compiled.error)],
    }


class _Laps:
    """Seconds since the last call."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def __call__(self) -> float:
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def _subjects() -> TimedSubjects:
    torch.manual_seed(0)
    adaptation = Adaptation.of(Conv4((1, 28, 28), WAYS, FILTERS), classification_loss, rate=0.01)
    x, y = torch.rand(WAYS, 1, 28, 28), torch.arange(WAYS)
    return TimedSubjects(adaptation, adaptation.parameters(), [(x, y, x, y)], CPU)


def _others(has_lowered: bool) -> Iterable[Candidate]:
    """What is predicted; some of it also calibrates, and then does not count."""
    draw = random.Random(0)
    patterns = list(constant_row_patterns(UNITS, MAX_STEPS))
    rows = [pattern.rows[0] for pattern in patterns if pattern.steps == 1]
    for _ in range(PER_STEP):
        patterns.append(LambdaPattern(UNITS, tuple(draw.choices(rows, k=draw.randint(2, MAX_STEPS)))))
    yield from map(Candidate, patterns)
    if has_lowered:
        freezing = [pattern for pattern in patterns if pattern.lowest_active_unit]
        for pattern in draw.sample(freezing, LOWERED):
            yield Candidate(pattern, precision=Precision.BFLOAT16)


def _is_lowered(candidate: Candidate) -> bool:
    return candidate.precision != Precision.FLOAT32


def _timed(timed: TimedSubjects, programs: Programs) -> list[InterleavedTiming]:
    """One run for each order."""
    draw = random.Random(0)
    texts = [candidate.text for candidate in programs]
    subjects = {candidate.text: timed.candidate(program) for candidate, program in programs.items()}
    runs = []
    for _ in range(ORDERS):
        draw.shuffle(texts)
        runs.append(interleave({text: subjects[text] for text in texts}, texts[0], LIMIT_S, min_rounds=MIN_ROUNDS))
    return runs


def _latencies(runs: Sequence[InterleavedTiming], programs: Programs) -> Latencies:
    """Median latency of each candidate in seconds."""
    return {one: float(np.median(np.concatenate([run.samples_s[one.text] for run in runs]))) for one in programs}


def _repeatability(runs: Sequence[InterleavedTiming], programs: Programs) -> ModelError:
    """How well one half of the orders predicts the other: a model can hardly do better."""
    halves = [_latencies(runs[start::2], programs) for start in (0, 1)]
    return prediction_error(*(list(half.values()) for half in halves))


def _error(model: LatencyModel, latencies_s: Latencies) -> ModelError:
    return prediction_error(model.predict_many(list(latencies_s)), list(latencies_s.values()))


def _rows(
    runtime: str, model: LatencyModel, latencies_s: Latencies, fitted: Collection[Candidate], programs: Programs
) -> list[dict[str, Any]]:
    """One row per timed candidate; the model knew the latencies of those ``fitted``."""
    return [
        {
            "runtime": runtime,
            "candidate": candidate.text,
            "latency_ms": 1e3 * latency_s,
            "predicted_ms": 1e3 * predicted_s,
            "error": predicted_s / latency_s - 1,
            "fitted": "yes" if candidate in fitted else None,
            "layout": programs[candidate].layout,
            **asdict(cost_of(programs[candidate].module)),
        }
        for (candidate, latency_s), predicted_s in zip(
            latencies_s.items(), map(float, model.predict_many(list(latencies_s))), strict=True
        )
    ]


def _checks(runtime: str, error: ModelError) -> list[dict[str, Any]]:
    """What is asked of predictions of candidates that a model was not fitted to."""
    return [
        at_least(f"rank correlation, {runtime}, {error.candidates} candidates", error.rank_correlation, 0.95),
        at_most(f"median error, {runtime}, {error.candidates} candidates", error.median, 0.15),
    ]


def main(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the table, or the same as JSON."""
    columns = {
        "runtime": "runtime",
        "candidate": "candidate",
        "latency_ms": "latency, ms",
        "predicted_ms": "predicted, ms",
        "error": "error",
        "fitted": "fitted",
        "multiply_adds": "multiply-adds",
        "bytes_moved": "bytes moved",
    }
    report = measure()
    show(report, f"conv4 with {FILTERS} filters, 28x28, 5-way 1-shot, one thread", columns, as_json)
    if not as_json:
        for name, error in report["errors"].items():
            print(f"{name}: {', '.join(f'{figure} {value:.4g}' for figure, value in error.items())}")


if __name__ == "__main__":
    typer.run(main)
