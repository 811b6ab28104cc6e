"""Networks that searches may name; any other ``nn.Module`` adapts as well (see ``workers.adaptation.units``)."""

import torch
from torch import nn

from search_service.domain.search import NetworkSpec
from workers.adaptation.networks.conv4 import Conv4
from workers.adaptation.networks.mlp import MLP

__all__ = ["MLP", "Conv4", "build_network"]


def build_network(spec: NetworkSpec, input_shape: tuple[int, ...], outputs: int, seed: int) -> nn.Module:
    """The network of a spec, with initial parameters drawn from ``seed``; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.network == "conv4":
            channels, height, width = input_shape
            return Conv4((channels, height, width), outputs, spec.filters or 64, spec.pooling or "max")
        return MLP(input_shape, outputs, spec.hidden or ())
