"""How well searches search: replays of the ground truth (``benchmarks/search_truth.py``), and what brute force costs.

``LAMBDA_SEARCH_DATA_DIR=... python -m benchmarks.search [--json] [--repeats 200]``. Each repeat draws episodes anew
from the truth's (with replacement) and searches the 155 constant rows with the product's own decisions
(``workers.search.decisions``), one worker at a time. *True* is a candidate's mean degradation over all test episodes of
the truth. Beside it: random search, Optuna's TPE as it comes, and brute force by means, all on the same episodes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import optuna
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from benchmarks.replayed_search import BASELINE, CAP, EPSILON, VALIDATION, Found, ProductSearch
from benchmarks.report import at_least, at_most, show
from benchmarks.search_by_sampler import CHEAPER, JUDGED_SHARE, by_sampler
from benchmarks.search_truth import (
    CHUNK,
    CONSTANT,
    FIVE_STEP,
    MODELS,
    SPACES,
    SPLITS,
    STEPS,
    TASKS,
    UNITS,
    Truth,
    judge_chunk,
    judge_of,
)
from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.settings import Settings
from workers.adaptation.device import exact_float32, fingerprint
from workers.adaptation.episodes import Episodes, open_task_family
from workers.adaptation.judging import Judge
from workers.adaptation.lanes import Lanes
from workers.adaptation.latency_model import fit
from workers.adaptation.memory import keep_freed_memory
from workers.adaptation.model import batch_tensors
from workers.search.decisions import prediction_margin

BRUTE_EPISODES = 2000
"""Validation episodes on which brute force judges every candidate."""
SLACK = 0.004
"""The search is compared with the fastest candidate that lies so far under the threshold: nearer ones need luck."""
NEAR = 0.1
"""Relative: how much slower than that one the answer may be."""
WELL = 0.95
SHARE = 0.1
CELLS = 20
"""Random cells of the truth that are computed again."""
RANDOM_SHARE = 0.3
"""Of the candidates that random search and TPE judge, on ``VALIDATION`` episodes each."""
CALIBRATING = 16
"""Constant rows, evenly spread over the truth's latencies, that the replayed latency model is fitted to."""


@dataclass
class Drawn:
    """One repeat's episodes: degradations of every candidate, validation and test."""

    validation: dict[str, NDArray[np.float64]]
    test: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model's truth, as a search sees it."""

    name: str
    validation: NDArray[np.float64]
    """Degradations: ``candidates x episodes``."""
    test: NDArray[np.float64]
    latency_s: dict[str, float]

    @classmethod
    def of(cls, truth: Truth, model: str) -> Subject:
        """The constant rows of a model."""
        losses = {}
        for split in SPLITS:
            qualities = truth.qualities(model, CONSTANT, split)
            losses[split] = np.stack([qualities[BASELINE] - qualities[text] for text in CONSTANT.patterns])
        return cls(
            name=model,
            validation=losses[Split.VALIDATION],
            test=losses[Split.TEST],
            latency_s=truth.latencies_s(CONSTANT),
        )

    @cached_property
    def true(self) -> dict[str, float]:
        """Mean degradation of each candidate over all test episodes."""
        return dict(zip(CONSTANT.patterns, self.test.mean(axis=1).tolist(), strict=True))

    @cached_property
    def predicted(self) -> tuple[dict[str, float], float]:
        """Latencies by a model fitted to a few, and its largest error."""
        ranked = sorted(CONSTANT.patterns, key=self.latency_s.__getitem__)
        chosen = [ranked[index] for index in np.linspace(0, len(ranked) - 1, CALIBRATING).round().astype(int)]
        candidates = [Candidate.parse(text) for text in chosen]
        model = fit(candidates, [self.latency_s[text] for text in chosen], statistics_units=UNITS - 1)
        everyone = [Candidate.parse(text) for text in CONSTANT.patterns]
        seconds = model.predict_many(everyone).tolist()
        return dict(zip(CONSTANT.patterns, seconds, strict=True)), model.error.largest

    @cached_property
    def reference(self) -> str:
        """The fastest candidate that is clearly under the threshold."""
        good = [text for text, loss in self.true.items() if loss <= EPSILON - SLACK]
        return min(good, key=self.latency_s.__getitem__)

    def draw(self, generator: np.random.Generator) -> Drawn:
        """Episodes drawn with replacement."""
        validation = generator.integers(self.validation.shape[1], size=BRUTE_EPISODES)
        test = generator.integers(self.test.shape[1], size=CAP)
        return Drawn(
            validation=dict(zip(CONSTANT.patterns, self.validation[:, validation], strict=True)),
            test=dict(zip(CONSTANT.patterns, self.test[:, test], strict=True)),
        )


@dataclass(frozen=True)
class FromTruth:
    """One repeat's episodes, all judged long ago."""

    drawn: Drawn

    def judge(self, together: Sequence[str], split: Split, episodes: int) -> None:
        """Nothing is left to do."""

    def degradations(self, candidate: str, split: Split, episodes: int) -> NDArray[np.float64]:
        """As drawn."""
        values = self.drawn.validation if split == Split.VALIDATION else self.drawn.test
        return values[candidate][:episodes]


def in_order(subject: Subject, drawn: Drawn) -> Found:
    """The product's search of the listed space."""
    predicted, largest_error = subject.predicted
    search = ProductSearch(
        source=FromTruth(drawn),
        predict=lambda candidates: [predicted[candidate.text] for candidate in candidates],
        measured_s=subject.latency_s.__getitem__,
        margin=prediction_margin(largest_error, "eager"),
    )
    return search.run(CONSTANT.patterns)


def by_means(subject: Subject, drawn: Drawn) -> Found:
    """Brute force: every candidate on every validation episode, and the fastest whose mean is under the threshold."""
    found = Found(BASELINE)
    found.judge(CONSTANT.patterns, BRUTE_EPISODES)
    return _fastest_by_mean(found, subject, drawn, CONSTANT.patterns, BRUTE_EPISODES)


def at_random(subject: Subject, drawn: Drawn, generator: np.random.Generator) -> Found:
    """As many random candidates as TPE judges, and the fastest whose mean is under the threshold."""
    count = round(RANDOM_SHARE * len(CONSTANT.patterns))
    chosen = [str(text) for text in generator.choice(CONSTANT.patterns, count, replace=False)]
    found = Found(BASELINE)
    for text in chosen:
        found.judge([text], VALIDATION)
    return _fastest_by_mean(found, subject, drawn, chosen, VALIDATION)


def by_tpe(subject: Subject, drawn: Drawn, generator: np.random.Generator) -> Found:
    """Optuna's TPE as it comes: row and steps, latency as the objective, mean degradation as the constraint."""
    sampler = optuna.samplers.TPESampler(seed=int(generator.integers(2**31)))
    study = optuna.create_study(sampler=sampler)
    rows = [f"{row:0{UNITS}b}" for row in range(1, 2**UNITS)]
    found = Found(BASELINE)
    seen: set[str] = set()
    for _ in range(round(RANDOM_SHARE * len(CONSTANT.patterns))):
        trial = study.ask()
        steps = trial.suggest_int("steps", 1, STEPS)
        text = LambdaPattern.parse(f"{trial.suggest_categorical('row', rows)}@{steps}").text
        if text not in seen:
            found.judge([text], VALIDATION)
        seen.add(text)
        trial.set_constraint("degradation", float(drawn.validation[text][:VALIDATION].mean()) - EPSILON)
        study.tell(trial, subject.latency_s[text])
    return _fastest_by_mean(found, subject, drawn, sorted(seen), VALIDATION)


def _fastest_by_mean(found: Found, subject: Subject, drawn: Drawn, texts: Sequence[str], episodes: int) -> Found:
    under = [text for text in texts if drawn.validation[text][:episodes].mean() <= EPSILON]
    found.answer = min(under, key=lambda text: (subject.latency_s[text], text), default=BASELINE)
    return found


class Clockwork:
    """Seconds that batches take to judge, measured once for each set of candidates."""

    EPISODES = 16

    def __init__(self, judge: Judge, episodes: Episodes) -> None:
        self.judge = judge
        self.batch = batch_tensors(episodes.draw(Split.VALIDATION, 0, 0, self.EPISODES), judge.device)
        self.known: dict[tuple[str, ...], float] = {}

    def seconds(self, found: Found) -> float:
        """Of all that a search judged."""
        return sum(self._per_episode(together) * episodes for together, episodes in found.batches if episodes)

    def _per_episode(self, together: tuple[str, ...]) -> float:
        runs = tuple(sorted(_longest(together)))
        if runs not in self.known:
            candidates = [Candidate.parse(text) for text in runs]
            self.judge.qualities(candidates, *self.batch)  # traces, and measures how to run
            started = perf_counter()
            self.judge.qualities(candidates, *self.batch)
            self.known[runs] = (perf_counter() - started) / self.EPISODES
        return self.known[runs]


def _longest(texts: Iterable[str]) -> list[str]:
    """Of candidates with the same row, the one with the most steps: it yields the others."""

    def row_of(text: str) -> str:
        return text.split("@")[0]

    ordered = sorted(texts, key=lambda text: (row_of(text), Candidate.parse(text).steps))
    return [list(same)[-1] for _, same in groupby(ordered, key=row_of)]


def replay(subject: Subject, repeats: int, clockwork: Clockwork, progress: Progress) -> list[dict[str, Any]]:
    """One row per way of searching."""
    task = progress.add_task(f"{subject.name}: replaying", total=repeats)
    results: dict[str, list[Found]] = {"certified search": [], "brute force by means": [], "random": [], "TPE": []}
    for number in range(repeats):
        generator = np.random.default_rng([number])
        drawn = subject.draw(generator)
        results["certified search"].append(in_order(subject, drawn))
        results["brute force by means"].append(by_means(subject, drawn))
        results["random"].append(at_random(subject, drawn, generator))
        results["TPE"].append(by_tpe(subject, drawn, generator))
        progress.advance(task)
    brute = results["brute force by means"][0]
    brute_s = clockwork.seconds(brute)
    rows = []
    for way, founds in results.items():
        measured = founds[:20]  # of these the time is put together
        rows.append(
            {
                "model": subject.name,
                "way": way,
                "threshold": EPSILON,
                "fastest clearly under": subject.reference,
                "answers": _common(found.answer for found in founds),
                "near_and_under": float(np.mean([_is_good(subject, found.answer) for found in founds])),
                "breaks_threshold": float(np.mean([subject.true[found.answer] > EPSILON for found in founds])),
                "relative_latency": float(
                    np.mean(
                        [subject.latency_s[found.answer] / subject.latency_s[subject.reference] for found in founds]
                    )
                ),
                "share_of_adaptations": float(
                    np.mean([found.episode_adaptations for found in founds]) / brute.episode_adaptations
                ),
                "share_of_time": float(np.mean([clockwork.seconds(found) for found in measured]) / brute_s),
            }
        )
    return rows


def _is_good(subject: Subject, answer: str) -> bool:
    """Under the threshold, and hardly slower than the fastest candidate that is clearly under it."""
    is_near = subject.latency_s[answer] <= (1 + NEAR) * subject.latency_s[subject.reference]
    return is_near and subject.true[answer] <= EPSILON


def _common(answers: Iterable[str]) -> str:
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    ranked = sorted(counts, key=lambda answer: -counts[answer])
    return ", ".join(f"{answer} {counts[answer]}" for answer in ranked[:4])


def recompute(truth: Truth, episodes: Episodes, lanes: Lanes) -> float:
    """Share of random cells of the truth (a pattern on ``CHUNK`` episodes) that come out as they are stored."""
    generator = np.random.default_rng(0)
    same = []
    for _ in range(CELLS):
        model = str(generator.choice(list(MODELS)))
        space = SPACES[generator.integers(len(SPACES))]
        split = SPLITS[generator.integers(len(SPLITS))]
        start = CHUNK * int(generator.integers(space.episodes // CHUNK))
        pattern = space.judged[generator.integers(len(space.judged))]
        judge = judge_of(MODELS[model], truth.parameters(model), episodes, lanes)
        counts = judge_chunk(judge, episodes, split, start, (pattern,))
        stored = truth.arrays[f"{model}/{space.name}/{split}"][:, start : start + CHUNK]
        # Another order of sums may turn a single answer.
        differences = [int(np.sum(stored[space.patterns.index(text)] != computed)) for text, computed in counts.items()]
        same.append(max(differences) <= 1)
    return float(np.mean(same))


def measure(repeats: int, progress: Progress) -> dict[str, Any]:
    """Machine, a row per model and way of searching, and the checks."""
    keep_freed_memory()
    torch.set_num_threads(1)
    exact_float32()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    truth = Truth.load()
    lanes = Lanes(os.cpu_count() or 1)
    episodes = open_task_family(TASKS, Settings().data_dir)
    judge = judge_of(FIVE_STEP, truth.parameters("five_step"), episodes, lanes)
    clockwork = Clockwork(judge, episodes)
    rows = [row for model in MODELS for row in replay(Subject.of(truth, model), repeats, clockwork, progress)]
    checks = []
    for row in rows:
        if row["way"] == "certified search":
            model = row["model"]
            checks += [
                at_least(f"{model}: near the fastest, and under the threshold", row["near_and_under"], WELL),
                at_most(f"{model}: share of brute force's episode-adaptations", row["share_of_adaptations"], SHARE),
                at_most(f"{model}: share of brute force's time", row["share_of_time"], SHARE),
            ]
    sampled = by_sampler(truth, judge, episodes)
    rows.append(sampled)
    checks += [
        at_most("sampler: latency of its answer, of the best constant row's", sampled["relative_latency"], 1 - CHEAPER),
        at_most("sampler: share of its space judged", sampled["judged"], JUDGED_SHARE),
    ]
    checks.append(at_least("cells of the truth that come out the same", recompute(truth, episodes, lanes), 1.0))
    return {
        "machine": {
            **fingerprint(torch.device("cpu")),
            "lanes": lanes.count,
            "repeats": repeats,
            "truth": truth.made["date"],
        },
        "rows": rows,
        "checks": checks,
    }


COLUMNS = {
    "model": "model",
    "way": "way",
    "answers": "answers",
    "near_and_under": "near the fastest and under",
    "breaks_threshold": "breaks the threshold",
    "relative_latency": "latency / fastest clearly under",
    "share_of_adaptations": "share of adaptations",
    "share_of_time": "share of time",
}


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    repeats: Annotated[int, typer.Option(help="Searches per model.", min=1)] = 200,
) -> None:
    """Replay searches on the ground truth."""
    with Progress(console=Console(stderr=True)) as progress:
        report = measure(repeats, progress)
    show(report, f"Searching 155 constant rows, threshold {EPSILON}", COLUMNS, as_json)


if __name__ == "__main__":
    typer.run(main)
