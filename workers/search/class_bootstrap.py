"""How a mean over episodes would vary had other classes been drawn: a bootstrap over classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
SEED = 0


def class_interval(
    values: NDArray[np.float64], classes: NDArray[np.int64], confidence: float = 0.95
) -> tuple[float, float]:
    """Two-sided percentile interval of the mean of episodes, classes resampled with replacement.

    A class drawn k times moves the mean by k - 1 times its total, the sum over its episodes of their distance from the
    mean, divided by n. These totals alone would count an episode's own noise once for each of its classes (and a plain
    bootstrap, weighting episodes by the product of their classes' counts, 2^ways times). They are scaled to the
    variance in which it counts once: the sum over all pairs of episodes with a class in common (Aronow, Samii and
    Assenova, arXiv 1312.3398, for pairs of units; here for sets of ``ways``, where two in common count twice).

    Args:
        values: one per episode: an ``n``-dim array.
        classes: of each episode: ``n x ways``.
        confidence: of the interval.
    """
    present, index = np.unique(classes, return_inverse=True)
    distances = (values - values.mean()) / len(values)
    totals = np.zeros(len(present))
    np.add.at(totals, index.reshape(classes.shape), distances[:, None])

    own = float(np.sum(distances**2))
    variance = max(float(np.sum(totals**2)) - (classes.shape[1] - 1) * own, own)
    spread = float(np.sum(totals**2))
    scale = np.sqrt(variance / spread) if spread > 0 else 0.0

    counts = np.random.default_rng(SEED).multinomial(
        len(present), np.full(len(present), 1 / len(present)), size=RESAMPLES
    )
    means = values.mean() + (counts - 1) @ totals * scale
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)
