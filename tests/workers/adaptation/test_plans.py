"""Plans are tried uphill, only where trying pays, and the fastest for what is left is used."""

from __future__ import annotations

import logging

import pytest

from workers.adaptation.plans import PAYS_AFTER, Choices, Plan, Tuning

CHOICES = Choices(sizes=(1, 5, 25), layouts=("channels_last", "contiguous"), lanes=(2, 1))
PREPARATION_S = 2.0
MANY = 10**6


def true_seconds(plan: Plan) -> float:
    """Of one evaluation: five episodes at once are best, channels last halves it, lanes do not matter."""
    return {1: 3.0, 5: 1.0, 25: 2.0}[plan.episodes] * (1 if plan.layout == "channels_last" else 2) + 0.1 * plan.lanes


def tune(tuning: Tuning, rounds: int, episodes: int = MANY, most: int = MANY) -> Plan:
    plan = tuning.next(episodes, 1, most)
    for _ in range(rounds):
        tuning.record(plan, 1, true_seconds(plan), PREPARATION_S)
        plan = tuning.next(episodes, 1, most)
    return plan


def test_it_begins_with_one_episode_and_finds_the_fastest_plan() -> None:
    tuning = Tuning("anything", CHOICES)
    assert tuning.next(MANY, 1, MANY) == CHOICES.first == Plan(1, "channels_last", 2)
    assert tune(tuning, 12) == Plan(5, "channels_last", 1)


def test_only_neighbours_of_the_best_are_tried() -> None:
    tuning = Tuning("anything", CHOICES)
    tune(tuning, 12)
    assert Plan(25, "contiguous", 1) not in tuning.seconds  # neither step towards it was uphill
    assert len(tuning.seconds) < len(CHOICES.sizes) * len(CHOICES.layouts) * len(CHOICES.lanes)


def test_little_work_tries_nothing() -> None:
    tuning = Tuning("anything", CHOICES)
    episodes = int(PAYS_AFTER * PREPARATION_S / true_seconds(CHOICES.first)) - 1
    assert tune(tuning, 1, episodes) == CHOICES.first
    tuning.record(CHOICES.first, 1, PAYS_AFTER * PREPARATION_S, 0.0)  # but work adds up
    assert tuning.next(episodes, 1, MANY) != CHOICES.first


def test_no_more_episodes_at_once_than_there_are_or_fit() -> None:
    tuning = Tuning("anything", CHOICES)
    tune(tuning, 12, most=5)
    assert {plan.episodes for plan in tuning.seconds} == {1, 5}
    assert [plan.episodes for plan in CHOICES.neighbours(CHOICES.first, most=3) if plan.lanes == 2] == [3, 1]
    tuning = Tuning("anything", CHOICES)
    tune(tuning, 12, episodes=24)
    assert all(plan.episodes < 25 for plan in tuning.seconds)


def test_for_a_remainder_the_plan_that_wastes_least() -> None:
    tuning = Tuning("anything", Choices(sizes=(1, 5), layouts=("contiguous",), lanes=(1,)))
    one, five = Plan(1, "contiguous", 1), Plan(5, "contiguous", 1)
    for plan, seconds in ((one, 2.0), (five, 1.0)):
        tuning.record(plan, 1, seconds, PREPARATION_S)
    assert [tuning.next(episodes, 1, MANY) for episodes in (1, 2, 3, 5)] == [one, one, five, five]


def test_the_decision_is_logged_with_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tune(Tuning("patterns", CHOICES), 2)
    assert "judging patterns: " in caplog.text
    assert "1 at once, channels last, 2 lanes 3200.00 ms" in caplog.text
