"""What a timing run compares: a pattern's program, plain PyTorch, gradient skipping alone, and prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.cost import multiply_adds
from workers.adaptation.device import synchronize
from workers.adaptation.inner_loop import Adaptation, AdaptedState, Parameters, adapt, predict
from workers.adaptation.plain import adapt_plain, adapt_skipping, plain_network
from workers.adaptation.program import trace
from workers.adaptation.timing import Subject


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

    def pattern(self, pattern: LambdaPattern) -> tuple[Subject, int]:
        """Adaptation under a pattern by its pruned program, and the multiply-adds it takes."""
        names = {name for row in pattern.rows for name in self.adaptation.names_of(row)}

        def adapted(parameters: Parameters, x: torch.Tensor, y: torch.Tensor) -> tuple[Any, Any]:
            state = adapt(self.adaptation, parameters, pattern, x, y)
            return {name: state.parameters[name] for name in names}, state.statistics

        x, y, _, _ = self.episodes[0]
        program = trace(adapted, self.parameters, x, y)
        return self._subject(lambda x, y, _: program(self.parameters, x, y)), multiply_adds(program)

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
