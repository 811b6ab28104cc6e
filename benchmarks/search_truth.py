"""Ground truth for searches: the quality of every pattern of two models on many real episodes, and every latency.

``LAMBDA_SEARCH_DATA_DIR=... python -m benchmarks.search_truth [--part quality|latency|all]`` meta-trains two models on
Omniglot, judges their patterns and writes ``benchmarks/data/search_truth.npz``, which ``benchmarks.search`` replays. It
takes hours on two cores and may be stopped at any time: whatever is finished (a checkpoint, a space on a split) is in
that file, chunks of the next are under the home folder (``LAMBDA_SEARCH_HOME``), and the next run goes on from there.
Latencies need a quiet machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns
from search_service.domain.recipe import Recipe
from search_service.domain.search import MetaTraining, NetworkSpec, TaskFamily
from search_service.settings import Settings
from workers.adaptation.device import exact_float32, fingerprint
from workers.adaptation.episodes import Episodes, open_task_family
from workers.adaptation.inner_loop import Parameters
from workers.adaptation.judging import Judge
from workers.adaptation.lanes import Lanes
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.model import adaptation_for, batch_tensors, metric_for
from workers.adaptation.networks import build_network
from workers.adaptation.runtime import use_compile_cache
from workers.adaptation.timed_subjects import TimedSubjects
from workers.adaptation.timing import interleave
from workers.meta_training.trainer import MetaTrainer, read_checkpoint

PATH = Path(__file__).parent / "data" / "search_truth.npz"

TASKS = TaskFamily(family="omniglot", ways=5, shots=1, queries=15)
NETWORK = NetworkSpec(network="conv4", filters=32)
FIVE_STEP = Recipe(
    tasks=TASKS,
    model=NETWORK,
    meta_training=MetaTraining(order="second", inner_steps=5, inner_rate=0.1, meta_batch=4, iterations=900),
    norm_statistics="support",
)
"""As in ``examples/omniglot_5way_1shot.yaml``."""
ONE_STEP = Recipe(
    tasks=TASKS,
    model=NETWORK,
    meta_training=MetaTraining(order="second", inner_steps=1, inner_rate=0.4, meta_batch=8, iterations=2000),
    norm_statistics="support",
)
MODELS = {"five_step": FIVE_STEP, "one_step": ONE_STEP}
UNITS = len(NETWORK.units)
STEPS = 5
"""Most steps of the constant rows, of both models."""
SPLITS = (Split.VALIDATION, Split.TEST)
SEED = 20
"""Of the episodes."""
CHUNK = 50
"""Episodes judged and kept together."""
QUERIES = TASKS.query_size
LATENCY_LIMIT_S = 120.0


class Part(StrEnum):
    """What to make."""

    QUALITY = "quality"
    LATENCY = "latency"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Space:
    """Patterns, and how many episodes each is judged on, per model and split."""

    name: str
    episodes: int
    judged: tuple[LambdaPattern, ...]
    """Longest patterns; their first steps come with them."""

    @property
    def patterns(self) -> list[str]:
        """Every pattern's text, in a fixed order."""
        shorter = (pattern.first_steps(steps) for pattern in self.judged for steps in range(1, pattern.steps + 1))
        return list(dict.fromkeys(pattern.text for pattern in shorter))


def _rows() -> Iterator[tuple[bool, ...]]:
    return (row for row in product((False, True), repeat=UNITS) if any(row))


CONSTANT = Space("constant", 2000, tuple(LambdaPattern.constant(row, STEPS) for row in _rows()))
"""155 constant rows."""
PER_STEP = Space("per_step", 300, tuple(LambdaPattern(UNITS, rows) for rows in product(_rows(), repeat=2)))
"""992 patterns of one or two steps."""
SPACES = (CONSTANT, PER_STEP)


@dataclass(frozen=True)
class Truth:
    """The file, as read."""

    arrays: dict[str, NDArray[Any]]

    @classmethod
    def load(cls, path: Path = PATH) -> Truth:
        """Read the file.

        Raises:
            FileNotFoundError: it has not been made.
        """
        with np.load(path, allow_pickle=False) as stored:
            return cls({name: stored[name] for name in stored.files})

    def of_these_models(self) -> Truth:
        """Without what belongs to a model that is trained otherwise today."""
        recipes = json.loads(json.dumps({model: recipe.config for model, recipe in MODELS.items()}))
        stale = tuple(f"{model}/" for model in recipes if self.made["recipes"].get(model) != recipes[model])
        return Truth({name: value for name, value in self.arrays.items() if not name.startswith(stale)})

    @cached_property
    def made(self) -> dict[str, Any]:
        """Date, machine and recipes."""
        made: dict[str, Any] = json.loads(str(self.arrays["made"]))
        return made

    def qualities(self, model: str, space: Space, split: Split) -> dict[str, NDArray[np.float64]]:
        """Accuracy of each pattern on each episode: ``E``-dim arrays."""
        counts = self.arrays[f"{model}/{space.name}/{split}"]
        return dict(zip(space.patterns, counts / np.float64(QUERIES), strict=True))

    def latencies_s(self, space: Space) -> dict[str, float]:
        """Median latency of each pattern of a space, eager, one thread; those that were timed."""
        timed = self.arrays[f"latency/{space.name}"]
        return {text: float(value) for text, value in zip(space.patterns, timed, strict=True) if np.isfinite(value)}

    def parameters(self, model: str) -> Parameters:
        """The model's checkpoint."""
        prefix = f"{model}/parameters/"
        return {
            name.removeprefix(prefix): torch.from_numpy(value)
            for name, value in self.arrays.items()
            if name.startswith(prefix)
        }


def judge_of(recipe: Recipe, parameters: Parameters, episodes: Episodes, lanes: Lanes) -> Judge:
    """What judges a model of the truth."""
    network = build_network(recipe.model, episodes.input_shape, recipe.tasks.outputs, seed=0)
    network.load_state_dict(parameters)
    rate = recipe.meta_training.inner_rate
    adaptation = adaptation_for(network, recipe.tasks, rate, recipe.norm_statistics)
    return Judge(adaptation, metric_for(recipe.tasks), adaptation.parameters(), lanes)


def judge_chunk(
    judge: Judge, episodes: Episodes, split: Split, start: int, patterns: tuple[LambdaPattern, ...]
) -> dict[str, NDArray[np.uint8]]:
    """Correct answers of patterns and of their first steps on the episodes from ``start``: ``CHUNK``-dim arrays."""
    batch = batch_tensors(episodes.draw(split, SEED, start, CHUNK), torch.device("cpu"))
    judged = judge.qualities([Candidate(pattern) for pattern in patterns], *batch)
    counts: dict[str, NDArray[np.uint8]] = {}
    for pattern in patterns:
        correct = np.rint(judged[pattern.text].double().numpy() * QUERIES).astype(np.uint8)
        for steps in range(1, pattern.steps + 1):
            counts.setdefault(pattern.first_steps(steps).text, correct[:, steps - 1])
    return counts


class Making:
    """Makes the file, a chunk at a time."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        keep_freed_memory()
        torch.set_num_threads(1)
        exact_float32()
        use_compile_cache(settings.compile_cache)
        self.folder = settings.home / "search_truth"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.progress = progress
        self.lanes = Lanes(os.cpu_count() or 1)
        self.episodes = open_task_family(TASKS, settings.data_dir)
        self.truth = Truth.load().of_these_models() if PATH.exists() else Truth({})

    def checkpoint(self, model: str) -> Parameters:
        """The model's parameters, trained if they are not stored."""
        recipe = MODELS[model]
        if stored := self.truth.parameters(model):
            return stored
        path = self.folder / f"{model}-{recipe.key}.safetensors"
        if not path.exists():
            device = torch.device("cpu")
            trainer = MetaTrainer(recipe, self.episodes, device, self.lanes)
            training = self.progress.add_task(f"{model}: training", total=recipe.meta_training.iterations)
            trainer.run(float("inf"), lambda iteration, _: self.progress.update(training, completed=iteration))
            _write(path, trainer.checkpoint())
        parameters = read_checkpoint(path.read_bytes(), torch.device("cpu"))[0]
        self._keep({f"{model}/parameters/{name}": value.numpy() for name, value in parameters.items()})
        return parameters

    def qualities(self, model: str, parameters: Parameters, space: Space) -> None:
        """Correct answers of every pattern of a space on every episode: ``patterns x episodes`` arrays by split."""
        recipe = MODELS[model]
        judge = judge_of(recipe, parameters, self.episodes, self.lanes)
        for split in SPLITS:
            if f"{model}/{space.name}/{split}" in self.truth.arrays:
                continue
            task = self.progress.add_task(f"{model}: {space.name}, {split}", total=space.episodes)
            chunks = []
            for start in range(0, space.episodes, CHUNK):
                path = self.folder / f"{model}-{recipe.key}-{space.name}-{split}-{SEED}-{start}.npy"
                if not path.exists():
                    counts = judge_chunk(judge, self.episodes, split, start, space.judged)
                    partial = path.with_suffix(".partial.npy")
                    np.save(partial, np.stack([counts[text] for text in space.patterns]))
                    partial.replace(path)
                chunks.append(np.load(path, allow_pickle=False))
                self.progress.update(task, completed=start + CHUNK)
            self._keep({f"{model}/{space.name}/{split}": np.concatenate(chunks, axis=1)})

    def latencies(self, parameters: Parameters) -> None:
        """Median seconds of every constant row, eager, interleaved; the others are left to a model."""
        if f"latency/{CONSTANT.name}" in self.truth.arrays:
            return
        judge = judge_of(FIVE_STEP, parameters, self.episodes, Lanes())
        batch = batch_tensors(self.episodes.draw(Split.VALIDATION, SEED, 0, 8), judge.device)
        bench = TimedSubjects(judge.adaptation, judge.parameters, list(zip(*batch, strict=True)), torch.device("cpu"))
        patterns = [pattern.text for pattern in constant_row_patterns(UNITS, STEPS)]
        task = self.progress.add_task("latencies: tracing", total=len(patterns))
        subjects = {}
        for text in patterns:
            subjects[text] = bench.candidate(bench.program(Candidate.parse(text), "eager"))
            self.progress.advance(task)
        timing = interleave(subjects, LambdaPattern.full(UNITS, STEPS).text, LATENCY_LIMIT_S)
        figures = {text: float(np.median(samples)) for text, samples in timing.samples_s.items()}
        self._keep(
            {
                f"latency/{space.name}": np.array([figures.get(text, np.nan) for text in space.patterns])
                for space in SPACES
            }
        )

    def write(self, part: Part) -> None:
        """Make what is asked for and not there; the spaces one after the other, so that the first is soon complete."""
        checkpoints = {model: self.checkpoint(model) for model in MODELS}
        if part != Part.QUALITY:
            self.latencies(checkpoints["five_step"])
        if part != Part.LATENCY:
            for space, (model, parameters) in product(SPACES, checkpoints.items()):
                self.qualities(model, parameters, space)

    def _keep(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Add finished arrays to the file."""
        made = {
            "date": datetime.now(UTC).date().isoformat(),
            "machine": fingerprint(torch.device("cpu")),
            "cores": os.cpu_count(),
            "seed": SEED,
            "recipes": {model: recipe.config for model, recipe in MODELS.items()},
        }
        self.truth = Truth({**self.truth.arrays, **arrays, "made": np.array(json.dumps(made))})
        PATH.parent.mkdir(exist_ok=True)
        partial = PATH.with_suffix(".partial.npz")
        np.savez_compressed(partial, allow_pickle=False, **self.truth.arrays)
        partial.replace(PATH)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(path)


def main(part: Annotated[Part, typer.Option(help="What to make.")] = Part.ALL) -> None:
    """Make the ground truth, or go on with making it."""
    with Progress(console=Console(stderr=True)) as progress:
        Making(Settings(), progress).write(part)


if __name__ == "__main__":
    typer.run(main)
