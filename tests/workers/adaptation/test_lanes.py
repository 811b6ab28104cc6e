"""Lanes: results in order, errors raised, no gradients, and the same numbers as without them."""

from __future__ import annotations

import threading

import pytest
import torch

from workers.adaptation.lanes import Lanes, batched


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_order_and_without_gradients(count: int) -> None:
    def work(number: int) -> tuple[int, bool]:
        return number * number, torch.is_grad_enabled()

    assert Lanes(count).map(work, range(20)) == [(number * number, False) for number in range(20)]
    assert torch.is_grad_enabled()


def test_lanes_really_run_side_by_side() -> None:
    both_in = threading.Barrier(2, timeout=20)
    assert sorted(Lanes(2).map(lambda _: both_in.wait(), range(2))) == [0, 1]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_is_raised(count: int) -> None:
    with pytest.raises(ZeroDivisionError):
        Lanes(count).map(lambda number: 1 // number, [1, 0, 2])


def test_batched_keeps_every_item_in_order() -> None:
    assert list(batched(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []
