"""Lanes: threads that each run whole episodes or tasks, one computing thread of PyTorch's per lane.

The operations of a small network are too short to be split among threads: measured on two cores (conv4 with 32 filters,
second-order task gradients), two lanes of one thread did 1.6 times the work of one, one lane of two threads 1.3 times,
and a tenth of it where another process wanted the same cores. PyTorch's operations release the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

WAVE = 4
"""Pieces of work per lane between two looks at whether to go on."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive runs of ``size`` items, the last one shorter (``itertools.batched`` is younger than Python 3.11)."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class Lanes:
    """Runs independent pieces of work side by side, results in order.

    Args:
        count: how many run at once; with one, everything runs in the calling thread.
    """

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="lane") if count > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """``function`` of each item, without gradients; the first error is raised when all have ended."""

        def run(item: Item) -> Result:
            with torch.no_grad():  # a thread's own setting
                return function(item)

        if self._pool is None:
            return [run(item) for item in items]
        futures = [self._pool.submit(run, item) for item in items]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]
        return [future.result() for future in futures]
