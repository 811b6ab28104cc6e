"""Sinusoids are those of Finn et al. 2017, section 5.1."""

from __future__ import annotations

import numpy as np

from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes import open_task_family

TASK = TaskFamily(family="sinusoid", shots=10, queries=30)


def test_shapes() -> None:
    episodes = open_task_family(TASK, None)
    batch = episodes.draw(Split.TRAIN, 0, 0, 4)
    assert episodes.task == TASK
    assert episodes.input_shape == (1,)
    assert episodes.class_count(Split.TRAIN) is None
    assert batch.support_x.shape == batch.support_y.shape == (4, 10, 1)
    assert batch.query_x.shape == batch.query_y.shape == (4, 30, 1)
    arrays = (batch.support_x, batch.support_y, batch.query_x, batch.query_y)
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


def test_support_and_query_lie_on_one_sinusoid_within_the_stated_ranges() -> None:
    batch = open_task_family(TASK, None).draw(Split.TEST, 5, 0, 2000)
    fitted = []
    for episode in range(2000):
        x = np.concatenate((batch.support_x[episode, :, 0], batch.query_x[episode, :, 0])).astype(np.float64)
        y = np.concatenate((batch.support_y[episode, :, 0], batch.query_y[episode, :, 0])).astype(np.float64)
        # A sin(x - p) = (A cos p) sin x - (A sin p) cos x: linear in two unknowns
        design = np.stack((np.sin(x), -np.cos(x)), axis=1)
        (in_phase, quadrature), *_ = np.linalg.lstsq(design, y, rcond=None)
        assert np.abs(design @ (in_phase, quadrature) - y).max() < 1e-5
        fitted.append((np.hypot(in_phase, quadrature), np.arctan2(quadrature, in_phase)))
    amplitudes, phases = np.array(fitted).T
    for values, low, high in ((amplitudes, 0.1, 5.0), (phases, 0.0, np.pi), (batch.query_x, -5.0, 5.0)):
        slack = 1e-4
        assert low - slack <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high + slack
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low)
