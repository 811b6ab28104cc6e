"""Adaptation under a pattern as users of ``higher`` and of ``torchopt`` would write it: the peers of our programs.

Each adapts the plain network with PyTorch's batch normalisation, updates the active units of each step only, and ends
with the pass that leaves the support set's statistics, as plain PyTorch and our programs do.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import higher
import torch
import torchopt
from torch import Tensor, nn
from torch.func import functional_call

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import Adaptation

Adapt = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Support x and y in, parameters by name out."""


def with_higher(adaptation: Adaptation, plain: nn.Module, pattern: LambdaPattern) -> Adapt:
    """Adaptation by ``higher.innerloop_ctx`` without the graph that only an outer loop needs."""
    network = copy.deepcopy(plain)
    moving = {name for row in pattern.rows for name in adaptation.names_of(row)}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in moving)
    inner = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=adaptation.rate)

    def run(support_x: Tensor, support_y: Tensor) -> dict[str, Tensor]:
        with higher.innerloop_ctx(network, inner, track_higher_grads=False) as (adapted, optimizer):
            for _ in pattern.rows:
                optimizer.step(adaptation.loss(adapted(support_x), support_y))
            with torch.no_grad():
                adapted(support_x)
            return dict(adapted.named_parameters())

    return run


def with_torchopt(adaptation: Adaptation, plain: nn.Module, pattern: LambdaPattern) -> Adapt:
    """Adaptation by ``torchopt.FuncOptimizer`` on the active parameters."""
    network = copy.deepcopy(plain)
    names = sorted({name for row in pattern.rows for name in adaptation.names_of(row)})
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
    initial = dict(network.named_parameters())

    def run(support_x: Tensor, support_y: Tensor) -> dict[str, Tensor]:
        optimizer = torchopt.FuncOptimizer(torchopt.sgd(lr=adaptation.rate))
        active = tuple(initial[name].detach().clone().requires_grad_() for name in names)
        for _ in pattern.rows:
            outputs = functional_call(network, dict(zip(names, active, strict=True)), (support_x,))
            moved = optimizer.step(adaptation.loss(outputs, support_y), active)
            # Its steps keep the graph for an outer loop; adaptation in use has none.
            active = tuple(parameter.detach().requires_grad_() for parameter in moved)
        adapted = {**initial, **dict(zip(names, active, strict=True))}
        with torch.no_grad():
            functional_call(network, adapted, (support_x,))
        return adapted

    return run
