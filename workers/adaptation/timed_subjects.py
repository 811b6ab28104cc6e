"""What a timing run compares: candidates' programs, plain PyTorch, gradient skipping alone, and prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from search_service.domain.candidate import Candidate, Precision
from search_service.domain.lambda_pattern import LambdaPattern
from search_service.domain.search import Runtime
from workers.adaptation.candidate_program import CandidateProgram, candidate_program
from workers.adaptation.device import synchronize
from workers.adaptation.inner_loop import Adaptation, AdaptedState, Parameters, adapt, predict
from workers.adaptation.layout import Layout, layouts_of
from workers.adaptation.plain import adapt_plain, adapt_skipping, plain_network
from workers.adaptation.program import trace
from workers.adaptation.timing import Subject, clock_of

LAYOUT_CALLS = 5
"""Calls of each layout by which the faster one is chosen, after one to warm up."""


class TimedSubjects:
    """Makes the subjects of a timing run from one model and a few episodes.

    Args:
        adaptation: how the network adapts.
        parameters: the checkpoint's parameters, on the device.
        episodes: support x and y, query x and y of each episode, on the device; rounds go through them in turn.
        device: where the subjects run.
    """

    def __init__(
        self,
        adaptation: Adaptation,
        parameters: Parameters,
        episodes: Sequence[tuple[torch.Tensor, ...]],
        device: torch.device,
    ) -> None:
        self.adaptation = adaptation
        self.parameters = parameters
        self.episodes = episodes
        self.device = device
        self._layouts: dict[tuple[int | None, Precision], Layout] = {}

    def program(self, candidate: Candidate, runtime: Runtime = "eager") -> CandidateProgram:
        """A candidate's program, in the layout that is fastest for it here.

        The layout is measured on the first candidate of each lowest active unit and precision, in the eager runtime;
        others with the same frozen prefix follow it.

        Raises:
            CompilationFailed: the runtime is ``compiled`` and the compiler refused.
        """
        kind = (candidate.pattern.lowest_active_unit, candidate.precision)
        if kind in self._layouts:
            chosen = self._traced(candidate, self._layouts[kind])
        else:
            programs = [self._traced(candidate, layout) for layout in layouts_of(self.parameters.values())]
            chosen = min(programs, key=self._seconds_of) if len(programs) > 1 else programs[0]
            self._layouts[kind] = chosen.layout
        return chosen.compiled() if runtime == "compiled" else chosen

    def candidate(self, program: CandidateProgram) -> Subject:
        """Adaptation by a candidate's program."""
        return self._subject(lambda x, y, _: program(x, y))

    def plain(self, steps: int) -> Subject:
        """Adaptation of all units by plain PyTorch."""
        network = plain_network(self.adaptation.network)
        return self._with_autograd(lambda x, y: adapt_plain(self.adaptation, network, steps, x, y))

    def skipping(self, pattern: LambdaPattern) -> Subject:
        """Adaptation under a pattern by gradient skipping alone."""
        network = plain_network(self.adaptation.network)
        return self._with_autograd(lambda x, y: adapt_skipping(self.adaptation, network, pattern, x, y))

    def prediction(self, queries: int | None) -> Subject:
        """Prediction of the first ``queries`` query examples, or of all, from an adapted state."""
        x, y, query_x, _ = self.episodes[0]
        full = LambdaPattern.full(len(self.adaptation.units), 1)
        state = adapt(self.adaptation, self.parameters, full, x, y)

        def predicted(parameters: Parameters, statistics: Any, query_x: torch.Tensor) -> torch.Tensor:
            return predict(self.adaptation, AdaptedState(parameters, statistics), query_x)

        program = trace(predicted, state.parameters, state.statistics, query_x[:queries])
        return self._subject(lambda _x, _y, query_x: program(state.parameters, state.statistics, query_x[:queries]))

    def _traced(self, candidate: Candidate, layout: Layout) -> CandidateProgram:
        x, y, _, _ = self.episodes[0]
        return candidate_program(self.adaptation, self.parameters, candidate, x, y, layout)

    def _seconds_of(self, program: CandidateProgram) -> float:
        clock = clock_of(self.device)
        subject = self.candidate(program)
        subject(0)
        samples = []
        for number in range(LAYOUT_CALLS):
            before = clock.wall()
            subject(number)
            samples.append(clock.wall() - before)
        return min(samples)

    def _with_autograd(self, run: Callable[[torch.Tensor, torch.Tensor], object]) -> Subject:
        def subject(number: int) -> None:
            x, y, _, _ = self.episodes[number % len(self.episodes)]
            run(x, y)
            synchronize(self.device)

        return subject

    def _subject(self, run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], object]) -> Subject:
        def subject(number: int) -> None:
            x, y, query_x, _ = self.episodes[number % len(self.episodes)]
            with torch.no_grad():
                run(x, y, query_x)
            synchronize(self.device)

        return subject
