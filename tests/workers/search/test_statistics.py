"""Bounds of a mean against scipy's, their coverage, and pairing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from workers.search.statistics import MeanEstimate, degradation

samples = arrays.arrays(np.float64, st.integers(2, 40), elements=st.floats(-5, 5, width=32)).filter(
    lambda values: float(np.std(values)) > 1e-3
)


@given(samples, st.floats(0.5, 0.9999))
def test_bounds_are_student_s(values: np.ndarray, confidence: float) -> None:
    estimate = MeanEstimate.of(values)
    assert estimate.mean == pytest.approx(float(np.mean(values)))
    assert estimate.standard_error == pytest.approx(float(stats.sem(values)))
    assert estimate.episodes == len(values)
    two_sided = stats.t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert estimate.interval(confidence) == pytest.approx(two_sided)
    below = stats.ttest_1samp(values, 0, alternative="greater").confidence_interval(confidence)
    above = stats.ttest_1samp(values, 0, alternative="less").confidence_interval(confidence)
    assert estimate.lower_bound(confidence) == pytest.approx(below.low)
    assert estimate.upper_bound(confidence) == pytest.approx(above.high)


@given(samples, st.floats(0.001, 0.5))
def test_a_bound_at_most_the_threshold_is_a_rejected_test(values: np.ndarray, alpha: float) -> None:
    threshold = 0.25
    p_value = stats.ttest_1samp(values, threshold, alternative="less").pvalue
    bound = MeanEstimate.of(values).upper_bound(1 - alpha)
    if abs(p_value - alpha) > 1e-9:
        assert (bound <= threshold) == (p_value <= alpha)


def test_degradation_is_paired_and_what_the_candidate_loses() -> None:
    generator = np.random.default_rng(0)
    difficulty = generator.normal(0.8, 0.2, 100)
    baseline = difficulty + generator.normal(0, 0.01, 100)
    candidate = difficulty - 0.03 + generator.normal(0, 0.01, 100)
    estimate = degradation(baseline, candidate)
    assert estimate.mean == pytest.approx(0.03, abs=0.005)
    assert estimate.standard_error < 0.002  # the episodes' own difficulty has gone
    test = stats.ttest_rel(baseline, candidate)
    assert estimate.interval() == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert degradation(baseline, baseline) == MeanEstimate(mean=0.0, standard_error=0.0, episodes=100)


def test_unpaired_qualities_are_refused() -> None:
    with pytest.raises(ValueError, match="3 episodes of the baseline against 2"):
        degradation(np.zeros(3), np.zeros(2))


def test_one_episode_says_nothing_and_equal_ones_say_all() -> None:
    one = MeanEstimate.of(np.array([0.4]))
    assert (one.mean, one.episodes) == (0.4, 1)
    assert one.interval() == (-math.inf, math.inf)
    assert one.upper_bound(0.95) == math.inf
    equal = MeanEstimate.of(np.full(8, 0.25))
    assert equal.interval() == (0.25, 0.25)


@pytest.mark.parametrize("episodes", [5, 30])
def test_intervals_hold_the_mean_as_often_as_they_say(episodes: int) -> None:
    trials, confidence = 2000, 0.9
    draws = np.random.default_rng(episodes).normal(0.02, 0.05, (trials, episodes))
    held = below = 0
    for values in draws:
        estimate = MeanEstimate.of(values)
        low, high = estimate.interval(confidence)
        held += low <= 0.02 <= high
        below += estimate.upper_bound(confidence) < 0.02
    three_sigma = 3 * math.sqrt(confidence * (1 - confidence) / trials)
    assert abs(held / trials - confidence) < three_sigma
    assert abs(below / trials - (1 - confidence)) < three_sigma
