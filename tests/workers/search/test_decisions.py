"""Screening, the certificate's error over many candidates, and the front by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.search.decisions import (
    SCREENING_CONFIDENCE,
    Point,
    certify,
    front,
    screen,
    spent_alpha,
)
from workers.search.statistics import MeanEstimate

EPSILON = 0.01


def estimate(mean: float, standard_error: float, episodes: int = 100) -> MeanEstimate:
    return MeanEstimate(mean=mean, standard_error=standard_error, episodes=episodes)


@given(st.floats(-0.5, 0.5), st.floats(0, 0.2), st.integers(2, 500), st.booleans())
def test_screening_drops_what_is_clearly_over_and_at_the_end_what_is_over(
    mean: float, error: float, episodes: int, is_last: bool
) -> None:
    decision = screen(estimate(mean, error, episodes), EPSILON, is_last)
    clearly_over = estimate(mean, error, episodes).lower_bound(SCREENING_CONFIDENCE) > EPSILON
    assert decision.drop == (clearly_over or (is_last and mean > EPSILON))
    assert (decision.reason is not None) == decision.drop
    if decision.reason:
        assert f"{episodes} validation episodes" in decision.reason


def test_screening_without_variance_or_with_one_episode() -> None:
    assert not screen(estimate(EPSILON, 0.0), EPSILON, is_last_block=True).drop  # exactly at the threshold is allowed
    assert screen(estimate(EPSILON + 1e-9, 0.0), EPSILON, is_last_block=False).drop
    one = MeanEstimate.of(np.array([0.9]))
    assert not screen(one, EPSILON, is_last_block=False).drop
    assert screen(one, EPSILON, is_last_block=True).drop


@pytest.mark.parametrize("quality", [-math.inf, math.nan])
@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_candidate_whose_adaptation_diverged_is_dropped_and_never_certified(quality: float, is_last: bool) -> None:
    degraded = MeanEstimate.of(np.zeros(3) - np.array([-0.1, quality, -0.2]))
    decision = screen(degraded, EPSILON, is_last)
    assert decision.drop
    assert decision.reason is not None
    assert "adaptation diverged" in decision.reason
    assert not certify(degraded, EPSILON, 0.95, 1).qualifies


@given(st.floats(0.5, 0.9999), st.integers(1, 200))
def test_all_tests_together_spend_at_most_alpha(confidence: float, candidates: int) -> None:
    spent = [spent_alpha(confidence, position) for position in range(1, candidates + 1)]
    assert math.fsum(spent) <= 1 - confidence
    assert all(value > 0 for value in spent)
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == (1 - confidence) / 2


def test_a_certificate_is_its_bound_under_the_threshold() -> None:
    passed = certify(estimate(0.0, 0.002), EPSILON, 0.95, 1)
    assert passed.qualifies
    assert passed.alpha == pytest.approx(0.025)
    assert passed.upper_bound == estimate(0.0, 0.002).upper_bound(1 - passed.alpha)
    assert not certify(estimate(0.009, 0.002), EPSILON, 0.95, 1).qualifies
    bounds = [certify(estimate(0.0, 0.002), EPSILON, 0.95, position).upper_bound for position in range(1, 12)]
    assert bounds == sorted(bounds)  # later candidates must show more


def test_certificates_at_the_edges() -> None:
    assert certify(estimate(EPSILON, 0.0), EPSILON, 0.95, 3).qualifies
    assert not certify(estimate(math.nextafter(EPSILON, 1), 0.0), EPSILON, 0.95, 3).qualifies
    one = certify(MeanEstimate.of(np.array([-5.0])), EPSILON, 0.95, 1)
    assert not one.qualifies
    assert one.upper_bound == math.inf
    late = certify(estimate(-0.5, 0.01), EPSILON, 0.95, 60)  # an error too small for a float beside 1
    assert late.qualifies
    assert -0.5 < late.upper_bound < EPSILON
    assert certify(estimate(0.0, 0.0), EPSILON, 0.95, 60).qualifies


def test_candidates_exactly_at_the_threshold_pass_together_at_most_alpha_of_the_time() -> None:
    confidence, candidates, episodes, trials = 0.9, 6, 60, 1500
    generator = np.random.default_rng(1)
    false_acceptances = 0
    for _ in range(trials):
        values = generator.normal(EPSILON, 0.03, (candidates, episodes))
        false_acceptances += any(
            certify(MeanEstimate.of(row), EPSILON, confidence, position).qualifies
            for position, row in enumerate(values, start=1)
        )
    alpha = 1 - confidence
    spread = math.sqrt(alpha * (1 - alpha) / trials)
    assert false_acceptances / trials <= alpha + 3 * spread
    assert false_acceptances / trials >= alpha / 2 - 3 * spread  # the first alone spends half of it


def test_a_candidate_that_loses_nothing_is_nearly_always_certified() -> None:
    generator = np.random.default_rng(2)
    passed = sum(
        certify(MeanEstimate.of(generator.normal(0, 0.03, 600)), EPSILON, 0.95, position).qualifies
        for position in (1, 4)
        for _ in range(100)
    )
    assert passed >= 196


points = st.lists(
    st.builds(
        Point,
        candidate=st.sampled_from(["00001", "00010", "00011", "00111", "01111", "11111"]),
        latency_s=st.integers(1, 6).map(float),
        degradation=st.integers(-2, 4).map(lambda value: value / 100),
    ),
    max_size=12,
)


def beats(one: Point, other: Point) -> bool:
    no_worse = one.latency_s <= other.latency_s and one.degradation <= other.degradation
    return no_worse and (one.latency_s, one.degradation) != (other.latency_s, other.degradation)


@given(points)
def test_the_front_is_all_that_no_other_beats(candidates: list[Point]) -> None:
    chosen = front(candidates)
    unbeaten = [point for point in candidates if not any(beats(other, point) for other in candidates)]
    places = [(point.latency_s, point.degradation) for point in chosen]
    assert set(places) == {(point.latency_s, point.degradation) for point in unbeaten}
    assert len(places) == len(set(places))
    assert places == sorted(places)
    for point in chosen:  # of equals, the first by text
        place = (point.latency_s, point.degradation)
        equals = [other for other in candidates if (other.latency_s, other.degradation) == place]
        assert point.candidate == min(other.candidate for other in equals)


@given(points)
def test_the_front_does_not_depend_on_the_order(candidates: list[Point]) -> None:
    assert front(candidates) == front(candidates[::-1])
