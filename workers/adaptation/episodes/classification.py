"""Few-shot classification episodes from pools of drawn classes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from search_service.domain.errors import DatasetUnavailable
from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes.episode import EpisodeBatch, draw_digest, episode_uniforms

IMAGE_SIDE = 28  # pixels
INK = 255  # the value in a pool that becomes 1.0


class ClassPool(Protocol):
    """Classes of drawings: three splits, which share no class, and the same number of drawings of every class."""

    @property
    def drawings(self) -> int:
        """Drawings of each class."""
        ...

    def class_count(self, split: Split) -> int:
        """Classes of a split; they are numbered from 0."""
        ...

    def images(self, split: Split, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """All drawings of a split, of which at least those of ``classes`` are ready.

        Returns:
            `uint8 [class_count * drawings, 28, 28]`, 255 ink and 0 paper; drawing d of class c is row
            ``c * drawings + d``. It belongs to the pool: do not write to it.
        """
        ...


class ClassificationEpisodes:
    """Draws ``ways`` classes in random order (the position is the label), then distinct drawings of each class.

    Raises:
        DatasetUnavailable: a split has fewer classes than ways, or classes have fewer drawings than shots + queries.
    """

    def __init__(self, task: TaskFamily, pool: ClassPool) -> None:
        if task.ways is None:
            raise ValueError(f"{task.family} tasks have no classes")
        self.task = task
        self.input_shape = (1, IMAGE_SIDE, IMAGE_SIDE)
        self._ways = task.ways
        self._pool = pool
        for split in Split:
            classes = pool.class_count(split)
            if classes < self._ways:
                reason = f"its {split} split has {classes} classes, too few for tasks of {self._ways} ways"
                raise DatasetUnavailable(task.family, reason)
        if task.shots + task.queries > pool.drawings:
            reason = f"it has {pool.drawings} drawings per class, shots + queries asks for {task.shots + task.queries}"
            raise DatasetUnavailable(task.family, reason)

    def class_count(self, split: Split) -> int:
        """Classes of a split; a quarter-turn that counts as a class of its own is counted."""
        return self._pool.class_count(split)

    def classes(self, split: Split, seed: int, start: int, count: int) -> npt.NDArray[np.int64]:
        """Classes of episodes ``start`` to ``start + count - 1``, as they are drawn: `[count, ways]`.

        Raises:
            ValueError: ``seed``, ``start`` or ``count`` is negative.
        """
        # A generator's first numbers do not depend on how many are asked for.
        uniforms = episode_uniforms(split, seed, start, count, self._ways)
        return self._chosen(uniforms, split)

    def _chosen(self, uniforms: npt.NDArray[np.float64], split: Split) -> npt.NDArray[np.int64]:
        population = self._pool.class_count(split)
        chosen = [_distinct(row, population) for row in uniforms[:, : self._ways].tolist()]
        return np.array(chosen, dtype=np.int64).reshape(len(uniforms), self._ways)

    def draw(self, split: Split, seed: int, start: int, count: int) -> EpisodeBatch:
        """Draw episodes ``start`` to ``start + count - 1``; x is `float32 [count, N, 1, 28, 28]`, y `int64 [count, N]`.

        Raises:
            ValueError: ``seed``, ``start`` or ``count`` is negative.
        """
        ways, drawings, shots = self._ways, self._pool.drawings, self.task.shots
        uniforms = episode_uniforms(split, seed, start, count, ways * (1 + drawings))
        classes = self._chosen(uniforms, split)
        # [count, ways, shots + queries]: the drawings of a class in random order, as many as are needed
        order = uniforms[:, ways:].reshape(count, ways, drawings).argsort(axis=2, kind="stable")
        picked = order[:, :, : shots + self.task.queries].astype(np.int64)
        images = self._pool.images(split, classes)
        rows = classes[:, :, None] * drawings + picked
        return EpisodeBatch(
            support_x=_inputs(images, rows[:, :, :shots]),
            support_y=_labels(count, ways, shots),
            query_x=_inputs(images, rows[:, :, shots:]),
            query_y=_labels(count, ways, self.task.queries),
            digest=draw_digest(self.task, split, classes, picked),
        )


def _distinct(uniforms: list[float], population: int) -> list[int]:
    """As many distinct numbers below ``population`` as there are uniforms: the head of a Fisher-Yates shuffle."""
    moved: dict[int, int] = {}
    chosen = []
    for position, uniform in enumerate(uniforms):
        other = position + int(uniform * (population - position))
        chosen.append(moved.get(other, other))
        moved[other] = moved.get(position, position)
    return chosen


def _inputs(images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """`images[rows]` scaled to 0..1: rows `[E, ways, n]` to `float32 [E, ways * n, 1, 28, 28]`."""
    episodes, ways, examples = rows.shape
    gathered = images.take(rows.reshape(-1), axis=0)
    scaled = np.divide(gathered, np.float32(INK), dtype=np.float32)
    return scaled.reshape(episodes, ways * examples, 1, IMAGE_SIDE, IMAGE_SIDE)


def _labels(episodes: int, ways: int, examples: int) -> npt.NDArray[np.int64]:
    """`int64 [episodes, ways * examples]`, ordered by label."""
    return np.tile(np.repeat(np.arange(ways, dtype=np.int64), examples), (episodes, 1))
