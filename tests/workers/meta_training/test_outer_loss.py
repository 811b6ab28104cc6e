"""The weights of the query losses: all alike at first, the last step's alone in the end, always one in sum."""

from __future__ import annotations

import pytest

from workers.meta_training.outer_loss import ANNEALED_SHARE, step_weights


@pytest.mark.parametrize("steps", [2, 5])
def test_the_weights_move_from_all_steps_to_the_last(steps: int) -> None:
    iterations = 1000
    end = int(ANNEALED_SHARE * iterations)
    assert step_weights(steps, 0, iterations) == pytest.approx([1 / steps] * steps)
    last = 0.0
    for iteration in range(end):
        weights = step_weights(steps, iteration, iterations)
        assert weights is not None
        assert sum(weights) == pytest.approx(1)
        assert len(set(weights[:-1])) == 1
        assert weights[0] > 0
        assert weights[-1] > last
        last = weights[-1]
    assert step_weights(steps, end // 2, iterations) == pytest.approx([0.5 / steps] * (steps - 1) + [0.5 + 0.5 / steps])
    assert step_weights(steps, end, iterations) is None
    assert step_weights(steps, iterations - 1, iterations) is None


def test_one_step_is_the_last_step() -> None:
    assert step_weights(1, 0, 1000) is None
