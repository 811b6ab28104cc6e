"""Plain PyTorch adaptation: what people write today, and the peer of ``speedup_over_plain``.

Copies the network, runs SGD on every parameter for the baseline's steps through autograd, and (under ``support``
statistics) passes the support set once more so that the copy's normalisation holds the statistics of the adapted
parameters. Normalisation is PyTorch's own fused ``BatchNorm``.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_service.domain.lambda_pattern import LambdaPattern
from workers.adaptation.inner_loop import Adaptation
from workers.adaptation.normalisation import EpisodeNorm


class AnyBatchNorm(_BatchNorm):
    """PyTorch's batch normalisation of ``N x C x ...`` inputs of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Every rank will do; ``nn.BatchNorm1d`` and its siblings differ in nothing else."""


def plain_network(network: nn.Module) -> nn.Module:
    """A copy of ``network`` with PyTorch's batch normalisation in place of :class:`EpisodeNorm`."""
    plain = copy.deepcopy(network)
    norms: dict[nn.Module, nn.Module] = {}
    # One module may have several names, and stays one.
    for name, module in list(plain.named_modules(remove_duplicate=False)):
        if isinstance(module, EpisodeNorm):
            if module not in norms:
                norms[module] = _batch_norm(module, next(network.parameters()))
            plain.set_submodule(name, norms[module])
    return plain


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
    full = LambdaPattern.full(len(adaptation.units), steps)
    return adapt_skipping(adaptation, plain, full, support_x, support_y)


def adapt_skipping(
    adaptation: Adaptation, plain: nn.Module, pattern: LambdaPattern, support_x: Tensor, support_y: Tensor
) -> nn.Module:
    """Adapt a copy of ``plain`` under a pattern by gradient skipping alone, the method of arXiv 2206.05930.

    Units that a step does not update ask for no gradient, so autograd skips what only they need and SGD passes them
    by; every step still runs the whole network forward. The arguments are those of :func:`adapt_plain`, with a pattern
    for its steps.
    """
    adapted = copy.deepcopy(plain)
    parameters = dict(adapted.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=adaptation.rate)
    for row in pattern.rows:
        active = set(adaptation.names_of(row))
        for name, parameter in parameters.items():
            parameter.requires_grad_(name in active)
        optimizer.zero_grad()
        adaptation.loss(adapted(support_x), support_y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    _refresh_statistics(adaptation, adapted, support_x)
    return adapted


def _batch_norm(norm: EpisodeNorm, like: Tensor) -> AnyBatchNorm:
    """Batch normalisation with the parameters of ``norm`` and buffers of the type and place of ``like``."""
    # Momentum 1: the running statistics are those of the last batch, here the support set.
    batch_norm = AnyBatchNorm(norm.channels, norm.eps, momentum=1.0, affine=False, device=like.device, dtype=like.dtype)
    batch_norm.register_parameter("weight", norm.weight)
    batch_norm.register_parameter("bias", norm.bias)
    return batch_norm


def _refresh_statistics(adaptation: Adaptation, adapted: nn.Module, support_x: Tensor) -> None:
    """Under ``support`` statistics, leave those of the adapted parameters in the normalisation, if there is any."""
    if adaptation.norm_statistics == "support" and any(isinstance(m, AnyBatchNorm) for m in adapted.modules()):
        with torch.no_grad():
            adapted(support_x)
