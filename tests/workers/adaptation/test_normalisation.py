"""EpisodeNorm against PyTorch's batch normalisation, and whose statistics it uses when."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from search_service.domain.errors import UnsupportedNetwork
from workers.adaptation.normalisation import EpisodeNorm, FrozenNorm, applying, collecting, replace_batch_norms


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
    with (
        pytest.raises(UnsupportedNetwork, match=r"without statistics of the support set: 1$"),
        applying(network, {"0": given}),
    ):
        pass
    assert torch.equal(network(x), outputs)


# --- In place of PyTorch's own ----------------------------------------------------------------------------------------

BATCH_NORMS = [(nn.BatchNorm1d, (6, 4)), (nn.BatchNorm1d, (6, 4, 3)), (nn.BatchNorm2d, (6, 4, 3, 2))]
BATCH_NORMS += [(nn.BatchNorm3d, (6, 4, 2, 3, 2))]


def seasoned(norm: nn.Module, shape: tuple[int, ...]) -> nn.Sequential:
    """A network of one normalisation that has seen data and whose parameters, if any, were trained."""
    network = nn.Sequential(norm.double())
    with torch.no_grad():
        network(inputs(*shape))
        for parameter in network.parameters():
            parameter.add_(inputs(4))
    return network


@pytest.mark.parametrize(("kind", "shape"), BATCH_NORMS)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_what_replaces_batch_norm_computes_the_same(
    kind: type[nn.Module], shape: tuple[int, ...], affine: bool, running: bool
) -> None:
    network = seasoned(kind(4, eps=1e-3, affine=affine), shape)
    x = 2 - inputs(*shape)
    replaced, names = replace_batch_norms(network, running)
    assert names == ("0",)
    assert isinstance(replaced[0], FrozenNorm if running else EpisodeNorm)
    assert {name for name, _ in replaced.named_parameters()} == {name for name, _ in network.named_parameters()}
    outputs = replaced(x)
    torch.testing.assert_close(outputs, network.train(not running)(x), rtol=1e-12, atol=1e-12)
    if not running:
        with collecting(replaced) as statistics:
            replaced(x)
        with applying(replaced, statistics):
            torch.testing.assert_close(replaced(x), outputs, rtol=1e-12, atol=1e-12)


def test_synchronised_batch_norm_is_one_as_well() -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(seasoned(nn.BatchNorm2d(4), (6, 4, 3, 2)))
    for running in (True, False):
        assert replace_batch_norms(network, running)[1] == ("0",)


def test_a_replaced_network_is_a_copy_and_one_without_state_is_not() -> None:
    network = seasoned(nn.BatchNorm1d(4), (6, 4))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    replaced, _ = replace_batch_norms(network, running=True)
    with torch.no_grad():
        for tensor in [*replaced.parameters(), *replaced.buffers()]:
            tensor.zero_()
    assert isinstance(network[0], nn.BatchNorm1d)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    for ours in (nn.Sequential(random_norm(4)), nn.Sequential(nn.LayerNorm(4), nn.InstanceNorm1d(4))):
        assert replace_batch_norms(ours, running=False) == (ours, ())


def test_a_module_of_two_names_stays_one() -> None:
    norm = nn.BatchNorm1d(4)
    replaced, names = replace_batch_norms(nn.Sequential(norm, nn.Sequential(norm)), running=False)
    assert names == ("0", "1.0")
    assert replaced.get_submodule("0") is replaced.get_submodule("1.0")
    with pytest.raises(UnsupportedNetwork, match="normalisation 0 runs twice"), collecting(replaced):
        replaced(inputs(5, 4, dtype=torch.float32))


@pytest.mark.parametrize("affine", [True, False])
def test_instance_norm_stops_tracking_or_applies_what_it_tracked(affine: bool) -> None:
    shape = (6, 4, 3)
    network = seasoned(nn.InstanceNorm1d(4, affine=affine, track_running_stats=True), shape)
    x = 2 - inputs(*shape)
    of_each, names = replace_batch_norms(network, running=False)
    assert names == ("0",)
    assert not list(of_each.buffers())
    torch.testing.assert_close(of_each.eval()(x)[:1], of_each(x[:1]), rtol=1e-12, atol=1e-12)
    frozen, _ = replace_batch_norms(network, running=True)
    torch.testing.assert_close(frozen(x), network.eval()(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(of_each(x), network.train()(x), rtol=1e-12, atol=1e-12)


class Shifting(nn.BatchNorm1d):
    """Does something of its own besides."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


@pytest.mark.parametrize(
    ("norm", "running", "reason"),
    [
        (nn.BatchNorm1d(4, track_running_stats=False), True, "0 is BatchNorm1d that holds no running statistics"),
        (EpisodeNorm(4), True, "0 is EpisodeNorm, which has no running statistics"),
        (Shifting(4), False, "0 is Shifting, whose statistics.*EpisodeNorm"),
        (Shifting(4), True, "0 is Shifting, whose statistics.*EpisodeNorm"),
    ],
)
def test_what_cannot_be_replaced_is_refused_by_name(norm: nn.Module, running: bool, reason: str) -> None:
    with pytest.raises(UnsupportedNetwork, match=f"Sequential: {reason}"):
        replace_batch_norms(nn.Sequential(norm), running)
