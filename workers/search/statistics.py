"""Statistics of paired differences over independent episodes.

All bounds here are Student's t bounds for a mean at a number of episodes fixed in advance: exact for normal
differences, asymptotic otherwise, and without guarantee under continuous looking.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Qualities = NDArray[np.float64]
"""Per-episode qualities: an ``n``-dim array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanEstimate:
    """A mean over n episodes and its standard error (0 where all episodes agree, infinite for n = 1)."""

    mean: float
    standard_error: float
    episodes: int

    @classmethod
    def of(cls, values: Qualities) -> MeanEstimate:
        """Estimate the mean of ``values``, an ``n``-dim array with n >= 1."""
        episodes = len(values)
        error = float(np.std(values, ddof=1) / np.sqrt(episodes)) if episodes > 1 else float("inf")
        return cls(mean=float(np.mean(values)), standard_error=error, episodes=episodes)

    def lower_bound(self, confidence: float) -> float:
        """One-sided lower t bound of the mean."""
        return self.mean - self._quantile(confidence) * self.standard_error

    def upper_bound(self, confidence: float) -> float:
        """One-sided upper t bound of the mean."""
        return self.upper_bound_at(1 - confidence)

    def upper_bound_at(self, alpha: float) -> float:
        """One-sided upper t bound that is too low with probability ``alpha``, however small."""
        if self.standard_error == 0:
            return self.mean
        return self.mean + float(stats.t.isf(alpha, max(self.episodes - 1, 1))) * self.standard_error

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided t interval of the mean."""
        tail = (1 + confidence) / 2
        return self.lower_bound(tail), self.upper_bound(tail)

    def _quantile(self, confidence: float) -> float:
        return float(stats.t.ppf(confidence, max(self.episodes - 1, 1)))


def degradation(baseline: Qualities, candidate: Qualities) -> MeanEstimate:
    """Mean paired degradation, quality(baseline) - quality(candidate), episode by episode.

    Raises:
        ValueError: the two were not judged on the same number of episodes.
    """
    if len(baseline) != len(candidate):
        raise ValueError(f"{len(baseline)} episodes of the baseline against {len(candidate)} of the candidate")
    return MeanEstimate.of(baseline - candidate)
