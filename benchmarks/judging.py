"""How much faster this engine judges a whole space of patterns than judging each pattern by itself.

``python -m benchmarks.judging [--json] [--full]``: all 155 constant-row patterns of up to five steps, conv4 with 64
filters, 5-way 1-shot, 15 queries per class, 28x28 drawings (Omniglot where the data folder has it, else made-up ones),
``support`` statistics, one thread. The network is meta-trained briefly: where adaptation does not converge, it
magnifies rounding until accuracies differ.

Plain PyTorch adapts a copy of the network under each pattern by gradient skipping (arXiv 2206.05930), then predicts the
queries in evaluation mode; one pattern of every lowest active unit and number of steps is run, and stands for the
others of its kind, unless ``--full`` asks for all. Layouts and plain PyTorch take turns, episode by episode. Both work
in a process that keeps freed memory (``workers.adaptation.memory``), which helps both.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, get_args

import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import at_least, at_most, show
from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern, constant_row_patterns
from search_service.domain.recipe import Recipe
from search_service.domain.search import MetaTraining, NetworkSpec, TaskFamily
from search_service.settings import Settings
from workers.adaptation.device import exact_float32, fingerprint
from workers.adaptation.episodes import Episodes, open_task_family, unavailable_reason
from workers.adaptation.inner_loop import Adaptation
from workers.adaptation.judging import Judge, accuracy
from workers.adaptation.layout import Layout
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.model import adaptation_for, batch_tensors
from workers.adaptation.networks import build_network
from workers.adaptation.plain import adapt_skipping, plain_network
from workers.meta_training.trainer import MetaTrainer

FILTERS = 64
STEPS = 5
RATE = 0.1
ITERATIONS = 100
"""Of meta-training: about a minute on a core."""
EPISODES = 6
EPISODES_IN_FULL = 25
MEASURED_FRACTION = 0.8
"""Of the counted ratio, to be reached without a layout of our own."""
BEST_RATIO = 2.5
ACCURACY_TOLERANCE = 0.005
"""Of a pattern's mean accuracy: rounding may tip a query that lies between two classes, and there are 450 in six
episodes. What it hides is far below the thresholds that searches are given."""

CPU = torch.device("cpu")
Result = TypeVar("Result")
Episode = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support x and y, query x and y, each with a leading dimension of one."""


def measure(full: bool) -> dict[str, Any]:
    """Machine, one row per way to judge, and the checks."""
    torch.set_num_threads(1)
    exact_float32()
    keeps_memory = keep_freed_memory()
    data_dir = Settings().data_dir
    family: Literal["glyphs", "omniglot"] = "glyphs" if unavailable_reason("omniglot", data_dir) else "omniglot"
    tasks = TaskFamily(family=family, ways=5, shots=1, queries=15)
    drawn = open_task_family(tasks, data_dir)
    adaptation = _briefly_trained(tasks, drawn)
    batch = batch_tensors(drawn.draw(Split.VALIDATION, 0, 0, EPISODES_IN_FULL if full else EPISODES), CPU)
    episodes: list[Episode] = list(zip(*(torch.split(tensor, 1) for tensor in batch), strict=True))

    patterns = list(constant_row_patterns(len(adaptation.units), STEPS))
    kinds = Counter(map(_kind, patterns))
    run = patterns if full else _one_of_each_kind(patterns)
    stands_for = {pattern: 1 if full else kinds[_kind(pattern)] for pattern in run}
    plain = _plain(adaptation)
    layouts: tuple[Layout, ...] = get_args(Layout)
    judges = {
        layout: Judge(adaptation, accuracy, adaptation.parameters(), layout=layout, episodes_at_once=1)
        for layout in layouts
    }
    candidates = [Candidate(pattern) for pattern in patterns]

    def judge(layout: Layout, episode: Episode) -> dict[str, Tensor]:
        return judges[layout].qualities(candidates, *episode)

    prepared_s = {layout: _timed(partial(judge, layout, episodes[0]))[0] for layout in layouts}
    counted = _counted(partial(judge, layouts[0], episodes[0]))
    counted_plain = sum(_counted(partial(plain, pattern, episodes[0])) for pattern in patterns)

    seconds: dict[str, float] = defaultdict(float)
    accuracies: dict[tuple[str, str], list[float]] = defaultdict(list)
    for episode in episodes:
        for layout in layouts:
            spent, judged = _timed(partial(judge, layout, episode))
            seconds[layout] += spent
            for pattern in patterns:
                accuracies[layout, pattern.text].append(float(judged[pattern.text][0, -1]))
        for pattern in run:
            spent, quality = _timed(partial(plain, pattern, episode))
            seconds["plain"] += stands_for[pattern] * spent
            accuracies["plain", pattern.text].append(quality)

    counted_ratio = counted_plain / counted
    rows: list[dict[str, Any]] = [
        {
            "way": layout.replace("_", " "),
            "seconds_per_episode": seconds[layout] / len(episodes),
            "giga_multiply_adds": counted / 1e9,
            "counted_ratio": counted_ratio,
            "measured_ratio": seconds["plain"] / seconds[layout],
            "fraction_of_counted": seconds["plain"] / seconds[layout] / counted_ratio,
            "largest_accuracy_difference": _largest_difference(accuracies, layout, run),
            "first_episode_s": prepared_s[layout],
        }
        for layout in layouts
    ]
    rows.append(
        {
            "way": "plain" + ("" if full else ", sampled"),
            "seconds_per_episode": seconds["plain"] / len(episodes),
            "giga_multiply_adds": counted_plain / 1e9,
        }
    )
    by_way = {row["way"]: row for row in rows}
    checks = [
        at_least(
            "share of the counted ratio without layout", by_way["contiguous"]["fraction_of_counted"], MEASURED_FRACTION
        ),
        at_least("ratio with the best layout", max(row.get("measured_ratio", 0.0) for row in rows), BEST_RATIO),
        at_most(
            "largest difference of a pattern's mean accuracy",
            max(row.get("largest_accuracy_difference", 0.0) for row in rows),
            ACCURACY_TOLERANCE,
        ),
    ]
    full_pattern = LambdaPattern.full(len(adaptation.units), STEPS).text
    machine = {
        **fingerprint(CPU),
        "keeps_freed_memory": keeps_memory,
        "drawings": family,
        "episodes": len(episodes),
        "patterns": len(patterns),
        "run_by_plain": len(run),
        f"accuracy_of_{full_pattern}": sum(accuracies[layouts[0], full_pattern]) / len(episodes),
    }
    return {"machine": machine, "rows": rows, "checks": checks}


def _briefly_trained(tasks: TaskFamily, drawn: Episodes) -> Adaptation:
    """How a network adapts that was meta-trained for ``ITERATIONS`` iterations."""
    model = NetworkSpec(network="conv4", filters=FILTERS)
    training = MetaTraining(inner_steps=STEPS, inner_rate=RATE, iterations=ITERATIONS)
    recipe = Recipe(tasks=tasks, model=model, meta_training=training, norm_statistics="support")
    trainer = MetaTrainer(recipe, drawn, CPU)
    trainer.run(float("inf"))
    network = build_network(model, drawn.input_shape, tasks.outputs, seed=0)
    network.load_state_dict(trainer.parameters)
    return adaptation_for(network, tasks, RATE, "support")


def _plain(adaptation: Adaptation) -> Callable[[LambdaPattern, Episode], float]:
    """Accuracy of a pattern on an episode by plain PyTorch."""
    network = plain_network(adaptation.network)

    def judge(pattern: LambdaPattern, episode: Episode) -> float:
        x, y, query_x, query_y = (tensor[0] for tensor in episode)
        adapted = adapt_skipping(adaptation, network, pattern, x, y).eval()
        with torch.no_grad():
            return float(accuracy(adapted(query_x), query_y))

    return judge


def _kind(pattern: LambdaPattern) -> tuple[int | None, int]:
    """What the cost of a pattern depends on most."""
    return pattern.lowest_active_unit, pattern.steps


def _one_of_each_kind(patterns: Sequence[LambdaPattern]) -> list[LambdaPattern]:
    """One pattern of every kind, drawn from a fixed seed."""
    shuffled = random.Random(0).sample(patterns, len(patterns))
    return list({_kind(pattern): pattern for pattern in shuffled}.values())


def _largest_difference(
    accuracies: Mapping[tuple[str, str], Sequence[float]], layout: Layout, run: Iterable[LambdaPattern]
) -> float:
    """Between a pattern's mean accuracy in a layout and by plain PyTorch, on the same episodes."""
    return max(
        abs(sum(accuracies[layout, pattern.text]) - sum(accuracies["plain", pattern.text]))
        / len(accuracies["plain", pattern.text])
        for pattern in run
    )


def _counted(run: Callable[[], object]) -> int:
    """Multiply-adds of the convolutions and matrix products that PyTorch is asked for."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops()) // 2


def _timed(run: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Run every pattern by plain PyTorch, on more episodes.")] = False,
) -> None:
    """Print the table, or the same as JSON."""
    columns = {
        "way": "judged",
        "seconds_per_episode": "s/episode",
        "giga_multiply_adds": "10^9 counted",
        "counted_ratio": "counted",
        "measured_ratio": "measured",
        "largest_accuracy_difference": "differ by",
        "first_episode_s": "first, traced",
    }
    title = f"All constant-row patterns of {STEPS} steps, conv4 with {FILTERS} filters, 28x28, 5-way 1-shot, one thread"
    show(measure(full), title, columns, as_json)


if __name__ == "__main__":
    typer.run(main)
