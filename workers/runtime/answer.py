"""The result document of a search whose certificate phase is over."""

from __future__ import annotations

import math
from typing import Any

from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.result import (
    Compilation,
    Confirmed,
    Degradation,
    FrontPoint,
    Latency,
    PatternFigures,
    Quality,
    Ratio,
    SearchEffort,
    SearchResult,
    SpeedupSplit,
)
from search_service.domain.search import SearchStatus
from search_service.storage import trials
from search_service.storage.database import server_time
from search_service.storage.tables import TrialRow
from search_service.storage.trials import TrialState
from workers.runtime.case import Case
from workers.search.decisions import METHOD, Point, front, spent_alpha
from workers.search.statistics import MeanEstimate, degradation

FEW_CLASSES = 50
"""Below this many confirmation classes the certificate says little about other classes (DESIGN)."""

Figures = dict[str, dict[str, Any]]


def build_result(case: Case) -> SearchResult:
    """Everything that was measured, with the fastest pattern that qualified, or the baseline if none did."""
    rows = list(trials.of_search(case.session, case.row.id))
    qualified = [row for row in rows if row.state == TrialState.QUALIFIED]
    tested = qualified + [row for row in rows if row.state == TrialState.UNQUALIFIED]
    survived = tested + [row for row in rows if row.state == TrialState.SURVIVED]
    winner = qualified[0].candidate if qualified else case.baseline.text
    figures: Figures = case.row.timings

    fastest = _figures_of(case, winner, figures, qualified[0] if qualified else None)
    full_by_steps = [_figures_of(case, pattern.text, figures, None) for pattern in case.full_by_steps]
    baseline = next(entry for entry in full_by_steps if entry.pattern == case.baseline.text)
    return SearchResult(
        search_id=str(case.row.id),
        status=SearchStatus.SUCCEEDED.value,
        fastest=fastest,
        baseline=baseline,
        empty=_figures_of(case, case.empty.text, figures, None),
        full_by_steps=full_by_steps,
        speedup_split=_split(case, winner, figures),
        max_degradation=case.max_degradation,
        confidence=case.spec.confidence,
        method=METHOD,
        confirmed=Confirmed(
            split=Split.TEST.value,
            classes=case.class_count(case.spec.tasks, Split.TEST),
            episodes=case.spec.episodes.confirmation,
        ),
        search=SearchEffort(
            episodes=case.spec.episodes.validation,
            judged=sum(row.blocks > 0 for row in rows),
            space_size=len(rows),
            survived=sorted(row.candidate for row in survived),
            qualified=sorted(row.candidate for row in qualified),
            unqualified=sorted(row.candidate for row in rows if row.state == TrialState.UNQUALIFIED),
            untested=sorted(row.candidate for row in rows if row.state == TrialState.SURVIVED),
            episode_adaptations=case.row.effort.get("episode_adaptations", 0),
            image_passes=case.row.effort.get("image_passes", 0),
            reused_evaluations=case.row.effort.get("reused_evaluations", 0),
        ),
        front=_front(case, survived),
        checkpoint={
            "id": case.checkpoint.id,
            "uri": case.checkpoint.uri,
            "quality": case.checkpoint.quality,
            **case.checkpoint.config,
        },
        norm_statistics=case.spec.norm_statistics,
        device=figures[case.baseline.text].get("device", {}),
        runtime=case.spec.runtime,
        seconds=_seconds(case),
        warnings=_warnings(case, bool(qualified), survived, figures),
    )


def _figures_of(case: Case, text: str, figures: Figures, trial: TrialRow | None) -> PatternFigures:
    candidate = Candidate.parse(text, len(case.unit_names))
    pattern = candidate.pattern
    timed = figures.get(text)
    qualities = case.qualities(Split.TEST, text)
    quality = MeanEstimate.of(qualities)
    quality_low, quality_high = quality.interval()
    loss = degradation(case.qualities(Split.TEST, case.baseline.text), qualities)
    low, high = loss.interval()
    is_baseline = text == case.baseline.text
    confirmation = trial.confirmation if trial is not None else None
    predictions = (timed or figures[case.baseline.text])["prediction_latency_s"]
    return PatternFigures(
        pattern=pattern.text,
        precision=candidate.precision,
        rows=["".join("1" if bit else "0" for bit in row) for row in pattern.rows],
        units=list(case.unit_names),
        steps=pattern.steps,
        rates=[case.rate * factor for factor in candidate.factors],
        rate_factors=list(candidate.factors),
        latency_s=Latency(**timed["latency_s"]) if timed else None,
        prediction_latency_s={name: Latency(**latency) for name, latency in predictions.items()},
        speedup=Ratio(**timed["speedup"]) if timed else None,
        speedup_over_plain=Ratio(**timed["speedup_over_plain"]) if timed else None,
        end_to_end_speedup=Ratio(**timed["end_to_end_speedup"]) if timed else None,
        quality=Quality(metric=case.spec.tasks.metric, estimate=quality.mean, low=quality_low, high=quality_high),
        degradation=Degradation(
            estimate=loss.mean,
            low=low,
            high=high,
            upper_bound=confirmation["upper_bound"] if confirmation else (0.0 if is_baseline else None),
        ),
        layout=timed["layout"] if timed else None,
        multiply_adds=timed["multiply_adds"] if timed else None,
        compilation=Compilation(**timed["compilation"]) if timed and timed["compilation"] else None,
    )


def _split(case: Case, winner: str, figures: Figures) -> SpeedupSplit:
    """Latency ratios plain -> baseline -> full with the answer's steps -> the answer."""
    full = LambdaPattern.full(len(case.unit_names), Candidate.parse(winner).pattern.steps).text
    baseline = figures[case.baseline.text]
    speedup = figures[winner]["speedup"]["estimate"]
    steps = figures[full]["speedup"]["estimate"]
    return SpeedupSplit(steps=steps, rows=speedup / steps, engine=baseline["speedup_over_plain"]["estimate"])


def _front(case: Case, survived: list[TrialRow]) -> list[FrontPoint]:
    timed = {row.candidate: row for row in survived if row.latency_s is not None}
    points = [Point(row.candidate, row.latency_s or 0.0, row.degradation or 0.0) for row in timed.values()]
    chosen = []
    for point in front(points):
        row = timed[point.candidate]
        candidate = Candidate.parse(row.candidate)
        estimate = MeanEstimate(
            mean=point.degradation,
            standard_error=row.degradation_se or 0.0,
            episodes=row.blocks * case.spec.episodes.block,
        )
        low, high = estimate.interval()
        chosen.append(
            FrontPoint(
                pattern=candidate.pattern.text,
                precision=candidate.precision,
                rate_factors=list(candidate.factors),
                latency_s=point.latency_s,
                speedup=row.speedup or 0.0,
                quality=row.quality or 0.0,
                degradation=point.degradation,
                degradation_low=low,
                degradation_high=high,
            )
        )
    return chosen


def _seconds(case: Case) -> dict[str, float]:
    """Wall-clock seconds of each phase, the present one up to now, and from submission to now."""
    now = server_time(case.session)
    seconds = dict(case.row.phase_seconds)
    if case.row.phase_started_at is not None:
        present = (now - case.row.phase_started_at).total_seconds()
        seconds[case.phase.value] = seconds.get(case.phase.value, 0.0) + present
    return {**seconds, "total": (now - case.row.created_at).total_seconds()}


def _warnings(case: Case, answered: bool, survived: list[TrialRow], figures: Figures) -> list[str]:
    warnings = []
    if not answered:
        warnings.append("No pattern was proved to stay under the threshold; the answer is the baseline itself.")
    classes = case.class_count(case.spec.tasks, Split.TEST)
    needed = math.ceil(
        math.log(1 / spent_alpha(case.spec.confidence, 1)) / -math.log1p(-min(case.max_degradation, 0.99))
    )
    if case.spec.tasks.metric == "accuracy" and case.spec.episodes.confirmation < needed:
        warnings.append(
            f"{case.spec.episodes.confirmation} confirmation episodes: no method that allows for rare large losses can "
            f"prove this threshold with fewer than {needed}; the t bound assumes there are none."
        )
    if classes is not None and classes < FEW_CLASSES:
        warnings.append(
            f"Only {classes} confirmation classes: the proof speaks for episodes of these classes, "
            "and may not carry over to others."
        )
    if case.spec.norm_statistics == "query":
        warnings.append(
            "Qualities are transductive (norm_statistics: query): all queries of a task must be predicted together."
        )
    if case.spec.may_lower_precision and not case.device.get("fast_bfloat16"):
        warnings.append("precision 'auto' tried float32 only: the device is not fast at bfloat16.")
    if untimed := [row.candidate for row in survived if row.latency_s is None]:
        reason = (
            "slower than the others in the eager runtime, were not compiled"
            if case.spec.runtime == "compiled"
            else "those estimated to compute most, were not timed"
        )
        warnings.append(f"{len(untimed)} survivors, {reason}.")
    if not all(entry["tight"] for entry in figures.values()):
        warnings.append("Timing was noisy: its intervals are wider than 2 %; see low and high of each speedup.")
    return warnings
