"""The bootstrap over classes: what it adds where classes differ, and that it adds nothing where they do not."""

from __future__ import annotations

import numpy as np
import pytest

from workers.search.class_bootstrap import class_interval

CLASSES, WAYS, EPISODES = 60, 5, 1500


def episodes(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([generator.choice(CLASSES, WAYS, replace=False) for _ in range(EPISODES)])


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_classes_that_differ_widen_the_interval_as_much_as_drawing_others_would() -> None:
    generator = np.random.default_rng(1)
    means = []
    for seed in range(200):  # other classes, other episodes: what the interval is about
        effects = 0.05 * np.random.default_rng(seed).standard_normal(CLASSES)
        means.append(effects[episodes(seed)].mean())
    of_one = episodes(7)
    effects = 0.05 * generator.standard_normal(CLASSES)
    values = effects[of_one].mean(axis=1)
    assert width(class_interval(values, of_one)) == pytest.approx(2 * 1.96 * np.std(means), rel=0.25)
    alone = 2 * 1.96 * values.std() / np.sqrt(EPISODES)
    assert width(class_interval(values, of_one)) > 3 * alone


def test_noise_of_episodes_counts_once() -> None:
    alone = 2 * 1.96 / np.sqrt(EPISODES)
    widths = []
    for seed in range(10):
        values = np.random.default_rng(seed).standard_normal(EPISODES)
        widths.append(width(class_interval(values, episodes(seed))))
    assert np.mean(widths) == pytest.approx(alone, rel=0.15)
    assert min(widths) > 0.9 * alone


def test_the_interval_is_the_same_every_time_and_holds_the_mean() -> None:
    of_one = episodes(5)
    values = np.random.default_rng(5).random(EPISODES)
    low, high = class_interval(values, of_one)
    assert (low, high) == class_interval(values, of_one)
    assert low < values.mean() < high
    assert class_interval(np.full(EPISODES, 0.25), of_one) == pytest.approx((0.25, 0.25))
    assert class_interval(values, of_one, confidence=0.5)[0] > low


def test_few_classes_do_not_break_it() -> None:
    low, high = class_interval(np.array([0.0, 1.0]), np.array([[0, 1], [1, 2]]))
    assert low <= 0.5 <= high
