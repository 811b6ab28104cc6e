"""How well the latency of a pattern is known before it runs.

``python -m benchmarks.latency_model [--json]``: conv4 with 64 filters, 28x28, 5-way 1-shot, ``support`` statistics, one
thread. In the runtime ``eager`` every constant-row pattern of one, two and five steps is timed; a model fitted to six
of them predicts the others. In ``compiled``, where every pattern first has to be compiled, a few are timed, and each is
predicted by a model fitted to the others. Latency does not depend on the values of parameters and images, so both are
random. Best on a machine with nothing else to do: about three minutes.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.report import at_least, at_most, show
from search_service.domain.candidate import Candidate
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns
from search_service.settings import Settings
from workers.adaptation.candidate_program import CandidateProgram, candidate_program
from workers.adaptation.cost import cost_of
from workers.adaptation.device import exact_float32, fingerprint
from workers.adaptation.inner_loop import Adaptation, classification_loss
from workers.adaptation.latency_model import (
    ModelError,
    calibrating,
    fit,
    measure_operations,
    prediction_error,
    program_seconds,
)
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.networks import Conv4
from workers.adaptation.runtime import use_compile_cache
from workers.adaptation.timing import InterleavedTiming, Subject, interleave

FILTERS = 64
WAYS = 5
UNITS = 5
STEPS = (1, 2, 5)
CALIBRATING = 6
COMPILED = ("00001", "00010", "00011", "00100", "00111", "00001@2", "00010@2", "00011@2", "01000", "00111@2")
"""Enough to vary, and few operations to compile."""
LIMIT_S = 30.0
"""Of the timing in each runtime."""
MIN_ROUNDS = 12
CPU = torch.device("cpu")


def measure() -> dict[str, Any]:
    """Machine, one row per pattern and runtime, the models, and the checks."""
    torch.set_num_threads(1)
    exact_float32()
    keep_freed_memory()  # else the latency of a program hangs on where on the heap its results happen to lie
    use_compile_cache(Settings().compile_cache)
    lap = _Laps()
    programs = _programs()
    tracing_s = lap()
    known: dict[str, float] = {}
    for program in programs.values():
        known = measure_operations(program.module, program.examples, known, CPU)
    measuring_s = lap()
    seconds = {text: program_seconds(program.module, known) for text, program in programs.items()}

    timed = _timed(programs)
    eager_s = _latencies(timed)
    chosen = [list(programs)[index] for index in calibrating(list(seconds.values()), CALIBRATING)]
    eager = fit([seconds[text] for text in chosen], [eager_s[text] for text in chosen])
    others = [text for text in programs if text not in chosen]
    eager_error = prediction_error(
        [eager.predict(seconds[text]) for text in others], [eager_s[text] for text in others]
    )
    rows = _rows("eager", {text: eager.predict(seconds[text]) for text in programs}, eager_s, chosen, programs)
    lap()

    compiled_programs = {
        text: programs[text].compiled() for text in (LambdaPattern.parse(text, UNITS).text for text in COMPILED)
    }
    compiling_s = lap()
    compiled_s = _latencies(_timed(compiled_programs))
    compiled = fit([seconds[text] for text in compiled_s], list(compiled_s.values()))
    predicted_s = {text: compiled.predict(seconds[text]) for text in compiled_s}
    rows += _rows("compiled", predicted_s, compiled_s, compiled_programs, programs)

    machine = {
        **fingerprint(CPU),
        "load": timed.load_before,
        "rounds": timed.rounds,
        "median difference of odd and even rounds": _repeatability(timed).median,
        "tracing_s": tracing_s,
        "operations": len(known),
        "measuring_operations_s": measuring_s,
        "compiling_s": compiling_s,
    }
    return {
        "machine": machine,
        "rows": rows,
        "models": {"eager": asdict(eager), "compiled": asdict(compiled)},
        "checks": [*_checks("eager", eager_error), *_checks("compiled", compiled.error)],
    }


class _Laps:
    """Seconds since the last call."""

    def __init__(self) -> None:
        self.last = time.perf_counter()

    def __call__(self) -> float:
        last, self.last = self.last, time.perf_counter()
        return self.last - last


def _programs() -> dict[str, CandidateProgram]:
    """The eager program of every pattern, by its text."""
    torch.manual_seed(0)
    adaptation = Adaptation.of(Conv4((1, 28, 28), WAYS, FILTERS), classification_loss, rate=0.01)
    parameters, x, y = adaptation.parameters(), torch.rand(WAYS, 1, 28, 28), torch.arange(WAYS)
    return {
        pattern.text: candidate_program(adaptation, parameters, Candidate(pattern), x, y)
        for pattern in constant_row_patterns(UNITS, max(STEPS))
        if pattern.steps in STEPS
    }


def _timed(programs: Mapping[str, CandidateProgram]) -> InterleavedTiming:
    def subject(program: CandidateProgram) -> Subject:
        def run(_: int) -> None:
            with torch.no_grad():
                program(*program.examples[-2:])

        return run

    subjects = {text: subject(program) for text, program in programs.items()}
    return interleave(subjects, next(iter(subjects)), LIMIT_S, min_rounds=MIN_ROUNDS)


def _latencies(timed: InterleavedTiming) -> dict[str, float]:
    """Median latency of each pattern in seconds."""
    return {text: float(np.median(samples)) for text, samples in timed.samples_s.items()}


def _repeatability(timed: InterleavedTiming) -> ModelError:
    """How well the odd rounds predict the even ones: no model can do better."""
    samples = list(timed.samples_s.values())
    return prediction_error([np.median(s[1::2]) for s in samples], [np.median(s[::2]) for s in samples])


def _rows(
    runtime: str,
    predicted_s: Mapping[str, float],
    latencies_s: Mapping[str, float],
    fitted: Collection[str],
    programs: Mapping[str, CandidateProgram],
) -> list[dict[str, Any]]:
    """One row per timed pattern; the model knew the latencies of those ``fitted``."""
    return [
        {
            "runtime": runtime,
            "pattern": text,
            "latency_ms": 1e3 * latency_s,
            "predicted_ms": 1e3 * predicted_s[text],
            "error": predicted_s[text] / latency_s - 1,
            "fitted": "yes" if text in fitted else None,
            **asdict(cost_of(programs[text].module)),
        }
        for text, latency_s in latencies_s.items()
    ]


def _checks(runtime: str, error: ModelError) -> list[dict[str, Any]]:
    """What is asked of predictions of patterns that a model was not fitted to."""
    return [
        at_least(f"rank correlation, {runtime}, {error.programs} patterns", error.rank_correlation, 0.95),
        at_most(f"median error, {runtime}, {error.programs} patterns", error.median, 0.15),
    ]


def main(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the table, or the same as JSON."""
    columns = {
        "runtime": "runtime",
        "pattern": "pattern",
        "latency_ms": "latency, ms",
        "predicted_ms": "predicted, ms",
        "error": "error",
        "fitted": "fitted",
        "multiply_adds": "multiply-adds",
        "bytes_moved": "bytes moved",
    }
    show(measure(), f"conv4 with {FILTERS} filters, 28x28, 5-way 1-shot, one thread", columns, as_json)


if __name__ == "__main__":
    typer.run(main)
