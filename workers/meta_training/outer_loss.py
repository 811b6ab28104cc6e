"""Which query losses the outer loop minimises: the last inner step's, or every step's, weighted.

Antoniou et al., arXiv 1810.09502 ("MAML++"), section 4, "Multi-step loss optimization": the query loss after every
inner step counts, all alike at first, and the weights move to the last step's while training goes on. It stabilises
training through many inner steps: the last loss alone reaches the first step only through all the others.
"""

from __future__ import annotations

ANNEALED_SHARE = 0.1
"""The part of the iterations in which the weights move to the last step: 10 of 100 epochs in that paper's Omniglot
settings."""


def step_weights(steps: int, iteration: int, iterations: int) -> tuple[float, ...] | None:
    """Weights of the query losses after each of ``steps`` inner steps; None once only the last step's counts.

    All are ``1 / steps`` at iteration 0; those of the earlier steps fall linearly to zero over ``ANNEALED_SHARE`` of
    the iterations, and what they lose the last one gains, so that the weights always sum to one. (The paper's code
    changes them once an epoch and holds the earlier ones at 0.03 / steps until the end of that part.)

    Args:
        steps: inner steps.
        iteration: outer steps done.
        iterations: outer steps of the whole training.
    """
    annealed = iteration / (ANNEALED_SHARE * iterations)
    if steps == 1 or annealed >= 1:
        return None
    earlier = (1 - annealed) / steps
    return (*[earlier] * (steps - 1), 1 - (steps - 1) * earlier)
