"""Anytime bounds against plain loops, exact enumeration, simulated error rates and the figures of a study."""

from __future__ import annotations

import itertools
import math
from statistics import fmean, pvariance

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import optimize, stats

from search_service.domain.certificate import GUARANTEED, CertificateMethod, fewest_episodes
from workers.search.confidence import (
    BET_WEIGHTS,
    BETS,
    Question,
    accepts,
    asymptotic_lower_bounds,
    asymptotic_upper_bounds,
    clip,
    empirical_bernstein_bounds,
    episodes_to_accept,
    first_acceptance,
    growth,
    log_wealth,
    upper_bounds,
)

METHODS: tuple[CertificateMethod, ...] = (*GUARANTEED, "asymptotic")
QUESTION = Question(threshold=0.01, alpha=0.05)


def degradations(bound: float = 1.0, longest: int = 80) -> st.SearchStrategy[np.ndarray]:
    """From hopeless to excellent, the extremes included."""
    within = st.floats(-bound, bound) | st.sampled_from([-bound, 0.0, bound]) | st.floats(-bound / 20, bound / 20)
    return arrays.arrays(np.float64, st.integers(1, longest), elements=within)


def hopeful(bound: float = 1.0) -> st.SearchStrategy[np.ndarray]:
    """Enough small ones for bounds to sink, with a few of anything among them."""
    small = arrays.arrays(np.float64, st.integers(70, 150), elements=st.floats(-bound / 4, bound / 10))
    return st.tuples(small, degradations(bound, 4)).map(np.concatenate)


bounds = st.sampled_from([0.25, 1.0, 7.0])
alphas = st.floats(0.001, 0.4)
fractions = st.floats(0.02, 0.9)


def wealth_in_loops(values: np.ndarray, threshold: float, bound: float) -> list[float]:
    wealths = list(BET_WEIGHTS)
    after = []
    for value in values:
        for index, bet in enumerate(BETS):
            wealths[index] *= 1 + bet * (threshold - value) / (bound - threshold)
        after.append(math.fsum(wealths))
    return after


def bernstein_in_loops(values: np.ndarray, alpha: float, bound: float) -> list[float]:
    """Waudby-Smith and Ramdas, Theorem 2, for 1 - y from below, letter by letter."""
    mean, variance = 1 / 2, 1 / 4
    mirrored: list[float] = []
    squares = weighted = cost = total = 0.0
    after = []
    for t, value in enumerate(values, start=1):
        y = 1 - (value + bound) / (2 * bound)
        bet = min(math.sqrt(2 * math.log(1 / alpha) / (variance * t * math.log(1 + t))), 3 / 4)
        cost += 4 * (y - mean) ** 2 * (-math.log(1 - bet) - bet) / 4
        weighted += bet * y
        total += bet
        after.append(bound - 2 * bound * (weighted - math.log(1 / alpha) - cost) / total)
        mirrored.append(y)
        mean = (1 / 2 + math.fsum(mirrored)) / (t + 1)
        squares += (y - mean) ** 2
        variance = (1 / 4 + squares) / (t + 1)
    return after


def tuned_rho2(alpha: float, tuned_for: int) -> float:
    """ρ² that makes the two-sided margin at twice alpha the smallest, by search."""
    found = optimize.minimize_scalar(
        lambda log_s: (1 + math.exp(-log_s)) * (math.log1p(math.exp(log_s)) - 2 * math.log(2 * alpha)),
        bounds=(-5, 8),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return math.exp(found.x) / tuned_for


def asymptotic_in_loops(values: np.ndarray, alpha: float, tuned_for: int) -> list[float]:
    rho2 = tuned_rho2(alpha, tuned_for)
    after = []
    for t in range(1, len(values) + 1):
        seen = values[:t].tolist()
        boundary = 2 * (t * rho2 + 1) / (t**2 * rho2) * math.log(1 + math.sqrt(t * rho2 + 1) / (2 * alpha))
        after.append(fmean(seen) + math.sqrt(pvariance(seen) * boundary))
    return after


@given(st.data(), bounds, st.floats(-0.95, 0.95))
def test_wealth_is_the_product_of_its_bets(data: st.DataObject, bound: float, fraction: float) -> None:
    values = data.draw(degradations(bound))
    expected = wealth_in_loops(values, fraction * bound, bound)
    assert np.exp(log_wealth(values, fraction * bound, bound)) == pytest.approx(expected, rel=1e-9)


@given(st.data(), bounds, alphas)
def test_empirical_bernstein_is_the_theorem(data: st.DataObject, bound: float, alpha: float) -> None:
    values = data.draw(degradations(bound))
    expected = bernstein_in_loops(values, alpha, bound)
    assert empirical_bernstein_bounds(values, alpha, bound) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(degradations(), alphas, st.integers(1, 500))
def test_asymptotic_is_mean_and_margin(values: np.ndarray, alpha: float, tuned_for: int) -> None:
    above = asymptotic_upper_bounds(values, alpha, tuned_for=tuned_for, least_episodes=1)
    assert above == pytest.approx(asymptotic_in_loops(values, alpha, tuned_for), rel=1e-5, abs=1e-6)
    below = asymptotic_lower_bounds(values, alpha, tuned_for=tuned_for, least_episodes=1)
    mirrored = asymptotic_upper_bounds(-values, alpha, tuned_for=tuned_for, least_episodes=1)
    assert below == pytest.approx(-mirrored)


def paths(loss: float, gain: float, probability: float, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Every sequence of losses (of a probability) and gains, and how likely each is."""
    losses = np.array(list(itertools.product([True, False], repeat=episodes)))
    chances = np.prod(np.where(losses, probability, 1 - probability), axis=1)
    return np.where(losses, loss, -gain), chances


two_points = st.tuples(st.floats(0.05, 1) | st.just(1.0), st.floats(-0.04, 1), st.floats(0.01, 0.99))


@given(two_points, fractions, bounds)
def test_wealth_is_a_supermartingale_where_the_mean_is_the_threshold_or_more(
    points: tuple[float, float, float], fraction: float, bound: float
) -> None:
    loss, gain, probability = points[0] * bound, points[1] * bound, points[2]
    values, chances = paths(loss, gain, probability, episodes=7)
    mean = probability * loss - (1 - probability) * gain
    at_the_mean = np.exp(log_wealth(values, mean, bound)) if abs(mean) < 0.99 * bound else np.ones_like(values)
    assert chances @ at_the_mean == pytest.approx(np.ones(7))  # a martingale there
    threshold = mean - fraction * (mean + bound) / 2
    below = chances @ np.exp(log_wealth(values, threshold, bound))
    assert (np.diff(below, prepend=1) <= 1e-9).all()


@given(two_points, st.sampled_from([0.1, 0.3, 0.45]))
def test_bounds_of_guaranteed_methods_ever_fall_below_the_mean_at_most_alpha(
    points: tuple[float, float, float], alpha: float
) -> None:
    loss, gain, probability = points
    values, chances = paths(loss, gain, probability, episodes=9)
    mean = probability * loss - (1 - probability) * gain
    if abs(mean) < 0.99:
        wealths = log_wealth(values, mean, 1.0) >= -math.log(alpha) + 1e-9
        assert chances @ wealths.any(axis=-1) <= alpha + 1e-9
    fell = empirical_bernstein_bounds(values, alpha, 1.0) < mean - 1e-9
    assert chances @ fell.any(axis=-1) <= alpha + 1e-9


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data(), bound=bounds, alpha=alphas, fraction=fractions)
@settings(max_examples=60, deadline=None)  # bisections
def test_a_bound_is_at_most_the_threshold_exactly_where_the_test_has_accepted(
    method: CertificateMethod, data: st.DataObject, bound: float, alpha: float, fraction: float
) -> None:
    values = data.draw(hopeful(bound))
    counts = range(0, len(values) + 1, 7)
    question = Question(threshold=fraction * bound, alpha=alpha, bound=bound)
    first = first_acceptance(values, question, method)
    sunk = upper_bounds(values, alpha, bound, method, at=counts) <= question.threshold
    assert sunk.tolist() == [first is not None and first <= count for count in counts]


@pytest.mark.parametrize("method", METHODS)
@given(data=st.data(), bound=bounds, alpha=alphas)
@settings(max_examples=60, deadline=None)
def test_bounds_sink_with_episodes_and_rise_with_confidence(
    method: CertificateMethod, data: st.DataObject, bound: float, alpha: float
) -> None:
    values = data.draw(hopeful(bound))
    counts = [0, 1, 30, 66, 66, len(values)]
    found = upper_bounds(values, alpha, bound, method, at=counts)
    assert found[0] == bound
    assert (np.diff(found) <= 0).all()
    assert ((found >= -bound) & (found <= bound)).all()
    if method in GUARANTEED:  # the asymptotic one is tuned anew for every alpha
        assert (upper_bounds(values, alpha / 2, bound, method, at=counts) >= found - 1e-12).all()
    for count, value in zip(counts, found, strict=True):  # nothing looks ahead
        assert upper_bounds(values[:count], alpha, bound, method) == pytest.approx([value], abs=1e-12)


@given(hopeful(), alphas)
@settings(deadline=None)
def test_the_bound_of_betting_is_the_lowest_threshold_accepted(values: np.ndarray, alpha: float) -> None:
    (bound,) = upper_bounds(values, alpha, 1.0, "betting")
    wealth = [max(wealth_in_loops(values, bound + offset, 1.0)) for offset in (-1e-6, 1e-6) if bound + offset < 1]
    assert wealth == sorted(wealth)
    assert wealth[0] < 1 / alpha
    assert wealth[-1] >= 1 / alpha or bound == 1


@given(degradations(), st.floats(-0.95, 0.9), st.floats(0, 0.09))
def test_wealth_grows_with_the_threshold(values: np.ndarray, threshold: float, more: float) -> None:
    assert (log_wealth(values, threshold + more, 1.0) >= log_wealth(values, threshold, 1.0) - 1e-9).all()


@pytest.mark.parametrize("method", METHODS)
def test_many_tests_at_once_are_each_alone(method: CertificateMethod) -> None:
    values = clip(np.random.default_rng(0).normal([[[0.0]], [[0.005]]], 0.05, (2, 3, 500)), 1.0)
    together = accepts(values, QUESTION, method)
    assert together.shape == values.shape
    for index in np.ndindex(2, 3):
        assert (together[index] == accepts(values[index], QUESTION, method)).all()


@given(arrays.arrays(np.float64, st.integers(0, 20), elements=st.floats(width=32)), bounds)
def test_clipped_values_lie_within_the_bound_and_others_stay(values: np.ndarray, bound: float) -> None:
    clipped = clip(values, bound)
    for value, found in zip(values, clipped, strict=True):
        if math.isnan(value):
            assert found == bound
        else:
            assert found == min(max(value, -bound), bound)
    assert (clip(clipped, bound) == clipped).all()


def simulated(mean: float, runs: int, episodes: int, failures: bool = False) -> np.ndarray:
    """Degradations of a standard deviation of 0.03; or with 2% failures that lose 0.5, as many as the mean allows."""
    generator = np.random.default_rng([runs, episodes])
    if not failures:
        return clip(generator.normal(mean, 0.03, (runs, episodes)), 1.0)
    failed = generator.random((runs, episodes)) < 0.02
    return np.where(failed, 0.5, generator.normal((mean - 0.01) / 0.98, 0.03, (runs, episodes)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("failures", [False, True])
def test_acceptance_at_the_threshold_is_rare_but_for_asymptotics_on_rare_failures(
    method: CertificateMethod, failures: bool
) -> None:
    runs = 400
    question = Question(threshold=0.01, alpha=0.1)
    wrong = accepts(simulated(0.01, runs, 1500, failures), question, method).any(axis=-1).sum()
    three_sigma = 3 * math.sqrt(runs * 0.1 * 0.9)
    if failures and method == "asymptotic":
        assert wrong > runs * 0.1 + three_sigma
    else:
        assert wrong <= runs * 0.1 + three_sigma


def test_betting_spends_a_good_part_of_its_alpha() -> None:
    question = Question(threshold=0.2, alpha=0.2)
    values = np.where(np.random.default_rng(3).random((500, 400)) < 0.6, 1.0, -1.0)
    wrong = accepts(values, question, "betting").any(axis=-1).mean()
    assert 0.08 < wrong <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 500)


@pytest.mark.parametrize(
    ("method", "medians"),
    [("betting", (360, 710, 2080)), ("empirical_bernstein", (832, 1728, 4902)), ("asymptotic", (76, 224, 1390))],
)
def test_episodes_to_accept_are_those_of_the_study(method: CertificateMethod, medians: tuple[int, int, int]) -> None:
    # The study's betting, on other shares, took 444, 909 and 2,555.
    for mean, median in zip((0.0, 0.005, 0.008), medians, strict=True):
        hits = accepts(simulated(mean, 150, 3 * median), QUESTION, method)
        found = float(np.median(np.where(hits.any(axis=-1), hits.argmax(axis=-1) + 1, np.inf)))
        assert found == pytest.approx(median, rel=0.15)


@given(st.floats(0.001, 0.6), st.floats(1e-9, 0.4), bounds)
def test_no_method_could_do_with_fewer_episodes(fraction: float, alpha: float, bound: float) -> None:
    threshold = fraction * bound
    fewest = fewest_episodes(threshold, alpha, bound)
    log_unseen = math.log1p(-fraction)  # failures of the whole bound in ε/b of the episodes: none in one
    assert fewest * log_unseen <= math.log(alpha) + 1e-9
    assert (fewest - 1) * log_unseen >= math.log(alpha) - 1e-9
    largest_bet_alone = fewest * math.log(1 + threshold / (bound - threshold))
    assert largest_bet_alone >= -math.log(alpha) - 1e-9
    zeros = np.zeros(2 * fewest + 50)
    taken = first_acceptance(zeros, Question(threshold=threshold, alpha=alpha, bound=bound), "betting")
    assert taken is not None
    assert fewest <= taken <= fewest - math.log(BET_WEIGHTS[0]) / -log_unseen + 1


def test_losing_nothing_is_certified_nearly_as_soon_as_can_be() -> None:
    assert fewest_episodes(0.01, 0.05) == math.ceil(math.log(20) / -math.log(0.99)) == 299
    assert fewest_episodes(1.0, 0.05, bound=100.0) == 299
    taken = first_acceptance(np.zeros(400), QUESTION, "betting")
    assert taken is not None
    assert taken <= 1.13 * 299


@given(degradations(), fractions, alphas)
def test_growth_is_that_of_the_best_bet(values: np.ndarray, threshold: float, alpha: float) -> None:
    question = Question(threshold=threshold, alpha=alpha)
    best = -math.inf
    for bet in BETS:
        factors = [1 + bet * (threshold - value) / (1 - threshold) for value in values]
        best = max(best, fmean(math.log(factor) if factor > 0 else -math.inf for factor in factors))
    assert growth(values, question) == pytest.approx(best, rel=1e-6, abs=1e-12)
    if abs(best) > 1e-9:
        expected = -math.log(alpha) / best if best > 0 else math.inf
        assert episodes_to_accept(values, question) == pytest.approx(expected, rel=1e-6)


def test_predicted_episodes_are_near_those_it_takes() -> None:
    for mean, failures in [(0.0, False), (0.005, False), (0.0, True), (0.004, True)]:
        hits = accepts(simulated(mean, 400, 5000, failures), QUESTION, "betting")
        median = float(np.median(np.where(hits.any(axis=-1), hits.argmax(axis=-1) + 1, np.inf)))
        known = simulated(mean, 1, 400_000, failures)[0]
        assert 0.65 < median / episodes_to_accept(known, QUESTION) < 1.2
    assert growth(simulated(0.02, 1, 5000)[0], QUESTION) < 0
    assert episodes_to_accept(simulated(0.02, 1, 5000)[0], QUESTION) == math.inf
    assert episodes_to_accept(np.array([1.0]), QUESTION) == math.inf


def alternating(episodes: int) -> np.ndarray:
    """A mean of 0 and a standard deviation of 1, for an even number of episodes."""
    return np.resize([1.0, -1.0], episodes)


@given(st.integers(1, 1000), st.floats(1e-9, 0.4), st.integers(1, 2000))
def test_at_the_asymptotic_margin_the_mixture_has_reached_what_is_asked(
    pairs: int, alpha: float, tuned_for: int
) -> None:
    t, rho2 = 2 * pairs, tuned_rho2(alpha, tuned_for)
    margin = asymptotic_upper_bounds(alternating(t), alpha, tuned_for=tuned_for, least_episodes=1)[-1]
    z = margin * t * math.sqrt(rho2 / (t * rho2 + 1))
    log_mixture = math.log(2) - math.log(t * rho2 + 1) / 2 + z**2 / 2 + stats.norm.logcdf(z)
    assert log_mixture >= -math.log(alpha) - 1e-4  # the search for ρ is no closer
    assert log_mixture <= -math.log(alpha) + 1  # and not far beyond


@pytest.mark.parametrize("alpha", [0.25, 0.05, 2.0**-40])
def test_the_asymptotic_margin_is_tightest_where_it_is_tuned_for(alpha: float) -> None:
    margins = {
        tuned_for: asymptotic_upper_bounds(alternating(200), alpha, tuned_for=tuned_for)[-1]
        for tuned_for in range(20, 2000, 20)
    }
    assert margins[200] <= 1.01 * min(margins.values())
    assert min(margins[20], margins[1980]) > 1.01 * margins[200]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_asymptotic_sequence_covers_the_mean_of_normal_values(sign: int) -> None:
    values = sign * simulated(0.004, 500, 2000)
    above = asymptotic_upper_bounds(values, 0.1) >= sign * 0.004
    below = asymptotic_lower_bounds(values, 0.1) <= sign * 0.004
    for held in (above, below):
        assert held.all(axis=-1).mean() >= 0.9 - 3 * math.sqrt(0.1 * 0.9 / 500)


def test_before_enough_episodes_the_asymptotic_sequence_says_nothing() -> None:
    values = np.full(80, -0.1)  # no sum of which is exact
    assert first_acceptance(values, QUESTION, "asymptotic") == 64
    early = asymptotic_upper_bounds(values, 0.05, least_episodes=16)
    assert np.isposinf(early[:15]).all()
    assert (early[15:] == -0.1).all()  # equal values leave no doubt: no guarantee here
    assert np.isneginf(asymptotic_lower_bounds(values, 0.05)[:63]).all()
    assert np.isfinite(asymptotic_upper_bounds(values, 0.05, least_episodes=0)).all()


def test_a_candidate_that_clearly_loses_is_dropped_and_one_that_does_not_is_kept() -> None:
    lost = asymptotic_lower_bounds(simulated(0.03, 200, 200), 0.025, least_episodes=16) > 0.01
    assert lost.any(axis=-1).mean() > 0.95
    kept = asymptotic_lower_bounds(simulated(0.005, 200, 200), 0.025, least_episodes=16) > 0.01
    assert kept.any(axis=-1).mean() < 0.025


@pytest.mark.filterwarnings("error")
def test_numbers_at_the_edges() -> None:
    worst = np.array([1.0, *np.zeros(5000)])
    assert np.isfinite(log_wealth(worst, 0.01, 1.0)).all()  # the largest bet is lost at once, the others go on
    assert first_acceptance(worst, QUESTION, "betting") is not None
    for method in METHODS:
        assert first_acceptance(np.array([]), QUESTION, method) is None
        assert first_acceptance(np.array([0.0]), QUESTION, method) is None
        assert upper_bounds(np.array([]), 0.05, 1.0, method).tolist() == [1.0]
        assert upper_bounds(np.ones(100), 0.05, 1.0, method).tolist() == [1.0]
        (one,) = upper_bounds(np.array([-1.0]), 0.05, 1.0, method)
        assert -1 < one <= 1
    tiny = Question(threshold=0.01, alpha=2.0**-40)
    assert first_acceptance(np.zeros(2700), tiny, "betting") is None
    assert first_acceptance(np.zeros(3200), tiny, "betting") is not None
    assert np.isfinite(log_wealth(np.full(4000, -1.0), 0.99, 1.0)).all()  # wealth far beyond the largest float
    for method in METHODS:
        assert accepts(np.full(5000, -1.0), Question(threshold=0.5, alpha=2.0**-1000), method)[-1]
    least = Question(threshold=0.5, alpha=5e-324)
    assert first_acceptance(np.full(5000, -1.0), least, "betting") is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"threshold": math.nan},
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"bound": 0.0},
        {"bound": math.inf},
        {"bound": 0.01},
    ],
)
def test_questions_without_an_answer_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Question(**{"threshold": 0.01, "alpha": 0.05, **wrong})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [1.5, -1.5, math.nan])
def test_values_that_were_not_clipped_are_refused(method: CertificateMethod, value: float) -> None:
    values = np.array([0.0, value])
    with pytest.raises(ValueError, match="clip them first"):
        accepts(values, QUESTION, method)
    with pytest.raises(ValueError, match="clip them first"):
        upper_bounds(values, 0.05, 1.0, method)


@pytest.mark.parametrize("at", [[3, 2], [-1], [5]])
def test_looks_out_of_order_are_refused(at: list[int]) -> None:
    with pytest.raises(ValueError, match="from 0 to at most 4"):
        upper_bounds(np.zeros(4), 0.05, 1.0, "betting", at=at)
