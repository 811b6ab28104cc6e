"""The answer beside other ways to adapt: all units, fewer steps, head only, body only, not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import known_mean
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.result import PatternFigures, SearchResult
from search_service.domain.search import SearchSpec
from search_service.domain.trial import TrialState
from search_service.pages.grids import Grid, grid_of
from search_service.storage.tables import TrialRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to adapt, and what is known of it. None is what was not judged."""

    name: str
    grid: Grid | None
    latency_s: float | None = None
    is_predicted: bool = False
    """Whether the latency is the model's and not measured."""
    speedup: float | None = None
    speedup_over_plain: float | None = None
    quality: float | None = None
    degradation: float | None = None
    judged_on: str
    is_answer: bool = False


def ways(result: SearchResult, spec: SearchSpec, trials: dict[str, TrialRow]) -> list[Way]:
    """All ways that a result can be set beside.

    Args:
        result: the answer.
        spec: what was asked for.
        trials: those of :func:`part_candidates` that the search has, by candidate.
    """
    units, answer, baseline = result.baseline.units, result.fastest, result.baseline
    rows = [_way("The answer", answer, result, is_answer=True)]
    if answer.candidate != baseline.candidate:
        rows.append(_way(f"Full, {_steps(baseline.steps)} (the baseline)", baseline, result))
    plain = _plain(baseline)
    if plain is not None:
        rows.append(plain)
    others = sorted(result.full_by_steps, key=lambda entry: -entry.steps)
    known = {answer.candidate, baseline.candidate}
    rows += [_way(f"Full, {_steps(entry.steps)}", entry, result) for entry in others if entry.candidate not in known]
    for name, texts in part_candidates(len(units), baseline.steps).items():
        rows.append(_part(name, texts, result, spec, trials))
    rows.append(_way("No adaptation (empty)", result.empty, result))
    return rows


def part_candidates(units: int, steps: int) -> dict[str, list[str]]:
    """Candidates that update the head only, or all but the head, in so many steps or fewer; most steps first."""
    if units < 2:
        return {}
    rows = {"Head only": (False,) * (units - 1) + (True,), "Body only": (True,) * (units - 1) + (False,)}
    return {
        name: [Candidate(LambdaPattern.constant(row, count)).text for count in range(steps, 0, -1)]
        for name, row in rows.items()
    }


def _way(name: str, figures: PatternFigures, result: SearchResult, is_answer: bool = False) -> Way:
    return Way(
        name=name,
        grid=grid_of(figures.candidate, figures.units),
        latency_s=None if figures.latency_s is None else figures.latency_s.median,
        speedup=None if figures.speedup is None else figures.speedup.estimate,
        speedup_over_plain=None if figures.speedup_over_plain is None else figures.speedup_over_plain.estimate,
        quality=figures.quality.estimate,
        degradation=figures.degradation.estimate,
        judged_on=f"confirmation, {result.confirmed.episodes} tasks",
        is_answer=is_answer,
    )


def _plain(baseline: PatternFigures) -> Way | None:
    """Plain PyTorch computes the baseline, only slower."""
    if baseline.latency_s is None or baseline.speedup_over_plain is None:
        return None
    return Way(
        name=f"Full, {_steps(baseline.steps)}, in plain PyTorch",
        grid=grid_of(baseline.candidate, baseline.units),
        latency_s=baseline.latency_s.median * baseline.speedup_over_plain.estimate,
        speedup_over_plain=1.0,
        quality=baseline.quality.estimate,
        degradation=0.0,
        judged_on="as the baseline",
    )


def _part(name: str, texts: Sequence[str], result: SearchResult, spec: SearchSpec, trials: dict[str, TrialRow]) -> Way:
    """What the search knows of a part of the network adapting alone, for the most steps that it judged."""
    units = result.baseline.units
    for text in texts:
        named = f"{name}, {_steps(Candidate.parse(text).steps)}"
        known = next(_known(named, grid_of(text, units), text, result, spec, trials), None)
        if known is not None:
            return known
    return Way(name=name, grid=grid_of(texts[0], units), judged_on="not judged by this search")


def _known(
    name: str, grid: Grid, text: str, result: SearchResult, spec: SearchSpec, trials: dict[str, TrialRow]
) -> Iterator[Way]:
    """What is known of a candidate, the best kind of knowledge first."""
    for proved in result.proved:
        if proved.candidate == text:
            yield Way(
                name=name,
                grid=grid,
                latency_s=proved.latency_s,
                speedup=proved.speedup,
                speedup_over_plain=proved.speedup_over_plain,
                quality=proved.quality,
                degradation=proved.degradation,
                judged_on=f"confirmation, {proved.episodes} tasks: {proved.state}",
            )
    for point in result.front:
        if point.candidate == text:
            yield Way(
                name=name,
                grid=grid,
                latency_s=point.latency_s,
                speedup=point.speedup,
                speedup_over_plain=_over_plain(point.speedup, result),
                quality=point.quality,
                degradation=point.degradation,
                judged_on=f"validation, up to {result.search.episodes} tasks",
            )
    trial = trials.get(text)
    if trial is not None and trial.blocks:
        tasks = f"validation, {trial.blocks * spec.episodes.block} tasks"
        yield Way(
            name=name,
            grid=grid,
            latency_s=trial.predicted_latency_s if trial.latency_s is None else trial.latency_s,
            is_predicted=trial.latency_s is None,
            speedup=trial.speedup,
            speedup_over_plain=None if trial.speedup is None else _over_plain(trial.speedup, result),
            quality=known_mean(trial.quality),
            degradation=trial.degradation,
            judged_on=f"{tasks}, then dropped" if trial.state == TrialState.DROPPED else tasks,
        )


def _over_plain(speedup: float, result: SearchResult) -> float | None:
    """Through the baseline's."""
    ratio = result.baseline.speedup_over_plain
    return None if ratio is None else speedup * ratio.estimate


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"
