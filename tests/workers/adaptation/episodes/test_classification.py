"""What an episode of drawn classes is, whatever the pool."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_service.domain.errors import DatasetUnavailable
from search_service.domain.evaluation import Split
from search_service.domain.search import TaskFamily
from workers.adaptation.episodes.classification import ClassificationEpisodes

COUNTS = {Split.TRAIN: 40, Split.VALIDATION: 12, Split.TEST: 9}
DRAWINGS = 20


class CountingPool:
    """Image ``n`` of a split says its own number in its first two pixels."""

    drawings = DRAWINGS

    def class_count(self, split: Split) -> int:
        return COUNTS[split]

    def images(self, split: Split, classes: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        numbers = np.arange(COUNTS[split] * DRAWINGS)
        images = np.zeros((len(numbers), 28, 28), dtype=np.uint8)
        images[:, 0, 0], images[:, 0, 1] = numbers // 256, numbers % 256
        return images


def numbers_of(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The numbers of the images `[E, N, 1, 28, 28]`: `[E, N]`."""
    pixels = np.rint(x[:, :, 0, 0, :2] * 255).astype(np.int64)
    return pixels[..., 0] * 256 + pixels[..., 1]


tasks = st.builds(
    TaskFamily,
    family=st.just("glyphs"),
    ways=st.integers(2, 9),
    shots=st.integers(1, 5),
    queries=st.integers(1, 15),
)


@settings(max_examples=60, deadline=None)
@given(task=tasks, split=st.sampled_from(list(Split)), seed=st.integers(0, 2**63 - 1), count=st.integers(1, 4))
def test_an_episode_is_well_formed(task: TaskFamily, split: Split, seed: int, count: int) -> None:
    batch = ClassificationEpisodes(task, CountingPool()).draw(split, seed, 0, count)
    assert batch.support_x.shape == (count, task.support_size, 1, 28, 28)
    assert batch.query_x.shape == (count, task.query_size, 1, 28, 28)
    assert (batch.support_x.dtype, batch.support_y.dtype) == (np.float32, np.int64)
    assert (batch.query_x.dtype, batch.query_y.dtype) == (np.float32, np.int64)
    support, query = numbers_of(batch.support_x), numbers_of(batch.query_x)
    for episode in range(count):
        drawn = np.concatenate((support[episode], query[episode]))
        labels = np.concatenate((batch.support_y[episode], batch.query_y[episode]))
        # no drawing twice, in particular none in both support and query
        assert len(np.unique(drawn)) == len(drawn)
        # one class per label and one label per class
        pairs = {(int(label), int(number) // DRAWINGS) for label, number in zip(labels, drawn, strict=True)}
        assert len(pairs) == task.ways == len({number for _, number in pairs})
        # balanced
        assert np.bincount(batch.support_y[episode]).tolist() == [task.shots] * (task.ways or 0)
        assert np.bincount(batch.query_y[episode]).tolist() == [task.queries] * (task.ways or 0)


def test_classes_drawings_and_labels_are_uniform() -> None:
    task = TaskFamily(family="glyphs", ways=3, shots=1, queries=1)
    batch = ClassificationEpisodes(task, CountingPool()).draw(Split.TEST, 0, 0, 6000)
    support = numbers_of(batch.support_x)
    # class by label: 9 classes x 3 labels, 6000 / 9 = 667 expected in each cell, sd 24
    counts = np.histogram2d(support.ravel() // DRAWINGS, batch.support_y.ravel(), bins=(9, 3))[0]
    assert np.abs(counts - 6000 / 9).max() < 5 * 24.3
    # drawings: 18000 / 20 = 900 expected, sd 29
    drawings = np.bincount(support.ravel() % DRAWINGS, minlength=DRAWINGS)
    assert np.abs(drawings - 900).max() < 5 * 29.2


def test_all_classes_of_a_split_can_be_one_task() -> None:
    task = TaskFamily(family="glyphs", ways=9, shots=5, queries=15)
    batch = ClassificationEpisodes(task, CountingPool()).draw(Split.TEST, 3, 0, 1)
    drawn = np.concatenate((numbers_of(batch.support_x), numbers_of(batch.query_x)), axis=1)
    assert sorted(drawn[0].tolist()) == list(range(9 * DRAWINGS))


def test_more_ways_than_classes_are_refused() -> None:
    with pytest.raises(DatasetUnavailable, match="test split has 9 classes, too few for tasks of 10 ways"):
        ClassificationEpisodes(TaskFamily(family="glyphs", ways=10), CountingPool())


def test_more_examples_than_drawings_are_refused() -> None:
    pool = CountingPool()
    pool.drawings = 12  # a partial copy of a dataset
    with pytest.raises(DatasetUnavailable, match=r"12 drawings per class, shots \+ queries asks for 16"):
        ClassificationEpisodes(TaskFamily(family="glyphs", shots=1, queries=15), pool)


def test_a_family_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="no classes"):
        ClassificationEpisodes(TaskFamily(family="sinusoid"), CountingPool())
