"""Small networks and episodes, in float64 unless asked otherwise, on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from workers.adaptation.inner_loop import Adaptation, classification_loss, regression_loss
from workers.adaptation.networks import MLP, Conv4

WAYS = 3
SIDE = 16  # pixels


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_adaptation() -> Callable[..., Adaptation]:
    """`make_adaptation(kind, **fields)`: of "max" or "stride" (conv4), "mlp" (classes) or "regression" (an mlp)."""

    def make(kind: str, dtype: torch.dtype = torch.float64, rate: float = 0.3, **fields: Any) -> Adaptation:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            network: nn.Module
            if kind == "mlp":
                network = MLP((6,), WAYS, (5, 4))
            elif kind == "regression":
                network = MLP((1,), 1, (5, 4))
            else:
                network = Conv4((1, SIDE, SIDE), WAYS, 4, "max" if kind == "max" else "stride")
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))  # normalisation starts at exactly 1 and 0
        loss = regression_loss if kind == "regression" else classification_loss
        return Adaptation.of(network.to(dtype), loss, rate, **fields)

    return make


@pytest.fixture(scope="session")
def make_episodes() -> Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]:
    """`make_episodes(kind, count)`: support x and y, query x and y, each with a leading dimension of `count`."""

    def make(
        kind: str, count: int, dtype: torch.dtype = torch.float64, shots: int = 1, queries: int = 2, seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shape = {"mlp": (6,), "regression": (1,)}.get(kind, (1, SIDE, SIDE))

        def part(examples: int) -> tuple[Tensor, Tensor]:
            x = torch.randn(count, examples * WAYS, *shape, generator=generator, dtype=torch.float64).to(dtype)
            if kind == "regression":
                return x, 2 * torch.sin(x)
            labels = torch.arange(WAYS).repeat_interleave(examples).repeat(count, 1)
            offset = (labels.to(dtype) - 1).reshape(count, -1, *(1 for _ in shape))
            return x + offset, labels

        return (*part(shots), *part(queries))

    return make
