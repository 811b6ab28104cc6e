"""A sampler in a space that no truth holds: two steps with rate factors, candidates judged as they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.replayed_search import BASELINE, BLOCK, EPSILON, ProductSearch, ProposeMore
from benchmarks.search_truth import CONSTANT, UNITS, Truth
from search_service.domain.candidate import Candidate
from search_service.domain.evaluation import Split
from search_service.domain.space import CandidateSpace
from workers.adaptation.episodes import Episodes
from workers.adaptation.judging import Judge
from workers.adaptation.latency_model import fit
from workers.adaptation.model import batch_tensors
from workers.search.decisions import prediction_margin
from workers.search.proposals import ROUND, Known, propose, seeds

SAMPLED_SPACE = CandidateSpace("per_step", UNITS, 2, (1.0, 2.0, 4.0))
JUDGED_SHARE = 0.05
CHEAPER = 0.1
LIVE_SEED = 21
"""Of the episodes of the sampler's search: others than the truth's."""


class Live:
    """Candidates of a model that the truth does not hold, judged when they are asked for."""

    def __init__(self, judge: Judge, episodes: Episodes) -> None:
        self.judge_of_model = judge
        self.episodes = episodes
        self.known: dict[tuple[str, Split], NDArray[np.float64]] = {}

    def judge(self, together: Sequence[str], split: Split, episodes: int) -> None:
        """Judge what is missing, block by block, the baseline with it."""
        for text in [BASELINE, *together]:
            have = len(self.known.get((text, split), ()))
            for start in range(have, episodes, BLOCK):
                also = [other for other in together if len(self.known.get((other, split), ())) == start]
                self._judge_block(dict.fromkeys([text, *also]), split, start)

    def _judge_block(self, together: Iterable[str], split: Split, start: int) -> None:
        batch = batch_tensors(self.episodes.draw(split, LIVE_SEED, start, BLOCK), self.judge_of_model.device)
        judged = self.judge_of_model.qualities([Candidate.parse(text) for text in together], *batch)
        for text, qualities in judged.items():
            before = self.known.get((text, split), np.empty(0))
            self.known[text, split] = np.concatenate([before, qualities[:, -1].double().numpy()])

    def degradations(self, candidate: str, split: Split, episodes: int) -> NDArray[np.float64]:
        """Paired with the baseline."""
        return self.known[BASELINE, split][:episodes] - self.known[candidate, split][:episodes]


def by_sampler(truth: Truth, judge: Judge, episodes: Episodes) -> dict[str, Any]:
    """The five-step model's space of two steps with rate factors, searched by TPE; beside its constant rows."""
    measured_s = truth.latencies_s(CONSTANT)
    timed = [Candidate.parse(text) for text in CONSTANT.patterns]
    model = fit(timed, [measured_s[candidate.text] for candidate in timed], statistics_units=UNITS - 1)
    margin = prediction_margin(model.error.largest, "eager")
    budget = int(JUDGED_SHARE * SAMPLED_SPACE.size)

    def predict(candidates: Sequence[Candidate]) -> list[float]:
        seconds: list[float] = model.predict_many(candidates).tolist()
        return seconds

    def predicted_s(text: str) -> float:
        return predict([Candidate.parse(text)])[0]

    def search(more: ProposeMore | None) -> ProductSearch:
        source = Live(judge, episodes)
        return ProductSearch(source=source, predict=predict, measured_s=predicted_s, margin=margin, propose=more)

    def propose_more(known: list[Known], faster_than_s: float) -> list[str]:
        judged = sum(each.violation is not None for each in known)
        wanted = min(ROUND, budget - judged)
        if wanted <= 0:
            return []
        found = propose(SAMPLED_SPACE, "tpe", known, predict, faster_than_s, wanted, seed=0)
        return [candidate.text for candidate in found]

    constant = search(None)
    constant.run(CONSTANT.patterns)
    sampled = search(propose_more)
    sampled.run([candidate.text for candidate in seeds(SAMPLED_SPACE, budget // 2)])
    seconds = {way.found.answer: predicted_s(way.found.answer) for way in (constant, sampled)}
    return {
        "model": "five_step",
        "way": f"TPE, {SAMPLED_SPACE.size} per-step candidates",
        "threshold": EPSILON,
        "answers": f"{sampled.found.answer}, constant rows: {constant.found.answer}",
        "judged": len(sampled.losses) / SAMPLED_SPACE.size,
        "relative_latency": seconds[sampled.found.answer] / seconds[constant.found.answer],
    }
