"""What a certificate can promise at all, before any episode is judged: pure arithmetic of its error and its length."""

from __future__ import annotations

import math
from typing import Literal

CertificateMethod = Literal["betting", "empirical_bernstein", "asymptotic"]
"""How mean degradation is tested: the first two at an error that holds for any number of episodes and any distribution
within the bound, the last only in the limit of many episodes."""
GUARANTEED: tuple[CertificateMethod, ...] = ("betting", "empirical_bernstein")
"""The methods whose error is at most alpha at any number of episodes."""


def spent_alpha(confidence: float, position: int) -> float:
    """The error that the certificate of the ``position``-th tested candidate (from 1) may spend: all together alpha."""
    return (1 - confidence) * 2.0**-position


def fewest_episodes(threshold: float, alpha: float, bound: float = 1.0) -> int:
    """The least number of episodes that could certify a candidate that loses nothing: ln(1/alpha) / -ln(1 - ε/b).

    No finite-sample method can do with fewer if every degradation is 0: failures that lose b in just over ε/b of the
    episodes exceed ε in the mean, and show none in n episodes with probability (1 - ε/b)^n, which must be at most
    alpha. Betting's largest bet reaches 1 / alpha then too, as it multiplies its wealth by b / (b - ε) at each 0.
    Candidates that gain on the baseline could be accepted sooner (a gain of b at every episode in a handful), but none
    that is worth planning for: this number is for a candidate as good as the baseline, episode by episode.

    Args:
        threshold: ε, the most that the mean may be, within (0, bound).
        alpha: probability of accepting a candidate whose mean is ε or more.
        bound: b, the most that one episode may lose.
    """
    return math.ceil(-math.log(alpha) / -math.log1p(-threshold / bound))
