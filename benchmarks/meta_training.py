"""How fast meta-training is beside ``higher`` and ``torchopt``, and what accuracy it reaches on Omniglot in what time.

``python -m benchmarks.meta_training [--json] [--full] [--part speed|fidelity] [--plot PATH] [--device auto]``

*Speed*: outer steps of eight tasks (second order, conv4 with 64 filters, 5-way 1-shot, one query per class, ``query``
statistics, Adam), one thread, one lane, all sides interleaved in one run. *Fidelity*: trains on Omniglot 5-way 1-shot
with the published settings but fewer tasks, on all cores, and measures the accuracy on episodes of test classes; it
needs Omniglot in the data folder (``lambda-search datasets fetch omniglot``). ``--full`` trains for as long as
published. Compiling takes some minutes of the default run's half hour, less once the compiler's cache has it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.meta_training_peers import Setting, compare
from benchmarks.report import at_least, at_most, in_words
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.recipe import Recipe
from search_service.domain.search import MetaTraining, NetworkSpec, TaskFamily
from search_service.settings import Settings
from workers.adaptation.device import exact_float32, fingerprint, resolve_device
from workers.adaptation.episodes import Episodes, open_task_family
from workers.adaptation.inner_loop import adapt, predict
from workers.adaptation.judging import accuracy
from workers.adaptation.lanes import Lanes
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.model import batch_tensors
from workers.adaptation.program import Program, trace
from workers.adaptation.runtime import use_compile_cache
from workers.meta_training.trainer import MetaTrainer
from workers.search.statistics import MeanEstimate

SETTINGS = (
    Setting(name="one step, strided (as published)", pooling="stride", steps=1, rate=0.4),
    Setting(name="five steps, max-pooling", pooling="max", steps=5, rate=0.1),
)
SPEED_LIMIT_S = 60.0
"""Seconds of rounds of one setting; twenty rounds are run in any case."""
SPEEDUP_TARGET = 1.3
GRADIENT_TOLERANCE = 1e-9
"""Largest difference of float64 gradients, as a fraction of their largest entry."""

TASKS = TaskFamily(family="omniglot", ways=5, shots=1, queries=1)
NETWORK = NetworkSpec(network="conv4", filters=64, pooling="stride")
PUBLISHED = MetaTraining(
    order="second",
    inner_steps=1,
    inner_rate=0.4,
    outer_rate=0.001,
    schedule="constant",
    meta_batch=32,
    iterations=60_000,
)
"""Finn et al., arXiv 1703.03400, appendix A.1, and the command lines in the README of their code (cbfinn/maml), which
also says one query per class. There the scale and shift of the normalisation do not adapt; here they do."""
SHORTER = replace(PUBLISHED, schedule="cosine", meta_batch=16, iterations=12_000)
"""A tenth of the tasks; the falling rate makes up for some of them."""
SAMPLED = replace(SHORTER, iterations=4_000)
TARGET, FULL_TARGET, GPU_TARGET = 0.95, 0.97, 0.983
WITHIN_S = 1800.0
"""Seconds that the shorter training may take."""
TEST_EPISODES = 1000
VALIDATION_EPISODES = 200
LOOKS = 20
"""Points of a curve, about."""
EPISODE_SEED = 1
"""Of validation and test episodes."""


class Part(StrEnum):
    """What to measure."""

    SPEED = "speed"
    FIDELITY = "fidelity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One training of the fidelity part."""

    norm_statistics: Literal["query", "support"]
    training: MetaTraining
    sampled: bool = False
    """Whether it is cut short, to show the difference that the statistics make and no more."""


def train_and_test(arm: Arm, device: torch.device, lanes: Lanes, data_dir: Path) -> dict[str, Any]:
    """Train one arm; its curve on validation classes and its accuracy on test classes.

    Raises:
        DatasetUnavailable: there is no Omniglot in ``data_dir``.
    """
    episodes = open_task_family(TASKS, data_dir)
    recipe = Recipe(tasks=TASKS, model=NETWORK, meta_training=arm.training, norm_statistics=arm.norm_statistics)
    trainer = MetaTrainer(recipe, episodes, device, lanes)
    program = _accuracy_program(trainer, episodes)
    curve: list[dict[str, float]] = []
    trained_s, between_looks = 0.0, arm.training.iterations / LOOKS

    def stop_at_look(iteration: int, _loss: float) -> None:
        if iteration >= len(curve) * between_looks:
            raise _Look

    while not trainer.is_finished:
        started = time.perf_counter()
        with suppress(_Look):
            trainer.run(float("inf"), stop_at_look)
        trained_s += time.perf_counter() - started
        estimate, low, high = _accuracy(program, trainer, episodes, lanes, Split.VALIDATION, VALIDATION_EPISODES)
        curve.append({"iteration": trainer.iteration, "seconds": trained_s, "validation": estimate})
        print(
            f"{arm.norm_statistics}: iteration {trainer.iteration}, {trained_s:.0f} s, loss {trainer.mean_loss:.3f}, "
            f"validation accuracy {estimate:.3f} ({low:.3f} to {high:.3f})",
            file=sys.stderr,
            flush=True,
        )
    estimate, low, high = _accuracy(program, trainer, episodes, lanes, Split.TEST, TEST_EPISODES)
    return {
        "norm_statistics": arm.norm_statistics,
        "sampled": arm.sampled,
        "meta_batch": arm.training.meta_batch,
        "iterations": arm.training.iterations,
        "seconds": trained_s,
        "lanes": lanes.count,
        "test_accuracy": estimate,
        "low": low,
        "high": high,
        "test_episodes": TEST_EPISODES,
        "curve": curve,
    }


class _Look(Exception):
    """Training stops for a look at the validation accuracy."""


def _accuracy_program(trainer: MetaTrainer, episodes: Episodes) -> Program:
    """Accuracy of one episode after adaptation as trained."""
    adaptation = trainer.adaptation
    full = LambdaPattern.full(len(adaptation.units), trainer.recipe.meta_training.inner_steps)

    def one(parameters: dict[str, torch.Tensor], *episode: torch.Tensor) -> torch.Tensor:
        support_x, support_y, query_x, query_y = episode
        state = adapt(adaptation, parameters, full, support_x, support_y)
        return accuracy(predict(adaptation, state, query_x), query_y)

    batch = batch_tensors(episodes.draw(Split.VALIDATION, EPISODE_SEED, 0, 1), trainer.device)
    return trace(one, trainer.parameters, *(tensor[0] for tensor in batch))


def _accuracy(
    program: Program, trainer: MetaTrainer, episodes: Episodes, lanes: Lanes, split: Split, count: int
) -> tuple[float, float, float]:
    """Mean accuracy on ``count`` episodes and its 95 % interval."""
    batch = batch_tensors(episodes.draw(split, EPISODE_SEED, 0, count), trainer.device)
    qualities = lanes.map(lambda episode: float(program(trainer.parameters, *episode)), zip(*batch, strict=True))
    estimate = MeanEstimate.of(np.asarray(qualities))
    return (estimate.mean, *estimate.interval())


def measure(parts: list[Part], full: bool, device: torch.device, data_dir: Path) -> dict[str, Any]:
    """Machine, rows of both parts, and the checks."""
    keeps_memory = keep_freed_memory()
    torch.set_num_threads(1)
    exact_float32()
    use_compile_cache(Settings().compile_cache)
    lanes = Lanes((os.cpu_count() or 1) if device.type == "cpu" else 1)
    rows: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    if Part.SPEED in parts:
        for setting in SETTINGS:
            row = compare(setting, SPEED_LIMIT_S)
            rows.append({"part": Part.SPEED.value, **row})
            checks.append(
                at_most(f"gradient difference, {setting.name}", row["gradient_difference"], GRADIENT_TOLERANCE)
            )
            ratio = max(ratio["estimate"] for ratio in row["faster_than_fastest_peer"].values())
            checks.append(at_least(f"times the fastest peer, {setting.name}", ratio, SPEEDUP_TARGET))
    if Part.FIDELITY in parts:
        for arm in (
            Arm(norm_statistics="query", training=PUBLISHED if full else SHORTER),
            Arm(norm_statistics="support", training=SHORTER if full else SAMPLED, sampled=True),
        ):
            row = train_and_test(arm, device, lanes, data_dir)
            rows.append({"part": Part.FIDELITY.value, **row})
            if not arm.sampled:
                target = TARGET if not full else GPU_TARGET if device.type == "cuda" else FULL_TARGET
                checks.append(at_least("test accuracy under query statistics", row["test_accuracy"], target))
                if not full:
                    checks.append(at_most("seconds of training", row["seconds"], WITHIN_S))
    return {
        "machine": {**fingerprint(device), "keeps_freed_memory": keeps_memory, "lanes": lanes.count},
        "rows": rows,
        "checks": checks,
    }


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw the curves of the fidelity part: validation accuracy over seconds of training, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for row in report["rows"]:
        if row["part"] == Part.FIDELITY:
            seconds = [point["seconds"] for point in row["curve"]]
            label = f"{row['norm_statistics']} statistics" + (" (sampled)" if row["sampled"] else "")
            (line,) = axes.plot(seconds, [point["validation"] for point in row["curve"]], marker=".", label=label)
            test = f"{label}: {row['test_episodes']} test episodes"
            axes.errorbar(
                seconds[-1:],
                [row["test_accuracy"]],
                [[row["test_accuracy"] - row["low"]], [row["high"] - row["test_accuracy"]]],
                color=line.get_color(),
                marker="s",
                capsize=3,
                linestyle="none",
                label=test,
            )
    axes.set(xlabel="seconds of training", ylabel="accuracy", title="Omniglot, 5-way 1-shot, conv4 with 64 filters")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def print_tables(report: dict[str, Any]) -> None:
    """The same as tables."""
    speed = Table(title="Outer steps per second: second order, conv4 with 64 filters, 8 tasks, one thread")
    for heading in ("setting", "side", "steps per second", "times the fastest peer"):
        speed.add_column(heading)
    fidelity = Table(title="Omniglot, 5-way 1-shot, test classes")
    for heading in ("statistics", "tasks", "seconds", "accuracy", "95 % interval"):
        fidelity.add_column(heading)
    for row in report["rows"]:
        if row["part"] == Part.SPEED:
            for side, per_second in row["steps_per_second"].items():
                ratio = row["faster_than_fastest_peer"].get(side)
                text = f"{ratio['estimate']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""
                speed.add_row(row["setting"], side, f"{per_second:.2f}", text)
        else:
            fidelity.add_row(
                row["norm_statistics"] + (" (sampled)" if row["sampled"] else ""),
                f"{row['iterations']} x {row['meta_batch']}",
                f"{row['seconds']:.0f}",
                f"{row['test_accuracy']:.4f}",
                f"{row['low']:.4f} to {row['high']:.4f}",
            )
    console = Console()
    for table in (speed, fidelity):
        if table.row_count:
            console.print(table)
    for check in report["checks"]:
        console.print(in_words(check))
    console.print(f"{report['machine']}")


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Train for as long as published: hours on a CPU.")] = False,
    part: Annotated[list[Part] | None, typer.Option(help="Measure this part alone.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Draw the curves as a PNG.")] = None,
    device: Annotated[str, typer.Option(help="Where to train: cpu, cuda:0, or auto.")] = "cpu",
) -> None:
    """Print the tables, or the same as JSON."""
    report = measure(part or list(Part), full, resolve_device(device), Settings().data_dir)
    if plot_path is not None:
        plot(report, plot_path)
    if as_json:
        print(json.dumps(report))
    else:
        print_tables(report)


if __name__ == "__main__":
    typer.run(main)
