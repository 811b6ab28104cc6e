"""Plain PyTorch adaptation: what people write today, and the peer of ``speedup_over_plain``.

Copies the network, runs SGD on every parameter for the baseline's steps through autograd, and (under ``support``
statistics) passes the support set once more so that the copy's normalisation holds the statistics of the adapted
parameters. Normalisation is PyTorch's own fused ``BatchNorm``.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import Adaptation
from workers.adaptation.normalisation import EpisodeNorm


def plain_network(network: nn.Module) -> nn.Module:
    """A copy of ``network`` with PyTorch's batch normalisation in place of :class:`EpisodeNorm`."""
    plain = copy.deepcopy(network)
    for name, module in list(plain.named_modules()):
        if isinstance(module, EpisodeNorm):
            # Momentum 1: the running statistics are those of the last batch, here the support set.
            weight = module.weight
            norm = nn.BatchNorm2d(
                weight.numel(), eps=module.eps, momentum=1.0, device=weight.device, dtype=weight.dtype
            )
            norm.weight, norm.bias = module.weight, module.bias
            plain.set_submodule(name, norm)
    return plain.train()


def adapt_plain(
    adaptation: Adaptation, plain: nn.Module, steps: int, support_x: Tensor, support_y: Tensor
) -> nn.Module:
    """Adapt a copy of ``plain`` for ``steps`` steps of SGD on all parameters.

    Args:
        adaptation: loss, rate and statistics.
        plain: from :func:`plain_network`, with the checkpoint's parameters.
        steps: inner steps.
        support_x: ``N x ...``-dim tensor.
        support_y: ``N``-dim labels or ``N x outputs``-dim targets.
    """
    adapted = copy.deepcopy(plain)
    optimizer = torch.optim.SGD(adapted.parameters(), lr=adaptation.rate)
    for _ in range(steps):
        optimizer.zero_grad()
        adaptation.loss(adapted(support_x), support_y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    _refresh_statistics(adaptation, adapted, support_x)
    return adapted


def adapt_skipping(
    adaptation: Adaptation, plain: nn.Module, pattern: LambdaPattern, support_x: Tensor, support_y: Tensor
) -> nn.Module:
    """Adapt a copy of ``plain`` under a pattern by gradient skipping alone, the method of arXiv 2206.05930.

    Units that a step does not update ask for no gradient, so autograd skips what only they need; every step still runs
    the whole network forward. The function's arguments are those of :func:`adapt_plain`, with a pattern for its steps.
    """
    adapted = copy.deepcopy(plain)
    parameters = dict(adapted.named_parameters())
    for row in pattern.rows:
        active = set(adaptation.names_of(row))
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in active)
        optimizer = torch.optim.SGD([parameters[name] for name in sorted(active)], lr=adaptation.rate)
        optimizer.zero_grad()
        adaptation.loss(adapted(support_x), support_y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    _refresh_statistics(adaptation, adapted, support_x)
    return adapted


def _refresh_statistics(adaptation: Adaptation, adapted: nn.Module, support_x: Tensor) -> None:
    """Under ``support`` statistics, leave those of the adapted parameters in the normalisation, if there is any."""
    if adaptation.norm_statistics == "support" and any(isinstance(m, nn.BatchNorm2d) for m in adapted.modules()):
        with torch.no_grad():
            adapted(support_x)
