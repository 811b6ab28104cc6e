"""Model-agnostic meta-learning: the outer gradient of a batch of tasks.

Finn et al., arXiv 1703.03400, algorithm 1 (second order), and its first-order approximation (section 5.2 there), in
which the inner gradients are constants. One task's outer gradient is a pure function, traced once and called per task.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import Adaptation, Parameters, adapt, predict
from workers.adaptation.lanes import WAVE, Lanes, batched
from workers.adaptation.program import Program, trace


@dataclass
class OuterGradient:
    """The outer loss of adaptation under a pattern and its gradient, averaged over a batch of tasks.

    Args:
        adaptation: how the network adapts; its ``create_graph`` says first or second order.
        pattern: the pattern adapted under, S rows of U units.
        lanes: where tasks are computed side by side; their number does not change the sum.
        tasks_at_once: tasks that one program call computes together (``torch.vmap``).
    """

    adaptation: Adaptation
    pattern: LambdaPattern
    lanes: Lanes = field(default_factory=Lanes)
    tasks_at_once: int = 1
    _programs: dict[Any, Program] = field(default_factory=dict, repr=False)

    def one_task(
        self, parameters: Parameters, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Parameters, Tensor]:
        """Gradient of one task's query loss after adaptation by all parameters, and the loss (untraced)."""

        def query_loss(parameters: Parameters) -> Tensor:
            state = adapt(self.adaptation, parameters, self.pattern, support_x, support_y)
            return self.adaptation.loss(predict(self.adaptation, state, query_x), query_y)

        return grad_and_value(query_loss)(parameters)

    @torch.no_grad()
    def __call__(
        self, parameters: Parameters, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> tuple[Parameters, float]:
        """Mean gradient and mean loss over T tasks.

        Args:
            parameters: all parameters.
            support_x: ``T x N x ...``-dim tensor.
            support_y: ``T x N`` labels or ``T x N x outputs`` targets.
            query_x: ``T x M x ...``-dim tensor.
            query_y: ``T x M`` labels or ``T x M x outputs`` targets.
        """
        tasks = support_x.shape[0]
        if not tasks:
            raise ValueError("a batch of tasks has at least one task")
        # Sums of our own: a program may return one tensor as the gradient of two parameters.
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        loss = torch.zeros((), device=support_x.device)
        calls = []
        for start in range(0, tasks, self.tasks_at_once):
            stop = start + self.tasks_at_once
            chunk = [tensor[start:stop] for tensor in (support_x, support_y, query_x, query_y)]
            calls.append((self._program(parameters, chunk), chunk))
        for wave in batched(calls, WAVE * self.lanes.count):
            for gradient, chunk_loss in self.lanes.map(lambda call: call[0](parameters, *call[1]), wave):
                loss = loss + chunk_loss
                torch._foreach_add_(list(total.values()), [gradient[name] for name in total])
        return {name: value / tasks for name, value in total.items()}, float(loss) / tasks

    def _program(self, parameters: Parameters, chunk: Sequence[Tensor]) -> Program:
        """Sum of the gradients, and of the losses, of a chunk of tasks."""
        key = tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in chunk)
        if key not in self._programs:

            def summed(parameters: Parameters, *tasks: Tensor) -> tuple[Parameters, Tensor]:
                if tasks[0].shape[0] == 1:
                    support_x, support_y, query_x, query_y = (tensor[0] for tensor in tasks)
                    return self.one_task(parameters, support_x, support_y, query_x, query_y)
                gradient, loss = vmap(self.one_task, in_dims=(None, 0, 0, 0, 0))(parameters, *tasks)
                return {name: value.sum(0) for name, value in gradient.items()}, loss.sum()

            self._programs[key] = trace(summed, parameters, *chunk)
        return self._programs[key]
