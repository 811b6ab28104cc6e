"""Normalisation by the statistics of an episode's own examples, and whose statistics those are.

Ordinary batch normalisation keeps running statistics, which is state hidden from a pure inner step, and makes each
prediction depend on what else is in the batch. :class:`EpisodeNorm` has no state: in a forward pass it either computes
the statistics of the batch before it or applies statistics that it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from search_service.domain.errors import UnsupportedNetwork

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Name of each :class:`EpisodeNorm` in a network -> (mean, inverse standard deviation), each a ``(C,)``-dim tensor."""


class EpisodeNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167, section 3) without running statistics.

    Normalises ``N x C x ...`` inputs per channel, with the biased variance, then scales and shifts.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps
        self._given: tuple[Tensor, Tensor] | None = None
        self._sink: tuple[Statistics, str] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``: a ``N x C x ...``-dim tensor."""
        if self._given is not None:
            mean, inverse_std = self._given
            shape = (1, -1) + (1,) * (x.dim() - 2)
            scale = self.weight * inverse_std
            shift = self.bias - mean * scale
            return torch.addcmul(shift.view(shape), x, scale.view(shape))
        output, mean, inverse_std = torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps)
        if self._sink is not None:
            if x.requires_grad:  # the kernel's own statistics carry no gradient; an outer loop needs it
                variance, mean = torch.var_mean(x, dim=[0, *range(2, x.dim())], correction=0)
                inverse_std = torch.rsqrt(variance + self.eps)
            statistics, name = self._sink
            if name in statistics:
                raise UnsupportedNetwork(f"normalisation {name} runs twice in a forward pass: give each use its own")
            statistics[name] = (mean, inverse_std)
        return output


@contextmanager
def collecting(network: nn.Module) -> Iterator[Statistics]:
    """Within it, a forward pass of ``network`` leaves the statistics of its batch in the yielded dictionary."""
    statistics: Statistics = {}
    norms = dict(_norms(network))
    try:
        for name, norm in norms.items():
            norm._sink = (statistics, name)
        yield statistics
    finally:
        for norm in norms.values():
            norm._sink = None


@contextmanager
def applying(network: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Within it, a forward pass of ``network`` normalises with ``statistics`` instead of its batch's own."""
    norms = dict(_norms(network))
    try:
        for name, norm in norms.items():
            norm._given = statistics[name]
        yield
    finally:
        for norm in norms.values():
            norm._given = None


def refuse_batch_norm(network: nn.Module) -> None:
    """Refuse PyTorch's batch normalisation where it would normalise by whatever batch comes along.

    Raises:
        UnsupportedNetwork: it would; in evaluation mode, with running statistics, it does not.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise UnsupportedNetwork(
                f"{type(network).__name__}: {name} is {type(module).__name__}, whose statistics are a hidden state or "
                "the batch's: use EpisodeNorm in its place"
            )


def _norms(network: nn.Module) -> Iterator[tuple[str, EpisodeNorm]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, EpisodeNorm))
