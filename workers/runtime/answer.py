"""The result document of a search whose certificate phase is over."""

from __future__ import annotations

from typing import Any

from search_service.domain.candidate import Candidate
from search_service.domain.certificate import GUARANTEED
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.result import (
    Compilation,
    Confirmed,
    Degradation,
    FrontPoint,
    Interval,
    Latency,
    PatternFigures,
    PredictedLatency,
    Proved,
    Quality,
    Ratio,
    Retrained,
    SearchEffort,
    SearchResult,
    SpeedupSplit,
)
from search_service.domain.search import SearchStatus
from search_service.domain.trial import TrialState
from search_service.storage import checkpoints, codec, trials
from search_service.storage.database import server_time
from search_service.storage.tables import CheckpointRow, TrialRow
from workers.runtime.case import Case
from workers.runtime.phases.certificate import confirmed_blocks
from workers.search.class_bootstrap import class_interval
from workers.search.decisions import Point, front
from workers.search.statistics import MeanEstimate

FEW_CLASSES = 50
"""Below this many confirmation classes the certificate says little about other classes (DESIGN)."""

Figures = dict[str, dict[str, Any]]


def build_result(case: Case) -> SearchResult:
    """Everything that was measured, with the fastest pattern that qualified, or the baseline if none did."""
    judged = [row for row in trials.of_search(case.session, case.row.id) if row.blocks]
    answer = case.answer
    tested = [row for row in judged if row.confirmation is not None]
    survived = [row for row in judged if row.state == TrialState.SURVIVED or row in tested]
    winner = case.baseline.text if answer is None else answer.candidate
    blocks = _confirmed_blocks(case, answer)
    figures: Figures = case.row.timings

    fastest = _figures_of(case, winner, figures, answer, blocks)
    full_by_steps = [_figures_of(case, pattern.text, figures, None, blocks) for pattern in case.full_by_steps]
    baseline = next(entry for entry in full_by_steps if entry.pattern == case.baseline.text)
    return SearchResult(
        search_id=str(case.row.id),
        status=SearchStatus.SUCCEEDED.value,
        fastest=fastest,
        baseline=baseline,
        empty=_figures_of(case, case.empty.text, figures, None, blocks),
        full_by_steps=full_by_steps,
        speedup_split=_split(case, winner, figures),
        max_degradation=case.max_degradation,
        confidence=case.spec.confidence,
        method=case.spec.certificate,
        goal=case.spec.goal,
        proved=_proved(tested, figures),
        confirmed=_confirmed(case, answer, blocks),
        search=SearchEffort(
            method=case.method,
            method_reason=case.spec.method.chosen_for(case.space)[1],
            episodes=max((row.blocks for row in judged), default=0) * case.spec.episodes.block,
            judged=len(judged),
            space_size=case.space.size,
            dropped=sum(row.state == TrialState.DROPPED for row in judged),
            survived=sorted(row.candidate for row in survived),
            qualified=_in_state(judged, TrialState.QUALIFIED),
            unqualified=_in_state(judged, TrialState.UNQUALIFIED),
            unresolved=_in_state(judged, TrialState.UNRESOLVED),
            untested=_in_state(judged, TrialState.SURVIVED),
            predicted=_predicted(case),
            episode_adaptations=case.row.effort.get("episode_adaptations", 0),
            image_passes=case.row.effort.get("image_passes", 0),
            reused_evaluations=case.row.effort.get("reused_evaluations", 0),
            answered_from=None if case.row.answered_from is None else str(case.row.answered_from),
        ),
        front=_front(case, survived),
        checkpoint=_checkpoint(case.checkpoint),
        norm_statistics=case.spec.norm_statistics,
        device=figures[case.baseline.text].get("device", {}),
        runtime=case.spec.runtime,
        seconds=_seconds(case),
        warnings=_warnings(case, answer, judged, figures),
        retrained=_retrained(case),
    )


def _retrained(case: Case) -> Retrained | None:
    proof = case.row.retrained
    if proof is None:
        return None
    checkpoint = checkpoints.get(case.session, proof["checkpoint"])
    recipe = codec.recipe_from_json(checkpoint.config)
    blocks = proof["episodes"] // case.spec.episodes.block
    assert case.answer is not None, "only an answer is retrained under"
    quality = MeanEstimate.of(case.qualities(Split.TEST, case.answer.candidate, blocks, checkpoint))
    low, high = quality.interval()
    return Retrained(
        candidate=case.answer.candidate,
        checkpoint=_checkpoint(checkpoint),
        iterations=recipe.meta_training.iterations,
        quality=Quality(metric=case.spec.tasks.metric, estimate=quality.mean, low=low, high=high),
        degradation=Degradation(
            estimate=proof["degradation"], low=proof["low"], high=proof["high"], upper_bound=proof["upper_bound"]
        ),
        episodes=proof["episodes"],
        position=proof["position"],
        state=proof["state"],
        reason=proof["reason"],
    )


def _checkpoint(row: CheckpointRow) -> dict[str, Any]:
    return {"id": row.id, "uri": row.uri, "quality": row.quality, **row.config}


def _proved(tested: list[TrialRow], figures: Figures) -> list[Proved]:
    proved = [
        Proved(
            candidate=row.candidate,
            latency_s=row.latency_s or 0.0,
            speedup=row.speedup or 0.0,
            speedup_over_plain=figures[row.candidate]["speedup_over_plain"]["estimate"],
            quality=row.confirmation["quality"],
            degradation=row.confirmation["degradation"],
            upper_bound=row.confirmation["upper_bound"],
            episodes=row.confirmation["episodes"],
            position=row.confirmation["position"],
            state=row.state,
        )
        for row in tested
        if row.confirmation is not None and "upper_bound" in row.confirmation
    ]
    return sorted(proved, key=lambda each: (-each.speedup, each.candidate))


def _confirmed_blocks(case: Case, answer: TrialRow | None) -> int:
    """Confirmation blocks that the result's figures come from: the answer's own, or the baseline's without one."""
    if answer is None or answer.confirmation is None:
        return confirmed_blocks(case)
    blocks: int = answer.confirmation["episodes"] // case.spec.episodes.block
    return blocks


def _in_state(rows: list[TrialRow], state: TrialState) -> list[str]:
    return sorted(row.candidate for row in rows if row.state == state)


def _confirmed(case: Case, answer: TrialRow | None, blocks: int) -> Confirmed:
    episodes = blocks * case.spec.episodes.block
    drawn_from = case.open_episodes(case.spec.tasks)
    classes = drawn_from.classes(Split.TEST, case.spec.seed, 0, episodes)
    interval = None
    if answer is not None and classes is not None:
        low, high = class_interval(case.degradations(Split.TEST, answer.candidate, blocks), classes)
        interval = Interval(low=low, high=high)
    proof = (answer.confirmation or {}) if answer is not None else {}
    return Confirmed(
        split=Split.TEST.value,
        classes=drawn_from.class_count(Split.TEST),
        episodes=episodes,
        position=proof.get("position"),
        alpha=proof.get("alpha"),
        class_interval=interval,
    )


def _predicted(case: Case) -> PredictedLatency:
    assert case.row.latency_model is not None
    error = case.row.latency_model["error"]
    return PredictedLatency(
        calibrated_on=error["candidates"],
        median_error=error["median"],
        largest_error=error["largest"],
        rank_correlation=error["rank_correlation"],
    )


def _figures_of(case: Case, text: str, figures: Figures, trial: TrialRow | None, blocks: int) -> PatternFigures:
    candidate = Candidate.parse(text, len(case.unit_names))
    pattern = candidate.pattern
    timed = figures.get(text)
    qualities = case.qualities(Split.TEST, text, blocks)
    quality = MeanEstimate.of(qualities)
    quality_low, quality_high = quality.interval()
    loss = MeanEstimate.of(case.degradations(Split.TEST, text, blocks))
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


def _warnings(case: Case, answer: TrialRow | None, judged: list[TrialRow], figures: Figures) -> list[str]:
    warnings = []
    if answer is None:
        warnings.append("No pattern was proved to stay under the threshold; the answer is the baseline itself.")
    unresolved = [row for row in judged if row.state == TrialState.UNRESOLVED]
    if unresolved:
        warnings.append(
            f"Too near the threshold to be told from it: {len(unresolved)} of {len(judged)} (see search.unresolved). "
            "More confirmation episodes, or another threshold, may decide."
        )
    if case.row.stopping:
        left = trials.counts(case.session, case.row.id)[TrialState.PENDING]
        warnings.append(f"Stopped on request: {left} candidates were not screened to the end, or at all.")
    if case.spec.retrain and answer is None:
        warnings.append("Nothing was retrained: retrain trains under the answer, and the answer is the baseline.")
    if case.spec.certificate not in GUARANTEED:
        warnings.append(
            "certificate 'asymptotic' keeps the confidence only where losses are not rare and large; 'betting' always."
        )
    classes = case.open_episodes(case.spec.tasks).class_count(Split.TEST)
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
    if not all(entry["tight"] for entry in figures.values()):
        warnings.append("Timing was noisy: its intervals are wider than 2 %; see low and high of each speedup.")
    return warnings
