"""A forward pass is a function: networks that remember something are refused, and attention can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev

from search_service.domain.errors import UnsupportedNetwork
from search_service.domain.lambda_pattern import LambdaPattern
from tests.workers.adaptation.any_networks import build, episode
from workers.adaptation.forward import forward
from workers.adaptation.inner_loop import Adaptation, adapt, classification_loss
from workers.adaptation.program import trace

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(3).repeat(2)


class Remembering(nn.Module):
    """A linear layer that leaves something behind in a buffer."""

    def __init__(self, remember: Callable[[Any, Tensor], object]) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("memory", torch.zeros(4))
        self.remember = remember

    def forward(self, x: Tensor) -> Tensor:
        self.remember(self, x)
        return torch.as_tensor(self.head(x))


def written(network: Any, x: Tensor) -> None:
    network.memory.copy_(x.mean(0))


def counted(network: Any, x: Tensor) -> None:
    network.memory.add_(1)


def part(network: Any, x: Tensor) -> None:
    network.memory[:2] = x.mean()


def assigned(network: Any, x: Tensor) -> None:
    network.memory = 0.9 * network.memory + x.mean(0).detach()


def created(network: Any, x: Tensor) -> None:
    network.register_buffer("memory_too", x.mean(0).detach())


STATEFUL = {
    "written": (Remembering(written), "Remembering: a forward pass changes memory;"),
    "counted": (Remembering(counted), "Remembering: a forward pass changes memory;"),
    "part": (Remembering(part), "Remembering: a forward pass changes memory;"),
    "assigned": (Remembering(assigned), "Remembering: a forward pass changes memory;"),
    "created": (Remembering(created), "Remembering: a forward pass changes memory_too;"),
    "spectral norm": (
        nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))),
        r"changes 0\.parametrizations\.weight\.0\._u, 0\.parametrizations\.weight\.0\._v;",
    ),
}


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("traced", [False, True])
def test_a_network_that_remembers_is_refused_by_name_and_left_as_it_was(name: str, traced: bool) -> None:
    network, reason = STATEFUL[name]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adaptation = Adaptation.of(network.train(), classification_loss, 0.1)
    pattern = LambdaPattern.full(1, 2)

    def adapted(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> object:
        return adapt(adaptation, parameters, pattern, x, y).parameters

    run = partial(trace, adapted) if traced else adapted
    with pytest.raises(UnsupportedNetwork, match=reason):
        run(adaptation.parameters(), X, Y)
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_buffers_that_only_are_read_are_constants() -> None:
    network = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)))
    network.eval()
    adaptation = Adaptation.of(network, classification_loss, 0.1)
    pattern = LambdaPattern.full(1, 2)
    program = trace(lambda p, x, y: adapt(adaptation, p, pattern, x, y).parameters, adaptation.parameters(), X, Y)
    expected = adapt(adaptation, adaptation.parameters(), pattern, X, Y).parameters
    with torch.no_grad():
        torch.testing.assert_close(program(adaptation.parameters(), X, Y), expected, rtol=0, atol=0)


def test_a_network_s_own_errors_are_left_as_they_are() -> None:
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3).eval())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        forward(network, dict(network.named_parameters()), X[:, :3])


def test_attention_has_a_second_derivative_whatever_is_frozen() -> None:
    network = build("attention")
    x, _, _ = episode("attention")
    parameters = {name: value.detach() for name, value in network.named_parameters()}
    name = "encoder1.attention.in_proj_bias"

    def total(moving: Tensor) -> Tensor:
        return forward(network, {**parameters, name: moving}, x).square().sum()

    def slope(moving: Tensor) -> Tensor:
        return grad(total)(moving)[-1]

    analytic = jacrev(slope)(parameters[name])[-3]
    step = torch.zeros_like(parameters[name])
    step[-3] = 1e-5
    numeric = (slope(parameters[name] + step) - slope(parameters[name] - step)) / 2e-5
    torch.testing.assert_close(analytic, numeric, rtol=1e-6, atol=1e-8)
    assert float(analytic.abs()) > 1e-6


def test_the_ways_of_attention_are_left_as_they_were() -> None:
    network, (x, _, _) = build("attention"), episode("attention")
    ways = (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled())
    forward(network, dict(network.named_parameters()), x)
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled()) == ways
