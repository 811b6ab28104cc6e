"""Upper bounds of a mean degradation that hold however often one looks: betting, empirical Bernstein, asymptotic.

Notation: x_1, x_2, ... are paired degradations, quality(baseline) - quality(candidate), in the order of their episodes
and within [-b, b]; ε in (-b, b) is a threshold of their mean. An array of values has the shape ``(..., n)``: episodes
along the last axis, other axes are separate tests. Nothing at position t depends on what comes after it.

``betting`` and ``empirical_bernstein`` are finite-sample: for values within [-b, b] whose mean given all earlier ones
is at least μ, whatever their distribution, the bound ever falls below μ with probability at most alpha. ``asymptotic``
promises that only in the limit of many episodes, and rare failures break it.

Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686 (WSR);
Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", arXiv 2103.06476 (WASKR); Howard, Ramdas, McAuliffe and Sekhon, arXiv 1810.08240 (HRMS). Formulas were
checked against the code of the same authors, https://github.com/gostevehoward/confseq.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from search_service.domain.certificate import CertificateMethod
from search_service.domain.search import LEAST_ASYMPTOTIC_EPISODES

Degradations = NDArray[np.float64]
"""Paired degradations in the order of their episodes: a ``(..., n)`` array."""
Bounds = NDArray[np.float64]

BETS: NDArray[np.float64] = np.power(0.5, np.arange(8))
"""Fractions of the largest safe bet. Most degradations vary so little beside their bound that the largest bet is the
best; rare failures ask for half of it or less. Where the best bet lies between two of these, the better one loses a
ninth of the growth at most."""
BET_WEIGHTS: NDArray[np.float64] = 1 / np.arange(1, 9) ** 2 / np.sum(1 / np.arange(1, 9) ** 2)
"""Shares of the wealth: 0.65 on the largest bet, so that losing nothing is certified in an eighth more episodes than
the fewest that could do, and yet 0.01 on the smallest."""

BERNSTEIN_LIMIT = 0.75
"""The largest bet of ``empirical_bernstein``; WSR suggest 1/2 or 3/4."""

TUNED_FOR = 200
"""Episodes at which the asymptotic bound is tightest unless said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Is the mean degradation at most a threshold? And how often the answer may be a wrong yes."""

    threshold: float
    """ε, within (0, bound)."""
    alpha: float
    """Probability of accepting a candidate whose mean degradation is ε or more, within (0, 0.5)."""
    bound: float = 1.0
    """b: what a degradation is clipped to, see :func:`clip`. No difference of two accuracies exceeds 1."""

    def __post_init__(self) -> None:
        _check(self.alpha, self.bound)
        if not 0 < self.threshold < self.bound:
            raise ValueError(f"a threshold must be above 0 and below {self.bound}, not {self.threshold}")

    @property
    def log_wealth_asked(self) -> float:
        """What the logarithm of the wealth must reach: that of 1 / alpha."""
        return -math.log(self.alpha)


def clip(degradations: Degradations, bound: float) -> Degradations:
    """Put each degradation into [-bound, bound]; what is not a number, where adaptation diverged, becomes ``bound``.

    A certificate then speaks of the mean of these clipped values. Accuracies stay as they are with a bound of 1. Where
    a metric has no bound the clipped mean may lie below the true one, since losses beyond the bound count no further.
    """
    return np.clip(np.where(np.isnan(degradations), bound, degradations), -bound, bound)


def accepts(values: Degradations, question: Question, method: CertificateMethod) -> NDArray[np.bool_]:
    """Whether the test accepts after each episode, judged by that look alone.

    Accepting at the first look that says yes, whenever one looks, is wrong with probability at most alpha.

    Args:
        values: ``(..., n)``, clipped.
        question: threshold, alpha and bound.
        method: see the module.

    Returns:
        ``(..., n)``.
    """
    if method == "betting":
        return log_wealth(values, question.threshold, question.bound) >= question.log_wealth_asked
    return _looks(values, question.alpha, question.bound, method) <= question.threshold


def first_acceptance(values: Degradations, question: Question, method: CertificateMethod) -> int | None:
    """Number of episodes, an ``n``-dim array of values, at which the test first accepts; None if it does not."""
    hits = np.flatnonzero(accepts(values, question, method))
    return int(hits[0]) + 1 if len(hits) else None


def upper_bounds(
    values: Degradations, alpha: float, bound: float, method: CertificateMethod, at: Sequence[int] | None = None
) -> Bounds:
    """One-sided upper confidence bounds of the mean, the lowest of all looks so far, and ``bound`` before any.

    All of them hold together with probability at least 1 - alpha. A bound is at most ε exactly where the test of ε has
    accepted by then, so both tell the same story.

    Args:
        values: an ``n``-dim array, clipped.
        alpha: error of all the bounds together, within (0, 0.5).
        bound: what values are clipped to.
        method: see the module.
        at: numbers of episodes, never decreasing, after which a bound is wanted: all of them, one bound, unless said.
            The bounds still use every look between. Betting bisects once for each at which the bound has sunk.

    Returns:
        One bound for each of ``at``.
    """
    _check(alpha, bound)
    wanted = [len(values)] if at is None else list(at)
    if any(late < early for early, late in zip([0, *wanted], [*wanted, len(values)], strict=True)):
        raise ValueError(f"numbers of episodes must increase from 0 to at most {len(values)}, not {wanted}")
    if method == "betting":
        return _betting_bounds(values, alpha, bound, wanted)
    looks = np.minimum.accumulate(_looks(values, alpha, bound, method))
    return np.array([min(bound, looks[count - 1]) if count else bound for count in wanted])


def log_wealth(values: Degradations, threshold: float, bound: float) -> NDArray[np.float64]:
    """Logarithm of the wealth of betting, from 1, that the mean degradation is below ``threshold`` (ε).

    A bet of c in (0, 1] multiplies its wealth by 1 + c (ε - x) / (b - ε) at every episode. That is never negative, as
    x <= b; and where the mean of x given the past is ε or more its expectation is at most 1, so the wealth is a
    nonnegative supermartingale, and so is the mean of several bets' wealths with fixed weights. By Ville's inequality
    it ever reaches 1 / alpha with probability at most alpha.

    The wealth grows with ε, whatever the values: (ε - x) / (b - ε) has the derivative (b - x) / (b - ε)² >= 0. So the
    thresholds that are accepted are all those above one number, the upper bound.

    WSR, section 4: the half of their capital process that bets on a small mean, at m = (ε + b) / 2b after rescaling
    [-b, b] to [0, 1], mixed over fixed bets (``dKelly_cs`` in the authors' code). It departs from that in being
    one-sided, in a grid that is geometric and includes the largest bet, and in unequal shares; ten bets evenly spaced
    and equal need a third more episodes on differences with a standard deviation of 0.03.

    Args:
        values: ``(..., n)``, clipped.
        threshold: within (-bound, bound).
        bound: what values are clipped to.

    Returns:
        ``(..., n)``: after each episode. A bet that has lost everything counts nothing, and the smaller ones go on.
    """
    _check_clipped(values, bound)
    return _log_wealth(values, threshold, bound)


def empirical_bernstein_bounds(values: Degradations, alpha: float, bound: float) -> Bounds:
    """Upper confidence bounds of the mean by the predictable plug-in empirical-Bernstein sequence, look by look.

    WSR, Theorem 2, for the values rescaled from [-b, b] to [0, 1]. It departs from it in being one-sided: the whole of
    alpha stands where the theorem has alpha / 2, in the margin and in the bets.

    Args:
        values: ``(..., n)``, clipped.
        alpha: error of all the looks together.
        bound: what values are clipped to.

    Returns:
        ``(..., n)``.
    """
    _check(alpha, bound)
    _check_clipped(values, bound)
    episodes = np.arange(1, values.shape[-1] + 1)
    unit = (values + bound) / (2 * bound)
    means = (0.5 + np.cumsum(unit, axis=-1)) / (episodes + 1)
    variances = (0.25 + np.cumsum((unit - means) ** 2, axis=-1)) / (episodes + 1)
    means, variances = _before(means, 0.5), _before(variances, 0.25)

    log_asked = -math.log(alpha)
    bets = np.minimum(BERNSTEIN_LIMIT, np.sqrt(2 * log_asked / (variances * (episodes * np.log1p(episodes)))))
    costs = (unit - means) ** 2 * (-np.log1p(-bets) - bets)
    placed = np.cumsum(bets * unit, axis=-1) + log_asked + np.cumsum(costs, axis=-1)
    means_at_most: Bounds = placed / np.cumsum(bets, axis=-1)
    return means_at_most * (2 * bound) - bound


def asymptotic_upper_bounds(
    values: Degradations, alpha: float, *, tuned_for: int = TUNED_FOR, least_episodes: int = LEAST_ASYMPTOTIC_EPISODES
) -> Bounds:
    """Upper confidence bounds of the mean by the one-sided asymptotic confidence sequence, look by look.

    **No finite-sample guarantee**: with failures too rare to have been seen the mean looks better than it is, and the
    bound says so with confidence. Values need no bound.

    WASKR, appendix, the one-sided Gaussian mixture: mean + s sqrt(2 (tρ² + 1) / (t²ρ²) log(1 + sqrt(tρ² + 1) / 2α)),
    with s the standard deviation so far. There the mixture of HRMS (Proposition 6), 2 (tρ² + 1)^-½ exp(z²/2) Φ(z), is
    at least 1 / alpha, because 2 Φ(z) exp(z²/2) >= 2 exp(z²/2) - 1.

    Args:
        values: ``(..., n)``.
        alpha: error of all the looks together, asymptotically; below 0.5.
        tuned_for: number of episodes at which the bound is tightest, through ρ.
        least_episodes: looks before that many say nothing, an infinite bound.

    Returns:
        ``(..., n)``.
    """
    mean, margin = _asymptotic(values, alpha, tuned_for, least_episodes)
    return mean + margin


def asymptotic_lower_bounds(
    values: Degradations, alpha: float, *, tuned_for: int = TUNED_FOR, least_episodes: int = LEAST_ASYMPTOTIC_EPISODES
) -> Bounds:
    """The same from below: where it exceeds ε, a candidate is dropped. See :func:`asymptotic_upper_bounds`."""
    mean, margin = _asymptotic(values, alpha, tuned_for, least_episodes)
    return mean - margin


def growth(values: Degradations, question: Question) -> float:
    """Mean growth of the logarithm of the wealth per episode under the best of the bets; at most 0: hopeless.

    Args:
        values: an ``n``-dim array, clipped, n >= 1.
        question: threshold and bound; alpha has no part in it.
    """
    _check_clipped(values, question.bound)
    stakes = (question.threshold - values) / (question.bound - question.threshold)
    with np.errstate(divide="ignore"):
        return float(np.max(np.log1p(BETS[:, None] * stakes).mean(axis=-1)))


def episodes_to_accept(values: Degradations, question: Question) -> float:
    """About how many episodes like these betting takes to accept, ln(1/alpha) / growth: infinite where it is hopeless.

    Medians in simulation were 0.8 to 1.1 of this: sharing the wealth costs about what luck saves. With few values the
    answer is hopeful, as the best bet is chosen on the same values.

    Args:
        values: an ``n``-dim array, clipped, n >= 1.
        question: threshold, alpha and bound.
    """
    grown = growth(values, question)
    return question.log_wealth_asked / grown if grown > 0 else math.inf


def _looks(values: Degradations, alpha: float, bound: float, method: CertificateMethod) -> Bounds:
    """Upper bounds look by look, ``(..., n)``, of the methods that have one without inverting a test."""
    if method == "empirical_bernstein":
        return empirical_bernstein_bounds(values, alpha, bound)
    if method == "asymptotic":
        _check_clipped(values, bound)
        return asymptotic_upper_bounds(values, alpha)
    raise ValueError(f"no method '{method}'")


def _log_wealth(values: Degradations, threshold: float, bound: float) -> NDArray[np.float64]:
    stakes = (threshold - values) / (bound - threshold)  # at least -1
    bets = BETS.reshape(-1, *[1] * values.ndim)
    with np.errstate(divide="ignore"):  # a bet of 1 that meets x = b loses everything
        wealths = np.log1p(bets * stakes)
    np.cumsum(wealths, axis=-1, out=wealths)
    wealths += np.log(BET_WEIGHTS).reshape(bets.shape)
    largest = wealths.max(axis=0)  # finite: bets below 1 never lose everything
    wealths -= largest
    total: NDArray[np.float64] = largest + np.log(np.exp(wealths, out=wealths).sum(axis=0))
    return total


def _betting_bounds(values: Degradations, alpha: float, bound: float, wanted: Sequence[int]) -> Bounds:
    """The lowest threshold that betting has accepted by each of the numbers of episodes, as closely as floats tell.

    A bisection keeps ``high`` accepted, and ends when no number lies between ``low`` and ``high``.
    """
    _check_clipped(values, bound)
    log_wealth_asked = -math.log(alpha)

    def accepted(threshold: float, episodes: int) -> bool:
        return bool(np.max(_log_wealth(values[:episodes], threshold, bound)) >= log_wealth_asked)

    high = bound
    bounds = []
    for episodes in wanted:
        low = -bound
        middle = math.nextafter(high, low)  # if not even this is accepted the bound has not sunk
        while episodes and low < middle < high:
            if accepted(middle, episodes):
                high = middle
            elif middle == math.nextafter(high, low):
                break
            else:
                low = middle
            middle = low + (high - low) / 2
        bounds.append(high)
    return np.array(bounds)


def _asymptotic(
    values: Degradations, alpha: float, tuned_for: int, least_episodes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means and margins after each episode, both ``(..., n)``."""
    _check(alpha)
    if tuned_for < 1:
        raise ValueError(f"a bound is tuned for at least one episode, not {tuned_for}")
    episodes = np.arange(1, values.shape[-1] + 1)
    first = values[..., :1]  # taken off first, so that equal values have no variance, not one of rounding
    means = np.cumsum(values - first, axis=-1) / episodes
    variances = np.maximum(np.cumsum((values - first) ** 2, axis=-1) / episodes - means**2, 0)
    scaled = episodes * (_tightest(alpha) / tuned_for)  # tρ²
    margins = np.sqrt(2 * (scaled + 1) / (episodes * scaled) * np.log1p(np.sqrt(scaled + 1) / (2 * alpha)))
    margins[: max(least_episodes - 1, 0)] = np.inf
    spreads = np.sqrt(variances)
    spreads[..., : max(least_episodes - 1, 0)] = 1  # no infinity times zero
    return first + means, spreads * margins


def _tightest(alpha: float) -> float:
    """The tρ² at which the margin at t is the smallest.

    WASKR tune the two-sided margin, whose square is (s + 1) / s (ln(s + 1) - 2 ln alpha) / t with s = tρ². It is the
    smallest where u exp(-u) = alpha² / e with u = s + 1: -u is Lambert's W (branch -1). The one-sided sequence uses the
    same with twice alpha (``OneSidedNormalMixture::best_rho`` in the authors' code), which is within 1% of its own
    smallest margin for alpha up to 1/4.
    """
    squared = max(2 * alpha, 1e-150) ** 2  # a square that is not lost in rounding; tuning need not be exact
    return float(-special.lambertw(-squared / math.e, k=-1).real) - 1


def _before(running: NDArray[np.float64], start: float) -> NDArray[np.float64]:
    """What was known before each episode: ``running`` one place later, with ``start`` first."""
    return np.concatenate([np.full_like(running[..., :1], start), running[..., :-1]], axis=-1)


def _check(alpha: float, bound: float = 1.0) -> None:
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must be above 0 and below 0.5, not {alpha}")
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"a bound must be a number above 0, not {bound}")


def _check_clipped(values: Degradations, bound: float) -> None:
    if not (np.abs(values) <= bound).all():
        raise ValueError(f"degradations must lie within [-{bound}, {bound}]: clip them first")
