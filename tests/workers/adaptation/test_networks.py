"""The networks that a spec may name."""

from __future__ import annotations

import pytest
import torch

from search_service.domain.search import NetworkSpec
from workers.adaptation.networks import Conv4, build_network
from workers.adaptation.units import units_of

SPECS = [
    NetworkSpec(network="conv4", filters=4),
    NetworkSpec(network="conv4", filters=3, pooling="stride"),
    NetworkSpec(network="mlp", hidden=(5,)),
    NetworkSpec(network="mlp", hidden=(5, 4, 3)),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 17, 33)])
def test_built_networks_have_the_units_that_the_service_expects(spec: NetworkSpec, shape: tuple[int, int, int]) -> None:
    network = build_network(spec, shape, 7, seed=0)
    assert units_of(network) == spec.units
    assert network(torch.randn(4, *shape)).shape == (4, 7)


@pytest.mark.parametrize("spec", SPECS)
def test_a_seed_means_the_same_parameters_and_spends_no_global_randomness(spec: NetworkSpec) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (build_network(spec, (1, 16, 16), 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.state_dict()["head.weight"], other.state_dict()["head.weight"])


def test_an_image_too_small_for_four_poolings_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing of a 15x40 image"):
        Conv4((1, 15, 40), 5, 4)
    Conv4((1, 2, 2), 5, 4, "stride")


def test_filters_and_pooling_reach_the_network() -> None:
    pooled = build_network(SPECS[0], (1, 28, 28), 5, 0)
    strided = build_network(SPECS[1], (1, 28, 28), 5, 0)
    assert pooled.get_parameter("conv2.convolution.weight").shape == (4, 4, 3, 3)
    assert strided.get_parameter("conv2.convolution.weight").shape == (3, 3, 3, 3)
    assert pooled.get_parameter("head.weight").shape == (5, 4)
    assert strided.get_parameter("head.weight").shape == (5, 3)
