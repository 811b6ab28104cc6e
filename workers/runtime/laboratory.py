"""The evaluator's own side: computes a piece of work on one device, keeping what is expensive to open."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search_service.domain.candidate import Candidate
from search_service.domain.errors import ArtifactMissing
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.recipe import Recipe
from search_service.domain.search import Runtime, TaskFamily
from workers.adaptation.candidate_program import CandidateProgram, statistics_units
from workers.adaptation.cost import multiply_adds
from workers.adaptation.device import exact_float32, fingerprint
from workers.adaptation.episodes import Episodes, open_task_family
from workers.adaptation.inner_loop import Adaptation, Parameters
from workers.adaptation.judging import Judge
from workers.adaptation.lanes import Lanes
from workers.adaptation.model import adaptation_for, batch_tensors, metric_for
from workers.adaptation.networks import build_network
from workers.adaptation.timed_subjects import TimedSubjects
from workers.adaptation.timing import InterleavedTiming, Samples, Subject, clock_of, interleave, median_ratio
from workers.meta_training.trainer import MetaTrainer, read_checkpoint
from workers.runtime.artifacts import Artifacts
from workers.runtime.host_locks import TimingLock
from workers.runtime.work import (
    LATENCY_MODEL,
    CalibrationOutcome,
    CalibrationWork,
    CheckpointOutcome,
    CheckpointWork,
    JudgingOutcome,
    JudgingWork,
    ModelUnderTest,
    Outcome,
    Progress,
    ProposalOutcome,
    ProposalWork,
    TimingOutcome,
    TimingWork,
    TrainingOutcome,
    TrainingWork,
    Work,
)
from workers.search.proposals import Known, propose
from workers.search.statistics import MeanEstimate

TIMING_EPISODES = 8
"""Distinct episodes that timing rounds go through."""

Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _StoredState:
    """A stored training state, and how far it is."""

    recipe: str
    uri: str | None
    iteration: int

    def is_further_than(self, other: _StoredState) -> bool:
        return self.recipe == other.recipe and self.iteration > other.iteration


class Laboratory:
    """Computes work on one device.

    Args:
        device: where.
        artifacts: where training states and checkpoints are.
        data_dir: where datasets are, if anywhere.
        locks: folder of the host's locks.
        lanes: episodes and tasks that are computed side by side; one on a GPU.
    """

    def __init__(
        self, device: torch.device, artifacts: Artifacts, data_dir: Path | None, locks: Path, lanes: Lanes
    ) -> None:
        exact_float32()
        self.device = device
        self.artifacts = artifacts
        self.data_dir = data_dir
        self.timing_lock = TimingLock(locks)
        self.lanes = lanes
        self._episodes = lru_cache(maxsize=4)(self._open_episodes)
        self._models = lru_cache(maxsize=4)(self._open_model)
        self._judges = lru_cache(maxsize=4)(self._open_judge)
        self._trainer: MetaTrainer | None = None
        self._superseded: _StoredState | None = None
        """The state that the last stretch of training began from: unneeded once a next one begins further on."""

    def perform(self, work: Work, report: Report) -> Outcome:
        """Compute a piece of work."""
        if isinstance(work, TimingWork | CalibrationWork):
            report(Progress(0, 1, "share", "waiting for the host to be quiet"))
            with self.timing_lock.measuring():
                return self._time(work, report) if isinstance(work, TimingWork) else self._calibrate(work, report)
        with self.timing_lock.computing():
            if isinstance(work, ProposalWork):
                return _propose(work)
            if isinstance(work, TrainingWork):
                return self._train(work, report)
            if isinstance(work, CheckpointWork):
                return self._make_checkpoint(work, report)
            return self._judge(work)

    def _train(self, work: TrainingWork, report: Report) -> TrainingOutcome:
        trainer = self._trainer_at(work.recipe, work.state_uri)
        begun = _StoredState(trainer.recipe.key, work.state_uri, trainer.iteration)
        if (
            self._superseded is not None
            and self._superseded.uri is not None
            and begun.is_further_than(self._superseded)
        ):
            self.artifacts.remove(self._superseded.uri)
        self._superseded = begun
        iterations = trainer.recipe.meta_training.iterations

        def progress(iteration: int, loss: float) -> None:
            self.timing_lock.give_way()
            report(Progress(iteration, iterations, "iterations", f"loss {loss:.3f}"))

        try:
            trainer.run(work.seconds, progress)
            uri = _state_uri(trainer)
            self.artifacts.put(uri, trainer.state())
        except BaseException:
            self._trainer = None
            raise
        return TrainingOutcome(
            iteration=trainer.iteration, iterations=iterations, mean_loss=trainer.mean_loss, state_uri=uri
        )

    def _trainer_at(self, recipe: Recipe, state_uri: str | None) -> MetaTrainer:
        """The trainer at a stored state: the one in memory if it stands there, or a new one."""
        trainer = self._trainer
        if trainer is not None and trainer.recipe == recipe and state_uri == _state_uri(trainer):
            return trainer
        begin = None if recipe.retraining is None else self._parameters(recipe.retraining.uri)
        trainer = MetaTrainer(recipe, self._episodes(recipe.tasks), self.device, self.lanes, begin)
        if state_uri is not None:
            with suppress(FileNotFoundError):  # lost: training begins again, and comes to the same parameters
                trainer.restore(self.artifacts.get(state_uri))
        self._trainer = trainer
        return trainer

    def _make_checkpoint(self, work: CheckpointWork, report: Report) -> CheckpointOutcome | TrainingOutcome:
        trainer = self._trainer_at(work.recipe, work.state_uri)
        if not trainer.is_finished:  # the finished state was lost
            return TrainingOutcome(
                iteration=0, iterations=trainer.recipe.meta_training.iterations, mean_loss=0.0, state_uri=None
            )
        data = trainer.checkpoint()
        identity = hashlib.sha256(data).hexdigest()
        uri = f"checkpoints/{identity}.safetensors"
        self.artifacts.put(uri, data)
        recipe = trainer.recipe
        subject = ModelUnderTest(
            checkpoint_uri=uri,
            tasks=recipe.tasks,
            model=recipe.model,
            rate=recipe.meta_training.inner_rate,
            norm_statistics=recipe.norm_statistics,
            units=tuple((name, tuple(names)) for name, names in trainer.adaptation.units.items()),
        )
        inner = trainer.candidate
        qualities: list[float] = []
        for block in range(work.episodes // work.block):
            judging = JudgingWork(
                subject=subject,
                candidates=[inner.text],
                split=Split.VALIDATION,
                seed=recipe.meta_training.seed,
                block=block,
                block_size=work.block,
            )
            qualities += self._judge(judging).qualities[inner.text][-1]
            report(Progress(len(qualities), work.episodes, "episodes", "quality of the checkpoint"))
        estimate = MeanEstimate.of(np.asarray(qualities))
        low, high = estimate.interval()
        quality = {
            "metric": recipe.tasks.metric,
            "estimate": estimate.mean,
            "low": low,
            "high": high,
            "episodes": estimate.episodes,
            "split": Split.VALIDATION.value,
        }
        self._trainer = None
        return CheckpointOutcome(id=identity, uri=uri, quality=quality)

    def _judge(self, work: JudgingWork) -> JudgingOutcome:
        episodes = self._episodes(work.subject.tasks)
        batch = episodes.draw(work.split, work.seed, work.block * work.block_size, work.block_size)
        units = len(work.subject.units)
        candidates = [Candidate.parse(text, units) for text in work.candidates]
        judge = self._judges(work.subject)
        judged = judge.qualities(candidates, *batch_tensors(batch, self.device), pause=self.timing_lock.give_way)
        return JudgingOutcome(
            qualities={text: qualities.double().T.tolist() for text, qualities in judged.items()}, digest=batch.digest
        )

    def _calibrate(self, work: CalibrationWork, report: Report) -> CalibrationOutcome:
        bench = self._bench(work.subject, work.seed)
        programs = self._programs(bench, work.candidates, "eager", report)
        timing = interleave(
            {text: bench.candidate(program) for text, program in programs.items()},
            work.candidates[0],
            work.limit_s,
            lambda share: report(Progress(share, 1, "share", f"timing {len(programs)} candidates")),
            clock_of(self.device),
        )
        support_x = bench.episodes[0][0]
        return CalibrationOutcome(
            latencies_s={text: float(np.median(samples)) for text, samples in timing.samples_s.items()},
            statistics_units=statistics_units(bench.adaptation, bench.parameters, support_x),
        )

    def _bench(self, subject: ModelUnderTest, seed: int) -> TimedSubjects:
        adaptation, parameters = self._models(subject)
        batch = self._episodes(subject.tasks).draw(Split.VALIDATION, seed, 0, TIMING_EPISODES)
        episodes = list(zip(*batch_tensors(batch, self.device), strict=True))
        return TimedSubjects(adaptation, parameters, episodes, self.device)

    def _programs(
        self, bench: TimedSubjects, texts: list[str], runtime: Runtime, report: Report
    ) -> dict[str, CandidateProgram]:
        verb = "compiling" if runtime == "compiled" else "tracing"
        programs: dict[str, CandidateProgram] = {}
        for text in texts:
            report(Progress(len(programs), len(texts), "candidates", f"{verb} {text}"))
            programs[text] = bench.program(Candidate.parse(text, len(bench.adaptation.units)), runtime)
        return programs

    def _time(self, work: TimingWork, report: Report) -> TimingOutcome:
        bench = self._bench(work.subject, work.seed)
        baseline = LambdaPattern.parse(work.baseline, len(bench.adaptation.units))
        subjects: dict[str, Subject] = {
            "plain": bench.plain(baseline.steps),
            "one_query": bench.prediction(1),
            "all_queries": bench.prediction(None),
        }
        texts = list(dict.fromkeys([baseline.text, *work.candidates]))
        programs = self._programs(bench, texts, work.runtime, report)
        subjects.update({text: bench.candidate(program) for text, program in programs.items()})
        timing = interleave(
            subjects,
            baseline.text,
            work.limit_s,
            lambda share: report(Progress(share, 1, "share", f"timing {len(texts)} candidates")),
            clock_of(self.device),
        )
        return TimingOutcome(
            figures={
                text: {**_figures(timing, baseline.text, text), **_program_figures(program)}
                for text, program in programs.items()
            }
        )

    def fingerprint(self) -> dict[str, Any]:
        """The device's fingerprint."""
        return fingerprint(self.device)

    def _open_episodes(self, tasks: TaskFamily) -> Episodes:
        return open_task_family(tasks, self.data_dir)

    def _open_model(self, subject: ModelUnderTest) -> tuple[Adaptation, Parameters]:
        episodes = self._episodes(subject.tasks)
        network = build_network(subject.model, episodes.input_shape, subject.tasks.outputs, seed=0).to(self.device)
        network.load_state_dict(self._parameters(subject.checkpoint_uri))
        units = dict(subject.units)
        adaptation = adaptation_for(network, subject.tasks, subject.rate, subject.norm_statistics, units=units)
        return adaptation, adaptation.parameters()

    def _parameters(self, uri: str) -> Parameters:
        """The parameters of a checkpoint.

        Raises:
            ArtifactMissing: its file is not there.
        """
        try:
            data = self.artifacts.get(uri)
        except FileNotFoundError as error:
            raise ArtifactMissing(uri, self.artifacts.url) from error
        return read_checkpoint(data, self.device)[0]

    def _open_judge(self, subject: ModelUnderTest) -> Judge:
        adaptation, parameters = self._models(subject)
        return Judge(adaptation, metric_for(subject.tasks), parameters, self.lanes)


def _propose(work: ProposalWork) -> ProposalOutcome:
    model = LATENCY_MODEL.validate_python(work.latency_model)
    known = [
        Known(candidate=Candidate.parse(text, work.space.units), predicted_s=predicted_s, violation=violation)
        for text, predicted_s, violation in work.known
    ]
    proposed = propose(
        work.space,
        work.sampler,
        known,
        lambda candidates: model.predict_many(candidates).tolist(),
        work.faster_than_s,
        work.count,
        work.seed,
    )
    return ProposalOutcome(candidates=[candidate.text for candidate in proposed])


def _state_uri(trainer: MetaTrainer) -> str:
    return f"trainings/{trainer.recipe.key}/{trainer.iteration}.safetensors"


def _figures(timing: InterleavedTiming, baseline: str, text: str) -> dict[str, Any]:
    samples = timing.samples_s
    queries = samples["all_queries"]
    return {
        "latency_s": _latency(samples[text]),
        "prediction_latency_s": {name: _latency(samples[name]) for name in ("one_query", "all_queries")},
        "plain_latency_s": _latency(samples["plain"]),
        "baseline_latency_s": _latency(samples[baseline]),
        "speedup": asdict(median_ratio(samples[baseline], samples[text])),
        "speedup_over_plain": asdict(median_ratio(samples["plain"], samples[text])),
        "end_to_end_speedup": asdict(median_ratio(samples[baseline] + queries, samples[text] + queries)),
        "load": [timing.load_before, timing.load_after],
        "tight": timing.tight,
        "ended": timing.ended,
        "repeated": timing.repeated,
        "disturbed": timing.disturbed,
    }


def _program_figures(program: CandidateProgram) -> dict[str, Any]:
    return {
        "layout": program.layout,
        "multiply_adds": multiply_adds(program.module),
        "compilation": asdict(program.compilation) if program.compilation else None,
    }


def _latency(samples: Samples) -> dict[str, Any]:
    p10, median, p90 = np.quantile(samples, (0.1, 0.5, 0.9))
    return {"median": float(median), "p10": float(p10), "p90": float(p90), "samples": len(samples)}
