"""How often a search returns a candidate over its threshold, by simulation.

``python -m benchmarks.error_rates [--json] [--searches 10000]``: each simulated search certifies its candidates in
order of latency on up to 4,000 fresh episodes each, looks after every episode, and returns the first that is accepted;
the i-th may spend alpha * 2^-i. Degradations are whole queries of 75, drawn with exactly the mean that is said. A
candidate whose mean is exactly the threshold (ε) counts as over it: there an error is likeliest, and it too must be
within alpha. Coverage is the share of single candidates whose 95% upper bound never fell to the true mean at any of
the 4,000 looks. A few minutes on one core.

Beside the three methods stand two habits without such care: picking the fastest candidate whose mean over 500 episodes
is within the threshold, and the betting test of each candidate at the whole of alpha.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from scipy import stats

from benchmarks.report import at_least, show
from search_service.domain.certificate import GUARANTEED, CertificateMethod, spent_alpha
from workers.adaptation.device import fingerprint
from workers.adaptation.memory import keep_freed_memory
from workers.search.confidence import Degradations, Question, accepts

THRESHOLD = 0.01
CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
CAP = 4000
"""Episodes of one candidate."""
EPISODES_OF_MEANS = 500
QUERIES = 75
"""Of an episode: what degradations are multiples of."""
AT_ONCE = 16
"""Searches simulated together, so that their arrays stay in the processor's cache."""
DRAWS = 2**16
"""Equally likely entries of a tail's table."""

UNITS = np.arange(-QUERIES, QUERIES + 1)
Weights = NDArray[np.float64]
"""Probability of each of ``UNITS``."""


@dataclass(frozen=True, slots=True)
class Population:
    """The candidates of a search, fastest first."""

    name: str
    degradations: tuple[float, ...]
    """True mean degradations in thresholds: from 1 on a candidate must not be returned."""


POPULATIONS = (
    Population("1.0 ε", (1.0,)),
    Population("1.01 ε", (1.01,)),
    Population("1.2 ε", (1.2,)),
    Population("20 at ε, 0", (*[1.0] * 20, 0.0)),
)


def light(mean: float) -> Weights:
    """Near normal, standard deviation 0.03, around a mean in queries."""
    return _normal(mean, 0.03 * QUERIES)


def rare_failures(mean: float) -> Weights:
    """2% of the episodes lose 0.5, the others are light: the mean looks too good until one is seen."""
    share = 0.02
    failures = np.isin(UNITS, (37, 38)) / 2
    return share * failures + (1 - share) * light((mean - share * 0.5 * QUERIES) / (1 - share))


def skewed(mean: float) -> Weights:
    """15% of the episodes lose three queries in the mean, geometrically; the others vary by two hundredths."""
    share, loss = 0.15, 3.0
    losses: Weights = stats.geom.pmf(UNITS, 1 / loss)
    return share * losses + (1 - share) * _normal((mean - share * loss) / (1 - share), 0.02 * QUERIES)


TAILS: Mapping[str, Callable[[float], Weights]] = {
    "light": light,
    "failures": rare_failures,
    "skewed": skewed,
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to accept a candidate."""

    name: str
    method: CertificateMethod | None
    """None: by its mean over ``EPISODES_OF_MEANS``."""
    spends: bool = False
    """Whether later candidates have less of alpha."""

    def first_acceptances(self, values: Degradations, position: int) -> NDArray[np.int64]:
        """Episodes until acceptance of each candidate, ``(candidates,)``; 0 where it is not accepted.

        Args:
            values: degradations, ``(candidates, CAP)``.
            position: of the candidates in their searches, from 1.
        """
        if self.method is None:
            means = values[:, :EPISODES_OF_MEANS].mean(axis=-1)
            return np.where(means <= THRESHOLD + 1e-12, EPISODES_OF_MEANS, 0)  # a sum's rounding must not decide
        alpha = spent_alpha(CONFIDENCE, position) if self.spends else ALPHA
        return _first_acceptances(values, Question(threshold=THRESHOLD, alpha=alpha), self.method)


METHODS: tuple[CertificateMethod, ...] = (*GUARANTEED, "asymptotic")
WAYS = (
    *(Way(method, method, spends=True) for method in METHODS),
    Way("betting, 5% each", "betting"),
    Way(f"mean of {EPISODES_OF_MEANS}", None),
)


def measure(searches: int, progress: Progress) -> dict[str, Any]:
    """Machine, one row per population, tail and way, and the checks."""
    keeps_memory = keep_freed_memory()
    started = time.perf_counter()
    candidates = sum(len(population.degradations) for population in POPULATIONS)
    task = progress.add_task("simulating searches", total=candidates * len(TAILS) * searches)
    rows: list[dict[str, Any]] = []
    for number, population in enumerate(POPULATIONS):
        for tail, weights in enumerate(TAILS.values()):
            generator = np.random.default_rng([number, tail])
            tables = {
                degradation: draw_table(weights(degradation * THRESHOLD * QUERIES), degradation * THRESHOLD * QUERIES)
                for degradation in population.degradations
            }
            tallies = {way: _Tally() for way in WAYS}
            for start in range(0, searches, AT_ONCE):
                count = min(AT_ONCE, searches - start)
                _simulate(population, tables, count, generator, tallies)
                progress.update(task, advance=count * len(population.degradations))
            rows += [
                {"population": population.name, "tail": list(TAILS)[tail], "way": way.name, **tally.figures(searches)}
                for way, tally in tallies.items()
            ]
    machine = {
        **fingerprint(torch.device("cpu")),
        "keeps_freed_memory": keeps_memory,
        "searches": searches,
        "episodes_at_most": CAP,
        "seconds": time.perf_counter() - started,
    }
    return {"machine": machine, "rows": rows, "checks": _checks(rows)}


class _Tally:
    """What the searches of one population and tail came to under one way."""

    def __init__(self) -> None:
        self.violations = 0
        self.episodes: list[int] = []
        self.uncovered: int | None = None

    def figures(self, searches: int) -> dict[str, Any]:
        test = stats.binomtest(self.violations, searches, ALPHA, alternative="greater")
        return {
            "violations": self.violations,
            "rate": self.violations / searches,
            "p_value": float(test.pvalue),
            "returned": len(self.episodes) / searches,
            "coverage": None if self.uncovered is None else 1 - self.uncovered / searches,
            "median_episodes": float(np.median(self.episodes)) if self.episodes else None,
        }


def _simulate(
    population: Population,
    tables: Mapping[float, Degradations],
    searches: int,
    generator: np.random.Generator,
    tallies: Mapping[Way, _Tally],
) -> None:
    """Run searches to their end under every way, on the same episodes, and add them to the tallies."""
    open_searches = {way: np.ones(searches, dtype=bool) for way in tallies}
    for position, degradation in enumerate(population.degradations, start=1):
        running = np.flatnonzero(np.logical_or.reduce(list(open_searches.values())))
        table = tables[degradation]
        values = table[generator.integers(len(table), size=(len(running), CAP))]
        for way, tally in tallies.items():
            mine = open_searches[way][running]
            episodes = way.first_acceptances(values[mine], position)
            accepted = episodes > 0
            open_searches[way][running[mine]] = ~accepted
            tally.episodes += episodes[accepted].tolist()
            tally.violations += int(accepted.sum()) * (degradation >= 1)
        if len(population.degradations) == 1:
            _count_uncovered(values, float(table.mean()), tallies)


def _count_uncovered(values: Degradations, mean: float, tallies: Mapping[Way, _Tally]) -> None:
    """Add the candidates whose 95% upper bound ever fell to the true mean: the test of that mean accepted."""
    question = Question(threshold=mean, alpha=ALPHA)
    for way, tally in tallies.items():
        if way.method is not None and way.spends:
            uncovered = np.count_nonzero(_first_acceptances(values, question, way.method))
            tally.uncovered = (tally.uncovered or 0) + int(uncovered)


def _first_acceptances(values: Degradations, question: Question, method: CertificateMethod) -> NDArray[np.int64]:
    """Episodes until each candidate is first accepted, ``(candidates,)``; 0 where it never is.

    Betting's logarithm of the wealth never exceeds the sum of the stakes (ε - x) / (b - ε), where that is positive,
    since log(1 + cy) <= cy. So most candidates at the threshold are settled by a sum.
    """
    hopeful = np.ones(len(values), dtype=bool)
    if method == "betting":
        largest = np.cumsum(question.threshold - values, axis=-1).max(axis=-1) / (question.bound - question.threshold)
        hopeful = largest >= question.log_wealth_asked - 1e-9
    hits = accepts(values[hopeful], question, method)
    episodes = np.zeros(len(values), dtype=np.int64)
    episodes[hopeful] = np.where(hits.any(axis=-1), hits.argmax(axis=-1) + 1, 0)
    return episodes


def draw_table(weights: Weights, mean: float) -> Degradations:
    """``DRAWS`` equally likely degradations with the probabilities ``weights``, and a mean of ``mean`` queries.

    The probabilities are rounded to multiples of 1 / ``DRAWS``; then a few of the commonest draws move to the next
    query until the mean is exact, or over by less than one draw's query where it is no such multiple.
    """
    exact = weights / weights.sum() * DRAWS
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: DRAWS - counts.sum()]] += 1
    missing = math.ceil(mean * DRAWS - 1e-6) - int(counts @ UNITS)
    commonest = int(counts.argmax())
    counts[commonest] -= abs(missing)
    counts[commonest + int(np.sign(missing))] += abs(missing)
    return np.repeat(UNITS, counts) / QUERIES


def _normal(mean: float, deviation: float) -> Weights:
    density = np.exp(-(((UNITS - mean) / deviation) ** 2) / 2)
    normal: Weights = density / density.sum()
    return normal


def _checks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One per guaranteed method and population; the level is shared by all their rows (Bonferroni)."""
    tested = [row for row in rows if row["way"] in GUARANTEED]
    return [
        at_least(
            f"least p-value of more than {ALPHA:.0%} violations, {population.name}, {method}",
            min(row["p_value"] for row in tested if row["population"] == population.name and row["way"] == method),
            0.05 / len(tested),
        )
        for population in POPULATIONS
        for method in GUARANTEED
    ]


COLUMNS = {
    "population": "candidates",
    "tail": "tail",
    "way": "accepted by",
    "rate": "violations",
    "p_value": "p (<= 5%)",
    "coverage": "coverage",
    "returned": "returned",
    "median_episodes": "episodes",
}


def main(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    searches: Annotated[int, typer.Option(min=1, help="Simulated searches of each population and tail.")] = 10_000,
) -> None:
    """Print the table, or the same as JSON."""
    with Progress(console=Console(stderr=True)) as progress:
        report = measure(searches, progress)
    show(report, f"{searches} simulated searches each, ε = {THRESHOLD}, at most {CAP} episodes", COLUMNS, as_json)


if __name__ == "__main__":
    typer.run(main)
