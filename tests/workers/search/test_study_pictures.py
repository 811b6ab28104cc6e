"""Importance of units: who explains the degradations, and when nothing is told."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from search_service.domain.candidate import Candidate
from search_service.domain.lambda_pattern import LambdaPattern
from workers.search.study_pictures import FEWEST_JUDGED, unit_importance

UNITS = ("conv1", "conv2", "head")


def judged_by(loss: list[float], steps: int = 2) -> list[tuple[Candidate, float]]:
    """Constant rows, each losing ``loss`` of every unit that it freezes."""
    rows = [row for row in product((False, True), repeat=len(UNITS)) if any(row)]
    noise = np.random.default_rng(0).normal(0, 1e-4, (len(rows), steps))
    return [
        (Candidate(LambdaPattern.constant(row, count + 1)), sum(np.array(loss)[~np.array(row)]) + noise[at, count])
        for at, row in enumerate(rows)
        for count in range(steps)
    ]


@pytest.mark.parametrize("unit", range(len(UNITS)))
def test_the_unit_whose_freezing_costs_most_matters_most(unit: int) -> None:
    loss = [0.01] * len(UNITS)
    loss[unit] = 0.3
    importance = unit_importance(judged_by(loss), UNITS)
    assert list(importance) == list(UNITS)
    assert sum(importance.values()) == pytest.approx(1)
    assert importance[UNITS[unit]] > 0.8


def test_nothing_is_told_from_few_candidates_or_from_equal_ones() -> None:
    judged = judged_by([0.1, 0.2, 0.3])
    assert unit_importance(judged[: FEWEST_JUDGED - 1], UNITS) == {}
    assert unit_importance([(candidate, 0.1) for candidate, _ in judged], UNITS) == {}
