"""The product's search outside the product: its own decisions, one worker at a time, on whatever answers for episodes.

``workers.search.decisions`` says who is screened, looked at and proved; what is here only keeps the books that the
runtime keeps in Postgres (``workers.runtime.phases``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_truth import STEPS, UNITS
from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.domain.lambda_pattern import LambdaPattern
from workers.search.decisions import Verdict, batch_group, first_look, horizon_s, look, question_of, screen
from workers.search.proposals import Known

EPSILON = 0.01
CONFIDENCE = 0.95
BLOCK, VALIDATION, CAP = 16, 400, 4000
"""Defaults of a spec (``search_service.domain.search.EpisodeBudget``)."""
BASELINE = LambdaPattern.full(UNITS, STEPS).text


@dataclass
class Found:
    """What a way of searching answered, and what it took."""

    answer: str
    episode_adaptations: int = 0
    batches: list[tuple[tuple[str, ...], int]] = field(default_factory=list)
    """Candidates judged together, and on how many episodes."""

    def judge(self, candidates: Iterable[str], episodes: int) -> None:
        """Count candidates judged together on further episodes."""
        together = tuple(candidates)
        self.batches.append((together, episodes))
        self.episode_adaptations += len(together) * episodes


COMPANY = [LambdaPattern.full(UNITS, steps).text for steps in range(1, STEPS + 1)]
"""Full adaptation for every step count: judged with the baseline, at every episode."""


class Source(Protocol):
    """Where degradations come from."""

    def judge(self, together: Sequence[str], split: Split, episodes: int) -> None:
        """See to it that candidates are judged on the first ``episodes`` of a split."""
        ...

    def degradations(self, candidate: str, split: Split, episodes: int) -> NDArray[np.float64]:
        """Of a judged candidate."""
        ...


Predict = Callable[[Sequence[Candidate]], Sequence[float]]
ProposeMore = Callable[[list[Known], float], list[str]]


@dataclass(kw_only=True)
class ProductSearch:
    """The product's search, one worker at a time: fastest first, screened, timed, certified."""

    source: Source
    predict: Predict
    measured_s: Callable[[str], float]
    margin: float
    propose: ProposeMore | None = None
    """More candidates, given those known and a latency to beat; none where it has had enough."""
    predicted: dict[str, float] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    """Validation episodes that each has been judged on."""
    survivors: list[str] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    """Mean degradation so far."""
    found: Found = field(default_factory=lambda: Found(BASELINE))

    def run(self, candidates: Sequence[str]) -> Found:
        """Search, from these candidates on."""
        self._list(candidates)
        self._count(COMPANY, Split.VALIDATION, VALIDATION)
        tested, confirmed = 0, 0
        while True:
            self._screen()
            horizon = self._horizon()
            heat = [text for text in self.survivors if self.predicted[text] <= horizon]
            for text in sorted(heat, key=lambda text: (self.measured_s(text), text)):
                self.survivors.remove(text)
                tested += 1
                qualifies, confirmed = self._certify(text, tested, confirmed)
                if qualifies:
                    self.found.answer = text
                    return self.found
            if not self.pending and not self.survivors:
                return self.found

    def _list(self, candidates: Sequence[str]) -> None:
        seconds = self.predict([Candidate.parse(text) for text in candidates])
        self.predicted.update(zip(candidates, seconds, strict=True))
        self.pending.update(dict.fromkeys(candidates, 0))

    def _horizon(self) -> float:
        return horizon_s([self.predicted[text] for text in self.survivors], self.margin)

    def _screen(self) -> None:
        while True:
            horizon = self._horizon()
            free = [text for text in self.pending if self.predicted[text] <= horizon]
            if free:
                self._judge_fastest(free)
                continue
            known = [
                Known(
                    candidate=Candidate.parse(text),
                    predicted_s=seconds,
                    violation=self.losses[text] - EPSILON if text in self.losses else None,
                )
                for text, seconds in self.predicted.items()
            ]
            proposed = self.propose(known, horizon) if self.propose is not None else []
            if not proposed:
                return
            self._list(proposed)

    def _judge_fastest(self, free: list[str]) -> None:
        fastest = min(free, key=lambda text: (self.predicted[text], text))
        group, seen = batch_group(Candidate.parse(fastest)), self.pending[fastest]
        batch = [text for text in free if self.pending[text] == seen and batch_group(Candidate.parse(text)) == group]
        self._count(batch, Split.VALIDATION, BLOCK, seen + BLOCK)
        question = question_of(EPSILON, 1.0, CONFIDENCE, 1)
        for text in batch:
            values = self.source.degradations(text, Split.VALIDATION, seen + BLOCK)
            self.losses[text] = float(values.mean())
            verdict = screen(values, question, VALIDATION, CAP).verdict
            if verdict == Verdict.OPEN:
                self.pending[text] = seen + BLOCK
                continue
            del self.pending[text]
            if verdict in (Verdict.UNDER, Verdict.PROMISING):
                self.survivors.append(text)

    def _certify(self, text: str, position: int, confirmed: int) -> tuple[bool, int]:
        """Whether a candidate qualifies, and on how many episodes the baseline has been confirmed by then."""
        question = question_of(EPSILON, 1.0, CONFIDENCE, position)
        episodes, before = first_look(question, "betting", CAP), 0
        while True:
            episodes = min(CAP, -(-episodes // BLOCK) * BLOCK)
            self._count(COMPANY, Split.TEST, max(0, episodes - confirmed), episodes)
            self._count([text], Split.TEST, episodes - before, episodes)
            confirmed, before = max(confirmed, episodes), episodes
            seen = look(self.source.degradations(text, Split.TEST, episodes), question, "betting", CAP)
            if seen.verdict != Verdict.OPEN:
                return seen.verdict == Verdict.UNDER, confirmed
            episodes = seen.next_look

    def _count(self, together: Sequence[str], split: Split, new: int, upto: int | None = None) -> None:
        self.source.judge(together, split, new if upto is None else upto)
        self.found.judge(together, new)
