"""What a bfloat16 prefix costs in quality: the same candidates on the same episodes, lowered and not.

``LAMBDA_SEARCH_DATA_DIR=... python -m benchmarks.precision [--json]``: meta-trains conv4 with 64 filters on Omniglot
for a few minutes (second order, five steps), then judges candidates on 1,000 episodes of test classes, 5-way 1-shot.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.report import at_most, show
from search_service.domain.candidate import Candidate, Precision
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.recipe import Recipe
from search_service.domain.search import MetaTraining, NetworkSpec, TaskFamily
from search_service.settings import Settings
from workers.adaptation.device import exact_float32, fingerprint
from workers.adaptation.episodes import open_task_family
from workers.adaptation.judging import Judge
from workers.adaptation.lanes import Lanes
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.model import adaptation_for, batch_tensors, metric_for
from workers.adaptation.runtime import use_compile_cache
from workers.meta_training.trainer import MetaTrainer
from workers.search.statistics import degradation

RECIPE = Recipe(
    tasks=TaskFamily(family="omniglot", ways=5, shots=1, queries=15),
    model=NetworkSpec(network="conv4", filters=64),
    meta_training=MetaTraining(order="second", inner_steps=5, inner_rate=0.1, meta_batch=4, iterations=500),
    norm_statistics="support",
)
PATTERNS = ("00001@5", "00010@5", "00111@5", "01111@5")
"""Each is judged at every step count; one for each lowest active unit above the first."""
EPISODES = 1000
BLOCK = 50
SEED = 0
LARGEST_DEGRADATION = 0.001


def measure(progress: Progress) -> dict[str, Any]:
    """Machine, one row per pattern, and the check."""
    keeps_memory = keep_freed_memory()
    torch.set_num_threads(1)
    exact_float32()
    settings = Settings()
    use_compile_cache(settings.compile_cache)
    device = torch.device("cpu")
    lanes = Lanes(os.cpu_count() or 1)
    episodes = open_task_family(RECIPE.tasks, settings.data_dir)

    trainer = MetaTrainer(RECIPE, episodes, device, lanes)
    training = progress.add_task("meta-training", total=RECIPE.meta_training.iterations)
    trainer.run(float("inf"), lambda iteration, _: progress.update(training, completed=iteration))

    adaptation = adaptation_for(
        trainer.adaptation.network, RECIPE.tasks, RECIPE.meta_training.inner_rate, RECIPE.norm_statistics
    )
    judge = Judge(adaptation, metric_for(RECIPE.tasks), trainer.parameters, lanes)
    candidates = [
        Candidate(LambdaPattern.parse(text), precision=precision) for text in PATTERNS for precision in Precision
    ]
    blocks: dict[str, list[np.ndarray]] = {candidate.text: [] for candidate in candidates}
    judging = progress.add_task("judging", total=EPISODES)
    for start in range(0, EPISODES, BLOCK):
        batch = batch_tensors(episodes.draw(Split.TEST, SEED, start, BLOCK), device)
        for text, qualities in judge.qualities(candidates, *batch).items():
            blocks[text].append(qualities.double().numpy())
        progress.update(judging, completed=start + BLOCK)

    rows: list[dict[str, Any]] = []
    for text in PATTERNS:
        exact = np.concatenate(blocks[text])
        lowered = np.concatenate(blocks[f"{text}:{Precision.BFLOAT16}"])
        for step in range(exact.shape[1]):
            loss = degradation(exact[:, step], lowered[:, step])
            low, high = loss.interval()
            rows.append(
                {
                    "pattern": LambdaPattern.parse(text).first_steps(step + 1).text,
                    "accuracy_float32": float(exact[:, step].mean()),
                    "accuracy_bfloat16": float(lowered[:, step].mean()),
                    "degradation": loss.mean,
                    "low": low,
                    "high": high,
                    "episodes_changed": float(np.mean(exact[:, step] != lowered[:, step])),
                }
            )
    largest = max(row["degradation"] for row in rows)
    return {
        "machine": {
            **fingerprint(device),
            "keeps_freed_memory": keeps_memory,
            "episodes": EPISODES,
            "iterations": RECIPE.meta_training.iterations,
        },
        "rows": rows,
        "checks": [at_most("largest mean degradation of a bfloat16 prefix", largest, LARGEST_DEGRADATION)],
    }


COLUMNS = {
    "pattern": "pattern",
    "accuracy_float32": "accuracy, float32",
    "accuracy_bfloat16": "accuracy, bfloat16 prefix",
    "degradation": "degradation",
    "low": "low",
    "high": "high",
    "episodes_changed": "episodes changed",
}


def main(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Print the table, or the same as JSON."""
    with Progress(console=Console(stderr=True)) as progress:
        report = measure(progress)
    show(report, f"A bfloat16 prefix on {EPISODES} Omniglot episodes, 5-way 1-shot", COLUMNS, as_json)


if __name__ == "__main__":
    typer.run(main)
