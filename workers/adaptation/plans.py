"""How judging is run on a device - episodes at once, memory layout, lanes - found by measuring while it works.

Nothing is measured for measuring's sake: every trial judges episodes that were to be judged. What a trial costs is the
tracing of its program, so one is made only when the work seen so far, with what is still to be done at once, is worth
several tracings. The way goes uphill: only the neighbours of the best plan so far are tried.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf

from workers.adaptation.layout import Layout

PAYS_AFTER = 4.0
"""Seconds of work for which one second of preparing another plan is worth spending."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to run the same judging."""

    episodes: int
    """Episodes in one call of a program: one, or several by ``torch.vmap``."""
    layout: Layout
    lanes: int
    """Calls that run side by side."""

    def __str__(self) -> str:
        return f"{self.episodes} at once, {self.layout.replace('_', ' ')}, {self.lanes} lane{'s'[: self.lanes > 1]}"


@dataclass(frozen=True, slots=True)
class Choices:
    """What plans may differ in."""

    sizes: Sequence[int]
    """Episodes at once, ascending."""
    layouts: Sequence[Layout]
    lanes: Sequence[int]

    @property
    def first(self) -> Plan:
        """The plan to begin with: the fewest episodes at once, the first layout, the first number of lanes."""
        return Plan(self.sizes[0], self.layouts[0], self.lanes[0])

    def neighbours(self, plan: Plan, most: int) -> Iterator[Plan]:
        """Plans that differ from ``plan`` in one choice: other lanes, the next larger size up to ``most``, layouts."""
        larger = [min(size, most) for size in self.sizes if size > plan.episodes and most > plan.episodes]
        yield from (replace(plan, lanes=lanes) for lanes in self.lanes if lanes != plan.lanes)
        yield from (replace(plan, episodes=size) for size in larger[:1])
        yield from (replace(plan, layout=layout) for layout in self.layouts if layout != plan.layout)


class Tuning:
    """Which plan to use next, from how long each took so far. One for each kind of work.

    Args:
        subject: what is being run, for the log.
        choices: what plans may differ in.
    """

    def __init__(self, subject: str, choices: Choices) -> None:
        self.subject = subject
        self.choices = choices
        self.seconds: dict[Plan, float] = {}
        """Plan -> seconds for one evaluation (a pattern after one of its steps, on one episode), the least seen."""
        self._worked_s = 0.0
        self._preparation_s = 0.0

    def next(self, episodes: int, evaluations: int, most: int) -> Plan:
        """The plan for what comes next: the fastest for it so far, or one to try.

        Args:
            episodes: how many are still to be judged now; no plan with more at once is tried.
            evaluations: of each of them.
            most: episodes at once that a block has and memory allows.
        """
        if not self.seconds:
            return self.choices.first

        def expected_s(plan: Plan) -> float:
            size = min(plan.episodes, most)
            return self.seconds[plan] * evaluations * ceil(episodes / size) * size

        best = min(self.seconds, key=expected_s)
        if self._worked_s + expected_s(best) >= PAYS_AFTER * self._preparation_s:
            for plan in self.choices.neighbours(best, most):
                if plan not in self.seconds and plan.episodes <= episodes:
                    return plan
        return best

    def record(self, plan: Plan, evaluations: int, seconds: float, preparation_s: float) -> None:
        """Note that ``evaluations`` took ``seconds`` under a plan, after ``preparation_s`` of making it ready."""
        is_new = plan not in self.seconds
        self.seconds[plan] = min(seconds / evaluations, self.seconds.get(plan, inf))
        self._worked_s += seconds
        if not is_new:
            return
        self._worked_s = 0.0
        self._preparation_s = preparation_s
        if len(self.seconds) > 1:
            figures = "; ".join(f"{plan} {1e3 * value:.2f} ms" for plan, value in self.seconds.items())
            fastest = min(self.seconds, key=self.seconds.__getitem__)
            logger.info("judging %s: %s is fastest (for one evaluation: %s)", self.subject, fastest, figures)
