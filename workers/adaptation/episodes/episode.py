"""What a drawn task is, and the contract of everything that draws tasks.

Episode ``i`` of a (seed, split) is the same everywhere: its generator is seeded by these three numbers alone, so it
does not matter which worker draws it, nor with which other episodes. Draws use nothing of the generator but uniform
doubles, the part of numpy's stream that does not change between its versions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily

SPLIT_NUMBERS = {Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2}
"""Numbers of the splits in an episode's seed. Changing one changes every episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeBatch:
    """E episodes, stacked. N support and M query examples each; examples are ordered by label.

    Args:
        support_x: `[E, N, *input_shape]`. Images are `[E, N, 1, 28, 28]`, ink 1 and paper 0.
        support_y: class labels 0 to ways - 1, `int64 [E, N]`; regression targets, `float32 [E, N, 1]`.
        query_x: `[E, M, *input_shape]`.
        query_y: as ``support_y``, of M examples.
        digest: SHA-256, as hexadecimal text, of what was drawn, every episode in order.
    """

    support_x: npt.NDArray[np.float32]
    support_y: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    query_x: npt.NDArray[np.float32]
    query_y: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    digest: str


class Episodes(Protocol):
    """Draws the episodes of one task family. Threads may share it."""

    @property
    def task(self) -> TaskFamily:
        """What the episodes are drawn from."""
        ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: `(1, 28, 28)` for images, `(1,)` for sinusoids."""
        ...

    def class_count(self, split: Split) -> int | None:
        """Classes of a split, no two splits share one; None for regression, which has no classes."""
        ...

    def classes(self, split: Split, seed: int, start: int, count: int) -> npt.NDArray[np.int64] | None:
        """Classes of episodes ``start`` to ``start + count - 1``: `[count, ways]`; None for regression.

        Raises:
            ValueError: as for ``draw``.
        """
        ...

    def draw(self, split: Split, seed: int, start: int, count: int) -> EpisodeBatch:
        """Draw episodes ``start`` to ``start + count - 1``.

        Raises:
            ValueError: ``seed``, ``start`` or ``count`` is negative.
        """
        ...


def episode_uniforms(split: Split, seed: int, start: int, count: int, size: int) -> npt.NDArray[np.float64]:
    """The random numbers of episodes ``start`` to ``start + count - 1``: `[count, size]`, uniform on [0, 1).

    Raises:
        ValueError: ``seed``, ``start`` or ``count`` is negative.
    """
    for name, value in (("seed", seed), ("start", start), ("count", count)):
        if value < 0:
            raise ValueError(f"{name} must not be negative, is {value}")
    uniforms = np.empty((count, size))
    for row in range(count):
        bits = np.random.PCG64([seed, SPLIT_NUMBERS[split], start + row])
        np.random.Generator(bits).random(out=uniforms[row])
    return uniforms


def draw_digest(task: TaskFamily, split: Split, *drawn: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> str:
    """SHA-256, as hexadecimal text, of the arrays ``drawn`` (indices, or numbers as drawn), byte order fixed."""
    header = f"{task.family} {split} ways={task.ways} shots={task.shots} queries={task.queries}"
    digest = hashlib.sha256(header.encode())
    for array in drawn:
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
