"""Model-agnostic meta-learning: the outer gradient of a batch of tasks.

Finn et al., arXiv 1703.03400, algorithm 1 (second order), and its first-order approximation (section 5.2 there), in
which the inner gradients are constants. One task's outer gradient is a pure function, traced once and called per task.

Everything is float32. Under automatic mixed precision (bfloat16 convolutions, conv4 with 64 filters, fresh parameters)
second-order gradients were off by 0.6 of their norm after one inner step and by all of it after five, and took as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import (
    Adaptation,
    AdaptedState,
    Parameters,
    adapt,
    inner_step,
    predict,
    support_statistics,
)
from workers.adaptation.lanes import WAVE, Lanes, batched
from workers.adaptation.layout import channels_last
from workers.adaptation.program import trace
from workers.adaptation.runtime import Flat, compile_program
from workers.meta_training.execution import Execution


@dataclass
class OuterGradient:
    """The outer loss of adaptation under a pattern and its gradient, averaged over a batch of tasks.

    Args:
        adaptation: how the network adapts; its ``create_graph`` says first or second order.
        pattern: the pattern adapted under, S rows of U units.
        lanes: where tasks are computed side by side; their number does not change the sum.
        execution: how the tasks are computed; beyond rounding it does not change the sum either.
        factors: of the base rate, one per row; all 1 unless given.
    """

    adaptation: Adaptation
    pattern: LambdaPattern
    lanes: Lanes = field(default_factory=Lanes)
    execution: Execution = field(default_factory=Execution)
    factors: tuple[float, ...] = ()
    _programs: dict[Any, Flat] = field(default_factory=dict, repr=False, init=False)

    def one_task(
        self,
        parameters: Parameters,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        step_weights: Tensor | None = None,
    ) -> tuple[Parameters, Tensor]:
        """Gradient of one task's query loss after adaptation by all parameters, and the loss (untraced).

        Args:
            parameters: all parameters.
            support_x: ``N x ...``-dim tensor.
            support_y: ``N`` labels or ``N x outputs`` targets.
            query_x: ``M x ...``-dim tensor.
            query_y: ``M`` labels or ``M x outputs`` targets.
            step_weights: ``S``-dim tensor, what the query loss after each inner step counts; None for the last alone.
        """

        def loss_of(state: AdaptedState) -> Tensor:
            return self.adaptation.loss(predict(self.adaptation, state, query_x), query_y)

        def query_loss(parameters: Parameters) -> Tensor:
            if step_weights is None:
                return loss_of(adapt(self.adaptation, parameters, self.pattern, support_x, support_y, self.factors))
            losses = []
            for row, factor in zip(self.pattern.rows, self.factors or (1.0,) * self.pattern.steps, strict=True):
                parameters = inner_step(self.adaptation, parameters, row, support_x, support_y, factor)
                statistics = support_statistics(self.adaptation, parameters, support_x)
                losses.append(loss_of(AdaptedState(parameters, statistics)))
            return torch.stack(losses) @ step_weights

        return grad_and_value(query_loss)(parameters)

    @torch.no_grad()
    def __call__(
        self,
        parameters: Parameters,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        step_weights: Tensor | None = None,
    ) -> tuple[Parameters, float]:
        """Mean gradient and mean loss over T tasks.

        Args:
            parameters: all parameters.
            support_x: ``T x N x ...``-dim tensor.
            support_y: ``T x N`` labels or ``T x N x outputs`` targets.
            query_x: ``T x M x ...``-dim tensor.
            query_y: ``T x M`` labels or ``T x M x outputs`` targets.
            step_weights: ``S``-dim tensor, what the query loss after each inner step counts; None for the last alone.

        Raises:
            ValueError: there are no tasks, or not one weight per step.
            CompilationFailed: the execution is compiled and the compiler refused.
        """
        tasks = support_x.shape[0]
        if not tasks:
            raise ValueError("a batch of tasks has at least one task")
        if step_weights is not None and step_weights.shape != (len(self.pattern.rows),):
            raise ValueError(f"weights of shape {tuple(step_weights.shape)} for {len(self.pattern.rows)} inner steps")
        shared = [self._laid_out(parameter) for parameter in parameters.values()]
        weights = [] if step_weights is None else [step_weights]
        calls = []
        for start in range(0, tasks, self.execution.tasks_at_once):
            stop = start + self.execution.tasks_at_once
            chunk = [tensor[start:stop] for tensor in (support_x, support_y, query_x, query_y)]
            arguments = [*shared, *weights, *chunk]
            calls.append((self._program(list(parameters), arguments), arguments))
        # Sums of our own: a program may return one tensor as the gradient of two parameters.
        total = [torch.zeros_like(tensor) for tensor in shared]
        loss = torch.zeros((), device=support_x.device)
        for wave in batched(calls, WAVE * self.lanes.count):
            for *gradients, chunk_loss in self.lanes.map(lambda call: call[0](*call[1]), wave):
                loss = loss + chunk_loss
                torch._foreach_add_(total, gradients)
        return dict(zip(parameters, torch._foreach_div(total, tasks), strict=True)), float(loss) / tasks

    def _laid_out(self, tensor: Tensor) -> Tensor:
        """Channels innermost where that is faster: in compiled programs, task by task.

        Eager second derivatives mix layouts and lose by it what the convolutions gain; inside ``vmap`` no layout can be
        asked for.
        """
        return channels_last(tensor) if self.execution == Execution(1, "compiled") else tensor

    def _program(self, names: Sequence[str], arguments: Sequence[Tensor]) -> Flat:
        """Sums of the gradients by each parameter, and of the losses, of a chunk of tasks."""
        key = (self.execution, tuple((tensor.shape, tensor.dtype, tensor.device) for tensor in arguments))
        if key not in self._programs:

            def summed(*arguments: Tensor) -> list[Tensor]:
                parameters = dict(zip(names, arguments, strict=False))
                *weights, support_x, support_y, query_x, query_y = arguments[len(names) :]
                tasks = (support_x, support_y, query_x, query_y)
                if support_x.shape[0] == 1:
                    task = [self._laid_out(tensor[0]) for tensor in tasks]
                    gradient, loss = self.one_task(parameters, *task, *weights)
                    return [*gradient.values(), loss]
                mapped = (None, 0, 0, 0, 0, *[None] * len(weights))
                gradients, losses = vmap(self.one_task, in_dims=mapped)(parameters, *tasks, *weights)
                return [*(value.sum(0) for value in gradients.values()), losses.sum()]

            module = trace(summed, *arguments)
            if self.execution.runtime == "compiled":
                device = arguments[-1].device
                self._programs[key], _ = compile_program(module, arguments, device, per_call=len(arguments))
            else:
                self._programs[key] = module
        return self._programs[key]
