"""How much faster this engine adapts than what people use today, measured in one interleaved run per setting.

``python -m benchmarks.adaptation [--json] [--full] [--device cuda:0]``: five inner steps of conv4 with 64 filters under
``support`` statistics, one thread. Peers: plain PyTorch (a copy of the network, SGD on everything), gradient skipping
alone (arXiv 2206.05930), ``higher`` and ``torchopt``. Every arm of a row updates the same units for the same steps;
plain PyTorch updates all of them for five. Latency does not depend on the values of parameters and images, so both are
random.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.adaptation_peers import Adapt, with_higher, with_torchopt
from benchmarks.report import at_least, show
from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.search import Runtime
from search_service.settings import Settings
from workers.adaptation.candidate_program import CandidateProgram
from workers.adaptation.cost import multiply_adds
from workers.adaptation.device import (
    compiler,
    exact_float32,
    fingerprint,
    has_fast_bfloat16,
    resolve_device,
    synchronize,
)
from workers.adaptation.inner_loop import Adaptation, classification_loss
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.networks import Conv4
from workers.adaptation.plain import plain_network
from workers.adaptation.runtime import use_compile_cache
from workers.adaptation.timed_subjects import TimedSubjects
from workers.adaptation.timing import InterleavedTiming, Samples, Subject, clock_of, interleave, median_ratio

STEPS = 5
FILTERS = 64
UNITS = 5
RATE = 0.01
EPISODES = 4
PATTERNS = {
    "full": "11111@5",
    "body only": "11110@5",
    "00111@5": "00111@5",
    "last block": "00010@5",
    "head only": "00001@5",
    "00111@1": "00111",
    "one late row": "00010",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """Images of one size, tasks of one shape, and how long they are timed."""

    name: str
    channels: int
    side: int
    ways: int
    shots: int
    limit_s: float
    min_rounds: int


SETTINGS = (
    Setting("28x28 5-way 1-shot", 1, 28, 5, 1, 45.0, 20),
    Setting("28x28 20-way 1-shot", 1, 28, 20, 1, 75.0, 20),
    Setting("32x32 colour 5-way 5-shot", 3, 32, 5, 5, 90.0, 15),
    Setting("84x84 colour 5-way 5-shot", 3, 84, 5, 5, 120.0, 6),
)
SMALL, MIDDLE, LARGE = SETTINGS[0].name, SETTINGS[2].name, SETTINGS[3].name
OVER_PLAIN = {
    ("head only", SMALL): {"eager": 10.0, "compiled": 18.0},
    ("head only", MIDDLE): {"eager": 9.0, "compiled": 24.0},
    ("last block", SMALL): {"eager": 7.0, "compiled": 12.0},
    ("last block", MIDDLE): {"eager": 7.0, "compiled": 15.0},
    ("full", SMALL): {"eager": 1.0, "compiled": 1.4},
    ("full", MIDDLE): {"eager": 1.0, "compiled": 1.1},
    ("one late row", SMALL): {"best": 20.0},
    ("one late row", MIDDLE): {"best": 30.0},
    ("one late row", LARGE): {"best": 45.0},
}
"""``speedup_over_plain`` that is asked for, by runtime; ``best`` of runtimes, layouts and precisions."""
SPEEDUP = {"one late row": 10.0, "00111@1": 8.0}
"""``speedup`` that is asked for in the small, middle and large setting, best of runtimes."""
OVER_HIGHER_ON_A_GPU = 5.0
"""How much faster than ``higher`` one full adaptation is asked to be on a GPU, in the small setting."""


def measure(device: torch.device, is_full: bool) -> dict[str, Any]:
    """Machine, one row per setting and pattern, and the checks."""
    keeps_memory = keep_freed_memory()
    torch.set_num_threads(1)
    exact_float32()
    use_compile_cache(Settings().compile_cache)
    started = time.perf_counter()
    rows = [row for setting in SETTINGS for row in _rows(setting, device, is_full)]
    machine = {**fingerprint(device), "keeps_freed_memory": keeps_memory, "seconds": time.perf_counter() - started}
    return {"machine": machine, "rows": rows, "checks": _gpu_checks(rows) if device.type == "cuda" else _checks(rows)}


def _rows(setting: Setting, device: torch.device, is_full: bool) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    network = Conv4((setting.channels, setting.side, setting.side), setting.ways, FILTERS).to(device)
    adaptation = Adaptation.of(network, classification_loss, RATE)
    labels = torch.arange(setting.ways, device=device).repeat_interleave(setting.shots)
    images = torch.rand(EPISODES, len(labels), setting.channels, setting.side, setting.side).to(device)
    episodes = [(x, labels, x, labels) for x in images]
    timed = TimedSubjects(adaptation, adaptation.parameters(), episodes, device)

    subjects: dict[str, Subject] = {"plain": timed.plain(STEPS)}
    plain = plain_network(network)
    programs: dict[str, CandidateProgram] = {}
    for text in PATTERNS.values():
        pattern = LambdaPattern.parse(text, UNITS)
        subjects[f"skipping {text}"] = timed.skipping(pattern)
        subjects[f"higher {text}"] = _peer(with_higher(adaptation, plain, pattern), images, labels)
        subjects[f"torchopt {text}"] = _peer(with_torchopt(adaptation, plain, pattern), images, labels)
        for candidate, runtime in _variants(pattern, device):
            name = f"{_arm(runtime, candidate.precision)} {text}"
            programs[name] = timed.program(candidate, runtime)
            subjects[name] = timed.candidate(programs[name])
    timing = interleave(
        subjects,
        "plain",
        setting.limit_s * (5 if is_full else 1),
        _collect_garbage,
        clock_of(device),
        min_rounds=20 if is_full else setting.min_rounds,
    )
    return [_row(setting, label, text, timing, programs) for label, text in PATTERNS.items()]


def _variants(pattern: LambdaPattern, device: torch.device) -> Iterable[tuple[Candidate, Runtime]]:
    runtimes: list[Runtime] = ["eager"] if compiler(device) is None else ["eager", "compiled"]
    for runtime in runtimes:
        yield Candidate(pattern), runtime
        if pattern.lowest_active_unit and has_fast_bfloat16(device):
            yield Candidate(pattern, precision=Precision.BFLOAT16), runtime


def _arm(runtime: str, precision: Precision) -> str:
    return runtime if precision == Precision.FLOAT32 else f"{runtime}_{precision}"


def _peer(adapt: Adapt, images: torch.Tensor, labels: torch.Tensor) -> Subject:
    def subject(number: int) -> None:
        adapt(images[number % len(images)], labels)
        synchronize(images.device)

    return subject


def _row(
    setting: Setting, label: str, text: str, timing: InterleavedTiming, programs: dict[str, CandidateProgram]
) -> dict[str, Any]:
    samples = timing.samples_s
    full = PATTERNS["full"]
    arms = [name.rsplit(" ", 1)[0] for name in samples if name.endswith(f" {text}")]
    ours = [arm for arm in arms if f"{arm} {text}" in programs]
    over_plain = {arm: median_ratio(samples["plain"], samples[f"{arm} {text}"]) for arm in arms}
    speedup = {arm: median_ratio(samples[f"{arm.split('_')[0]} {full}"], samples[f"{arm} {text}"]) for arm in ours}
    bound = multiply_adds(programs[f"eager {full}"].module) / multiply_adds(programs[f"eager {text}"].module)
    best = max(ours, key=lambda arm: over_plain[arm].estimate)
    compiled = [programs[f"{arm} {text}"] for arm in ours if programs[f"{arm} {text}"].compilation]
    return {
        "setting": setting.name,
        "label": label,
        "pattern": text,
        "plain_ms": 1e3 * float(torch.from_numpy(samples["plain"]).median()),
        **{f"{arm}_over_plain": ratio.estimate for arm, ratio in over_plain.items()},
        **{f"{arm}_over_plain_interval": [ratio.low, ratio.high] for arm, ratio in over_plain.items()},
        **{f"{arm}_speedup": ratio.estimate for arm, ratio in speedup.items()},
        "best_over_plain": over_plain[best].estimate,
        "best_speedup": speedup[best].estimate,
        "speedup_over_fastest_full": _over_fastest_full(samples, f"{best} {text}"),
        "best": best,
        "layout": programs[f"{best} {text}"].layout,
        "counted_bound": bound,
        "fraction_of_bound": _over_fastest_full(samples, f"{best} {text}") / bound,
        "compile_s": sum(program.compilation.seconds for program in compiled if program.compilation),
        "rounds": timing.rounds,
        "ended": timing.ended,
        "disturbed": timing.disturbed,
    }


def _gpu_checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    row = next(row for row in rows if row["label"] == "full" and row["setting"] == SMALL)
    ratio = row["compiled_over_plain"] / row["higher_over_plain"]
    checks = [
        at_least(f"full adaptation of one episode against higher, {SMALL}, compiled", ratio, OVER_HIGHER_ON_A_GPU)
    ]
    return [*checks, *_against_peers(rows)]


def _over_fastest_full(samples: Mapping[str, Samples], subject: str) -> float:
    """Against this engine's own full baseline in whichever runtime that is faster: the strictest reading of speedup."""
    full = [samples[name] for name in (f"eager {PATTERNS['full']}", f"compiled {PATTERNS['full']}") if name in samples]
    return min(median_ratio(baseline, samples[subject]).estimate for baseline in full)


def _collect_garbage(_share: float) -> None:
    """Between rounds: what peers leave in reference cycles comes to gigabytes on large images."""
    gc.collect()


def _checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_key = {(row["label"], row["setting"]): row for row in rows}
    checks = []
    for (label, setting), targets in OVER_PLAIN.items():
        row = by_key[label, setting]
        for arm, target in targets.items():
            if f"{arm}_over_plain" in row:
                name = f"speedup_over_plain of {row['pattern']}, {setting}, {arm}"
                checks.append(at_least(name, row[f"{arm}_over_plain"], target))
    for label, target in SPEEDUP.items():
        for setting in (SMALL, MIDDLE, LARGE):
            row = by_key[label, setting]
            for kind in ("best_speedup", "speedup_over_fastest_full"):
                checks.append(at_least(f"{kind} of {row['pattern']}, {setting}", row[kind], target))
    return [*checks, *_against_peers(rows)]


def _against_peers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    checks = []
    for peer in ("higher", "torchopt"):
        for arm in ("eager", "compiled"):
            ratios = [
                row[f"{arm}_over_plain"] / row[f"{peer}_over_plain"] for row in rows if f"{arm}_over_plain" in row
            ]
            if ratios:
                checks.append(at_least(f"{arm} against {peer} on the same work, slowest row", min(ratios), 1.0))
    return checks


COLUMNS = {
    "setting": "setting",
    "pattern": "pattern",
    "plain_ms": "plain ms",
    "skipping_over_plain": "skipping alone",
    "higher_over_plain": "higher",
    "torchopt_over_plain": "torchopt",
    "eager_over_plain": "eager",
    "compiled_over_plain": "compiled",
    "compiled_bfloat16_over_plain": "compiled, bfloat16 prefix",
    "best_speedup": "speedup",
    "speedup_over_fastest_full": "over own fastest full",
    "counted_bound": "bound",
    "fraction_of_bound": "reached",
    "rounds": "rounds",
}


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Five times as long, at least 20 rounds everywhere.")] = False,
    device: Annotated[str, typer.Option(help="Where: cpu, cuda:0 or auto.")] = "cpu",
) -> None:
    """Print the table, or the same as JSON."""
    if not as_json:
        Console(stderr=True).print("Tracing, compiling and timing: about fifteen minutes on two cores.")
    title = f"Times plain PyTorch, adapting all units for {STEPS} steps; conv4 with {FILTERS} filters, one thread"
    show(measure(resolve_device(device), full), title, COLUMNS, as_json)


if __name__ == "__main__":
    typer.run(main)
