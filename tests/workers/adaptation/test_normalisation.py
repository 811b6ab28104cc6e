"""EpisodeNorm against PyTorch's batch normalisation, and whose statistics it uses when."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from workers.adaptation.normalisation import EpisodeNorm, applying, collecting


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype) + 2


def random_norm(channels: int) -> EpisodeNorm:
    norm = EpisodeNorm(channels).double()
    with torch.no_grad():
        norm.weight.copy_(inputs(channels))
        norm.bias.copy_(-inputs(channels))
    return norm


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 7), (5, 4, 3, 6)])
def test_it_normalises_like_batch_norm_in_training(shape: tuple[int, ...]) -> None:
    norm, x = random_norm(4), inputs(*shape)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    reference = kind(4, dtype=torch.float64).train()
    reference.load_state_dict(norm.state_dict(), strict=False)
    torch.testing.assert_close(norm(x), reference(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 7), (5, 4, 3, 6)])
def test_collected_statistics_are_the_batch_s_and_apply_to_others(shape: tuple[int, ...]) -> None:
    network = nn.Sequential(random_norm(4))
    x = inputs(*shape)
    with collecting(network) as statistics:
        outputs = network(x)
    mean, inverse_std = statistics["0"]
    rest = [0, *range(2, x.dim())]
    torch.testing.assert_close(mean, x.mean(rest))
    torch.testing.assert_close(inverse_std, (x.var(rest, correction=0) + 1e-5).rsqrt())
    with applying(network, statistics):
        torch.testing.assert_close(network(x), outputs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(network(x[:1]), outputs[:1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network(x), outputs, rtol=0, atol=0)


def test_statistics_carry_their_gradient() -> None:
    network = nn.Sequential(nn.Linear(3, 4, dtype=torch.float64), random_norm(4))
    x = inputs(5, 3)
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def total(parameters: dict[str, Tensor]) -> Tensor:
        with collecting(network) as statistics:
            functional_call(network, parameters, (x,))
        mean, inverse_std = statistics["1"]
        return (mean * torch.arange(4)).sum() + inverse_std.square().sum()

    def by_hand(parameters: dict[str, Tensor]) -> Tensor:
        z = x @ parameters["0.weight"].T + parameters["0.bias"]
        return (z.mean(0) * torch.arange(4)).sum() + (1 / (z.var(0, correction=0) + 1e-5)).sum()

    got, wanted = grad(total)(parameters), grad(by_hand)(parameters)
    assert float(wanted["0.weight"].abs().max()) > 0.1
    for name in parameters:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-10, atol=1e-10)


class Failing(nn.Module):
    """Fails after its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = random_norm(4)

    def forward(self, x: Tensor) -> Tensor:
        self.norm(x)
        raise RuntimeError("lost")


def test_nothing_is_left_behind_by_a_failure() -> None:
    network, x = Failing(), inputs(5, 4)
    outputs = network.norm(x)
    with collecting(network) as statistics:
        network.norm(x)
    with pytest.raises(RuntimeError, match="lost"), collecting(network):
        network(x)
    with pytest.raises(RuntimeError, match="lost"), applying(network, statistics):
        network(x[:2])
    collected = {name: (mean.clone(), inverse.clone()) for name, (mean, inverse) in statistics.items()}
    assert torch.equal(network.norm(x), outputs)
    network.norm(x + 5)
    assert all(torch.equal(statistics[name][0], mean) for name, (mean, _) in collected.items())  # no longer written


def test_missing_statistics_are_an_error_and_leave_nothing_behind() -> None:
    network, x = nn.Sequential(random_norm(4), random_norm(4)), inputs(5, 4)
    outputs = network(x)
    given = (torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    with pytest.raises(KeyError), applying(network, {"0": given}):
        pass
    assert torch.equal(network(x), outputs)
