"""A result in the words of somebody who decides whether to use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from search_service import words
from search_service.domain.certificate import GUARANTEED
from search_service.domain.result import PatternFigures, Retrained, SearchResult
from search_service.domain.search import SearchSpec
from search_service.domain.thresholds import ThresholdAnswer, answerable

CLASS_NAMES = {"omniglot": "characters", "glyphs": "characters"}


@dataclass(frozen=True, slots=True)
class Card:
    """A figure that stands by itself, with the name of its kind."""

    value: str
    name: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The answer, before any table."""

    headline: str
    sentences: tuple[str, ...]
    cards: tuple[Card, ...]


class Loss:
    """Losses of quality in words: wrong answers of a hundred, or squared error.

    Args:
        metric: the name of the quality.
        baseline: the baseline's, to compare errors with.
    """

    def __init__(self, metric: str, baseline: float) -> None:
        self.is_accuracy = metric == "accuracy"
        self._error = abs(baseline)

    def at_most(self, loss: float) -> str:
        """A bound, rounded up."""
        if self.is_accuracy:
            return f"{words.at_most(loss * 100)} of 100 answers"
        relative = f", {words.at_most(loss / self._error * 100)} % of the baseline's" if self._error else ""
        return f"{words.at_most(loss)} of mean squared error{relative}"

    def plain(self, loss: float) -> str:
        """A measured loss, or a gain."""
        if self.is_accuracy:
            return f"{words.hundredths(loss * 100)} of 100 answers"
        return f"{words.signed(loss)} of mean squared error"


def loss_of(result: SearchResult) -> Loss:
    """How losses of a result are said."""
    return Loss(result.baseline.quality.metric, result.baseline.quality.estimate)


def summary(result: SearchResult) -> Summary:
    """What a result answers."""
    if result.fastest.candidate == result.baseline.candidate:
        return _baseline_summary(result)
    return Summary(
        headline=_headline(result.fastest, result.baseline),
        sentences=(_proof(result), *_against_plain(result), *_end_to_end(result), *_other_classes(result)),
        cards=tuple(_cards(result)),
    )


def tasks_proved_on(result: SearchResult) -> str:
    """The tasks of the proof."""
    confirmed = result.confirmed
    tasks = f"{words.count(confirmed.episodes)} tasks"
    if confirmed.classes is None:
        return f"{tasks} that the search never used"
    return f"{tasks} made of {words.count(confirmed.classes)} {classes_name(result)} that the search never used"


def classes_name(result: SearchResult) -> str:
    """What the classes of the tasks are."""
    family = (result.checkpoint.get("tasks") or {}).get("family")
    return CLASS_NAMES.get(str(family), "classes")


def _baseline_summary(result: SearchResult) -> Summary:
    baseline = result.baseline
    latency = None if baseline.latency_s is None else baseline.latency_s.median
    return Summary(
        headline="Nothing faster was proved to stay within the limit: adapt all units, as before.",
        sentences=(
            f"No pattern faster than the baseline {baseline.candidate} was proved to lose at most "
            f"{loss_of(result).at_most(result.max_degradation)} at {words.percent(result.confidence)} confidence. "
            "A larger limit, or more confirmation episodes, may find one.",
            *_against_plain(result),
        ),
        cards=(Card(words.latency(latency), "latency", "of one full adaptation, the baseline"),),
    )


def _headline(fastest: PatternFigures, baseline: PatternFigures) -> str:
    if fastest.latency_s is None or baseline.latency_s is None or fastest.speedup is None:
        return f"The answer is {fastest.candidate}."
    return (
        f"Adapting to a new task takes {words.latency(fastest.latency_s.median)} instead of "
        f"{words.latency(baseline.latency_s.median)}: {_as_fast(fastest.speedup.estimate)} as fast."
    )


def _proof(result: SearchResult) -> str:
    bound = result.fastest.degradation.upper_bound
    confidence, tasks = words.percent(result.confidence), tasks_proved_on(result)
    if bound is None:
        return "How much it loses was not tested."
    how = "proved" if result.method in GUARANTEED else "estimated, without guarantee,"
    if bound <= 0:
        return f"It loses nothing on average ({how} at {confidence} confidence on {tasks})."
    loss = loss_of(result)
    allowed = loss.at_most(result.max_degradation)
    return (
        f"It loses at most {loss.at_most(bound)} on average ({how} at {confidence} confidence on {tasks}); "
        f"{allowed} was the limit."
    )


def _against_plain(result: SearchResult) -> Iterable[str]:
    baseline, fastest = result.baseline, result.fastest
    if baseline.latency_s is None or baseline.speedup_over_plain is None or fastest.speedup_over_plain is None:
        return
    plain = baseline.latency_s.median * baseline.speedup_over_plain.estimate
    yield (
        f"The comparison above is with this engine's own full adaptation (speedup). Plain PyTorch takes about "
        f"{words.latency(plain)} for the same: against that the answer is "
        f"{_as_fast(fastest.speedup_over_plain.estimate)} as fast (speedup_over_plain)."
    )


def _end_to_end(result: SearchResult) -> Iterable[str]:
    ratio = result.fastest.end_to_end_speedup
    if ratio is not None:
        yield (
            f"With the predictions of a task's queries counted in, it is {_as_fast(ratio.estimate)} as fast "
            "(end_to_end_speedup)."
        )


def _other_classes(result: SearchResult) -> Iterable[str]:
    interval = result.confirmed.class_interval
    if interval is not None:
        loss = loss_of(result)
        low, high = loss.plain(interval.low).partition(" ")[0], loss.plain(interval.high)
        yield (
            f"Had other {classes_name(result)} of the same kind been drawn, the measured loss would lie between {low} "
            f"and {high} (95 % interval over classes, no part of the proof)."
        )


def _cards(result: SearchResult) -> Iterable[Card]:
    fastest, loss = result.fastest, result.fastest.degradation
    if fastest.speedup is not None:
        yield Card(words.times(fastest.speedup.estimate), "speedup", "against this engine's own full adaptation")
    if fastest.speedup_over_plain is not None:
        yield Card(words.times(fastest.speedup_over_plain.estimate), "speedup_over_plain", "against plain PyTorch")
    if fastest.latency_s is not None:
        low, high = words.latency(fastest.latency_s.p10), words.latency(fastest.latency_s.p90)
        detail = f"median of one adaptation; eight of ten between {low} and {high}"
        yield Card(words.latency(fastest.latency_s.median), "latency", detail)
    if loss.upper_bound is not None:
        said = loss_of(result)
        number, _, unit = said.at_most(loss.upper_bound).partition(" ")
        yield Card(f"≤ {number}", "loss", f"{unit}; measured {said.plain(loss.estimate)}")


def _as_fast(ratio: float) -> str:
    return f"{words.times(ratio).removesuffix('×')} times"


def facts(result: SearchResult, spec: SearchSpec) -> list[tuple[str, str]]:
    """What the answer rests on, by name."""
    effort, confirmed = result.search, result.confirmed
    classes = "" if confirmed.classes is None else f"{words.count(confirmed.classes)} {classes_name(result)}, "
    rows = [
        ("Threshold", f"max_degradation {result.max_degradation:.4g} in {result.baseline.quality.metric}"),
        ("Confidence", words.percent(result.confidence)),
        ("Method of proof", words.METHODS.get(result.method, result.method)),
        ("Proved on", f"{classes}{words.count(confirmed.episodes)} tasks of split {confirmed.split}"),
        ("Searched", _effort(result)),
        ("Method of search", f"{effort.method}: {effort.method_reason}"),
    ]
    if spec.degradation_bound is not None and spec.tasks.is_regression:
        rows.insert(3, ("Bound", f"a loss of more than {spec.degradation_bound:.4g} on one task counts as that"))
    if effort.answered_from is not None:
        rows.append(("Answered from", f"search {effort.answered_from}: nothing was evaluated or timed again"))
    if effort.unresolved:
        rows.append(("Unresolved", f"{words.few(effort.unresolved)}: too near the threshold to be told from it"))
    rows.append(("Statistics", _statistics(result.norm_statistics)))
    rows.append(("Device", f"{words.device(result.device)}, runtime {result.runtime}"))
    rows.append(("Took", words.span(result.seconds.get("total"))))
    return rows


def retrained_sentence(retrained: Retrained, result: SearchResult) -> str:
    """What retraining gave."""
    quality, bound = retrained.quality, retrained.degradation.upper_bound
    gain = quality.estimate - result.fastest.quality.estimate
    proof = "" if bound is None else f" It loses at most {loss_of(result).at_most(bound)} (upper bound of degradation)."
    return (
        f"{words.count(retrained.iterations)} iterations under {retrained.candidate}: {quality.metric} "
        f"{words.figure(quality.estimate)} ({words.figure(quality.low)} to {words.figure(quality.high)}), "
        f"{words.signed(gain)} against before; {retrained.state} on {words.count(retrained.episodes)} tasks.{proof} "
        f"Its latency is the answer's. Checkpoint {retrained.checkpoint.get('id', '')}."
    )


def threshold_sentence(answer: ThresholdAnswer, result: SearchResult) -> str:
    """What is known for another threshold."""
    loss = loss_of(result)
    limit, proved = f"{answer.max_degradation:.4g}", answer.answer
    if proved is not None:
        return (
            f"For {limit}: {proved.candidate} loses at most {loss.at_most(proved.upper_bound)}. It adapts "
            f"{_as_fast(proved.speedup)} as fast as this engine's own full adaptation (speedup) and "
            f"{_as_fast(proved.speedup_over_plain)} as fast as plain PyTorch (speedup_over_plain)."
        )
    if answer.status == "answered":
        return f"For {limit}: nothing faster than the baseline was proved to lose so little."
    text = f"{limit} needs evaluation: {answer.reason}."
    if answer.candidates:
        text += f" Candidates that may qualify: {words.few(answer.candidates)}."
    return f"{text} Another search takes {words.about(answer.estimated_s or 0.0)}; it reuses what is known."


def answerable_range(result: SearchResult) -> tuple[float, float] | None:
    """The thresholds that need no evaluation; None where there is only the search's own."""
    low, high = answerable(result)
    return (low, high) if low < high else None


def _effort(result: SearchResult) -> str:
    effort = result.search
    return (
        f"{words.count(effort.judged)} of {words.count(effort.space_size)} candidates judged on up to "
        f"{words.count(effort.episodes)} validation tasks, fastest first; {len(effort.survived)} survived, "
        f"{len(result.proved)} tested on confirmation tasks"
    )


def _statistics(norm_statistics: str) -> str:
    if norm_statistics == "query":
        return "query: transductive, all queries of a task must be predicted together"
    return f"{norm_statistics}: each prediction stands alone"
