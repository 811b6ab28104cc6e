"""Normalisation by the statistics of an episode's own examples, and whose statistics those are.

Ordinary batch normalisation keeps running statistics, which is state hidden from a pure inner step, and makes each
prediction depend on what else is in the batch. :class:`EpisodeNorm` has no state: in a forward pass it either computes
the statistics of the batch before it or applies statistics that it is given. :class:`FrozenNorm` applies the running
statistics of a trained network as constants. One of them takes the place of every batch normalisation of PyTorch's;
which one is the caller's choice and never that of ``train()`` and ``eval()``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from search_service.domain.errors import UnsupportedNetwork

Statistics = dict[str, tuple[Tensor, Tensor]]
"""Name of each :class:`EpisodeNorm` in a network -> (mean, inverse standard deviation), each a ``(C,)``-dim tensor."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""PyTorch's batch normalisations, whose forward pass is known; a subclass may do anything."""


class EpisodeNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, arXiv 1502.03167, section 3) without running statistics.

    Normalises ``N x C x ...`` inputs per channel, with the biased variance, then scales and shifts if ``affine``.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels)) if affine else None
        self.bias = nn.Parameter(torch.zeros(channels)) if affine else None
        self.channels = channels
        self.eps = eps
        self._given: tuple[Tensor, Tensor] | None = None
        self._sink: tuple[Statistics, str] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``: a ``N x C x ...``-dim tensor."""
        if self._given is not None:
            mean, inverse_std = self._given
            shape = (1, -1) + (1,) * (x.dim() - 2)
            scale = inverse_std if self.weight is None else self.weight * inverse_std
            shift = -mean * scale if self.bias is None else self.bias - mean * scale
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


class FrozenNorm(nn.Module):
    """Normalisation of ``N x C x ...`` inputs by stored statistics that no forward pass changes.

    Args:
        running_mean: ``C``-dim tensor.
        running_var: ``C``-dim tensor.
        weight: ``C``-dim scale, or none.
        bias: ``C``-dim shift, or none.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        running_mean: Tensor,
        running_var: Tensor,
        weight: nn.Parameter | None,
        bias: nn.Parameter | None,
        eps: float,
    ) -> None:
        super().__init__()
        self.register_buffer("running_mean", running_mean)
        self.register_buffer("running_var", running_var)
        self.weight = weight
        self.bias = bias
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x``: a ``N x C x ...``-dim tensor."""
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


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
    """Within it, a forward pass of ``network`` normalises with ``statistics`` instead of its batch's own.

    Raises:
        UnsupportedNetwork: a normalisation has none, because the pass over the support set did not run it.
    """
    norms = dict(_norms(network))
    if missing := sorted(norms.keys() - statistics.keys()):
        raise UnsupportedNetwork(f"normalisations without statistics of the support set: {', '.join(missing)}")
    try:
        for name, norm in norms.items():
            norm._given = statistics[name]
        yield
    finally:
        for norm in norms.values():
            norm._given = None


def replace_batch_norms(network: nn.Module, running: bool) -> tuple[nn.Module, tuple[str, ...]]:
    """A network whose normalisation has no hidden state, and the names of the modules replaced for that.

    Parameters keep their names. Batch normalisation becomes :class:`FrozenNorm` where ``running`` statistics are
    wanted, :class:`EpisodeNorm` otherwise; so does instance normalisation that tracks running statistics, save that
    its own statistics are those of each example, so that otherwise it only stops tracking.

    Args:
        network: left as it is; copied where it has buffers or something has to be replaced.
        running: whether to normalise by the running statistics that the network holds.

    Raises:
        UnsupportedNetwork: running statistics are wanted and there are none, or a module extends PyTorch's batch
            normalisation in a way that is not known.
    """
    kind = type(network).__name__
    if running and (norms := [name for name, _ in _norms(network)]):
        raise UnsupportedNetwork(f"{kind}: {norms[0]} is EpisodeNorm, which has no running statistics")
    if not any(map(_tracks, network.modules())) and not any(True for _ in network.buffers()):
        return network, ()
    # Copied for the sake of other buffers too: a forward pass that is refused for changing them has changed them.
    network = copy.deepcopy(network)
    replaced: dict[nn.Module, nn.Module] = {}
    names = []
    # One module may have several names, and stays one.
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if _tracks(module):
            if module not in replaced:
                replaced[module] = _stateless(module, f"{kind}: {name}", running)
            network.set_submodule(name, replaced[module])
            names.append(name)
    return network, tuple(names)


def _tracks(module: nn.Module) -> TypeGuard[_BatchNorm | _InstanceNorm]:
    """Whether a module normalises by running statistics or by those of whatever batch comes along."""
    return isinstance(module, _BatchNorm) or (isinstance(module, _InstanceNorm) and module.track_running_stats)


def _stateless(module: _BatchNorm | _InstanceNorm, name: str, running: bool) -> nn.Module:
    """What takes the place of ``module``, with its parameters; ``name`` is for errors."""
    if isinstance(module, _BatchNorm) and type(module) not in BATCH_NORMS:
        raise UnsupportedNetwork(
            f"{name} is {type(module).__name__}, whose statistics are a hidden state or the batch's: use EpisodeNorm "
            "or one of PyTorch's own batch normalisations in its place"
        )
    if running:
        if module.running_mean is None or module.running_var is None:
            raise UnsupportedNetwork(f"{name} is {type(module).__name__} that holds no running statistics")
        return FrozenNorm(module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    if isinstance(module, _InstanceNorm):
        module.track_running_stats = False
        module.running_mean = module.running_var = module.num_batches_tracked = None
        return module
    norm = EpisodeNorm(module.num_features, module.eps, affine=False)
    norm.weight, norm.bias = module.weight, module.bias
    return norm


def _norms(network: nn.Module) -> Iterator[tuple[str, EpisodeNorm]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, EpisodeNorm))
