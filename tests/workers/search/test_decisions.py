"""Screening, the horizon, the looks of a certificate, its error over many candidates, and the front by brute force."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from search_service.domain.certificate import fewest_episodes, spent_alpha
from workers.search.decisions import (
    AHEAD,
    FIRST_LOOK,
    Look,
    Point,
    Verdict,
    first_look,
    front,
    horizon_s,
    look,
    prediction_margin,
    question_of,
    screen,
)

EPSILON = 0.01
CAP = 4000
FIRST = question_of(EPSILON, 1.0, 0.95, 1)


def drawn(mean: float, episodes: int, seed: int = 0, spread: float = 0.03) -> NDArray[np.float64]:
    """Degradations of exactly this mean."""
    noise = np.random.default_rng(seed).normal(0, spread, episodes)
    return mean + noise - noise.mean()


@pytest.mark.parametrize(
    ("mean", "episodes", "verdict"),
    [
        (0.3, FIRST_LOOK, Verdict.OVER),  # hopeless: the first look is enough
        (0.3, FIRST_LOOK - 1, Verdict.OPEN),
        (0.012, 64, Verdict.OPEN),
        (-0.02, 64, Verdict.UNDER),
        (-0.02, 63, Verdict.OPEN),  # too early to believe in it
        (0.008, 400, Verdict.PROMISING),
        (0.0115, 400, Verdict.PROMISING),  # may be 0.0085, which can be proved
        (0.0145, 400, Verdict.OUT_OF_REACH),
        (0.03, 400, Verdict.OVER),
    ],
)
def test_screening(mean: float, episodes: int, verdict: Verdict) -> None:
    screening = screen(drawn(mean, episodes), FIRST, 400, CAP)
    assert screening.verdict == verdict
    assert f"{mean:.4f} on {episodes} validation episodes" in screening.reason


def test_screening_rarely_drops_what_is_at_the_threshold() -> None:
    """With all its looks, one block of sixteen after another."""
    generator = np.random.default_rng(1)
    dropped = 0
    for _ in range(200):
        values = generator.normal(EPSILON, 0.03, 400)
        looks = (screen(values[:episodes], FIRST, 400, CAP).verdict for episodes in range(16, 401, 16))
        dropped += any(verdict == Verdict.OVER for verdict in looks)
    assert dropped <= 8  # 1 % is allowed, and the first looks are asymptotic in name only


def test_the_horizon_waits_for_survivors_and_lies_behind_them() -> None:
    assert horizon_s([], 0.1) == horizon_s([1.0] * (AHEAD - 1), 0.1) == math.inf
    assert horizon_s([5.0, 1.0, 2.0, 3.0, 4.0], 0.1) == pytest.approx(3.3)


def test_predictions_are_trusted_within_limits() -> None:
    assert prediction_margin(0.001, "eager") == 0.02
    assert prediction_margin(0.1, "eager") == 0.1
    assert prediction_margin(0.1, "compiled") == 0.15
    assert prediction_margin(7.0, "eager") == 0.25


def looks(values: NDArray[np.float64], position: int = 1) -> Iterator[Look]:
    """The looks of one test, each where the one before said."""
    question = question_of(EPSILON, 1.0, 0.95, position)
    episodes = first_look(question, "betting", len(values))
    while True:
        seen = look(values[:episodes], question, "betting", len(values))
        yield seen
        if seen.verdict != Verdict.OPEN:
            return
        assert episodes < seen.next_look <= min(2 * episodes + 1, len(values))
        episodes = seen.next_look


@pytest.mark.parametrize(
    ("mean", "verdict", "within"),
    [
        (0.0, Verdict.UNDER, 1000),
        (-0.01, Verdict.UNDER, 500),
        (0.011, Verdict.OUT_OF_REACH, CAP),
        (0.02, Verdict.OVER, 1000),
        (0.5, Verdict.OVER, 400),
    ],
)
def test_a_certificate_ends_as_soon_as_it_is_clear(mean: float, verdict: Verdict, within: int) -> None:
    for seed in range(5):
        *_, last = looks(drawn(mean, CAP, seed))
        assert last.verdict == verdict
        assert last.next_look <= within
        assert (last.upper_bound <= EPSILON) == (verdict == Verdict.UNDER)
        assert "confirmation episodes" in last.reason


def test_a_look_accepts_what_any_look_before_it_would_have() -> None:
    values = np.concatenate([drawn(0.0, 1500), drawn(0.08, 500)])  # certain at first, worse later
    question = question_of(EPSILON, 1.0, 0.95, 1)
    assert look(values[:1500], question, "betting", CAP).verdict == Verdict.UNDER
    seen = look(values, question, "betting", CAP)
    assert seen.verdict == Verdict.UNDER
    assert seen.upper_bound <= EPSILON < values.mean()


@given(position=st.integers(1, 40))
def test_the_first_look_is_the_first_that_could_say_yes(position: int) -> None:
    question = question_of(EPSILON, 1.0, 0.95, position)
    first = first_look(question, "betting", 10**6)
    assert first == fewest_episodes(EPSILON, spent_alpha(0.95, position))
    assert look(np.zeros(first - 1), question, "betting", CAP).verdict == Verdict.OPEN
    assert first_look(question, "betting", 100) == 100
    assert first_look(question, "asymptotic", CAP) == 64


@given(st.floats(0.5, 0.9999), st.integers(1, 200))
def test_all_tests_together_spend_at_most_alpha(confidence: float, candidates: int) -> None:
    spent = [spent_alpha(confidence, position) for position in range(1, candidates + 1)]
    assert math.fsum(spent) <= 1 - confidence
    assert all(value > 0 for value in spent)
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == (1 - confidence) / 2


def test_candidates_exactly_at_the_threshold_pass_together_at_most_alpha_of_the_time() -> None:
    """Rare failures, two percent of episodes that lose half, are where the asymptotic test errs."""
    generator = np.random.default_rng(1)
    searches, candidates = 150, 6
    false_acceptances = 0
    for _ in range(searches):
        values = np.where(generator.random((candidates, 1500)) < 0.02, 0.5, 0.0)  # mean exactly EPSILON
        false_acceptances += any(
            last.verdict == Verdict.UNDER
            for position, row in enumerate(values, start=1)
            for *_, last in [looks(row, position)]
        )
    alpha = 0.05
    assert false_acceptances / searches <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / searches)


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
