"""Which units a network has, and which declarations are refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from search_service.domain.errors import UnsupportedNetwork
from workers.adaptation.networks import MLP, Conv4
from workers.adaptation.units import Units, units_of


def linear(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(*pair) for pair in pairwise(widths)))


class Declaring(nn.Module):
    """Declares whatever it is told."""

    def __init__(self, units: Units) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(2, 2, bias=False)
        self._declared = units

    def units(self) -> Units:
        return self._declared


FIRST = ("first.weight", "first.bias")
SECOND = ("second.weight",)


def test_children_with_parameters_are_units_where_none_are_declared() -> None:
    network = nn.Sequential()
    network.add_module("body", linear(4, 4, 4))
    network.add_module("activation", nn.ReLU())
    network.add_module("head", nn.Linear(4, 2))
    assert list(units_of(network).items()) == [
        ("body", ("body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias")),
        ("head", ("head.weight", "head.bias")),
    ]


def test_declared_units_are_taken_in_their_order() -> None:
    assert list(units_of(Declaring({"late": SECOND, "early": FIRST}))) == ["late", "early"]


@pytest.mark.parametrize(
    ("units", "reason"),
    [
        ({"a": FIRST, "b": SECOND, "none": ()}, "Declaring: units without parameters: none"),
        ({"a": FIRST, "b": (*SECOND, "third.weight")}, "parameters that do not exist: third.weight"),
        ({"a": FIRST, "b": (*SECOND, "first.bias")}, "a parameter belongs to two units"),
        ({"a": FIRST, "b": (*SECOND, *SECOND)}, "a parameter belongs to two units"),
        ({"a": FIRST}, "parameters in no unit: second.weight"),
        ({}, "parameters in no unit: first.bias, first.weight, second.weight"),
    ],
)
def test_refusals_name_what_is_wrong(units: Units, reason: str) -> None:
    with pytest.raises(UnsupportedNetwork) as error:
        units_of(Declaring(units))
    assert reason in str(error.value)


def test_parameters_of_the_network_itself_need_a_declaration() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))
            self.head = nn.Linear(2, 2)

    with pytest.raises(UnsupportedNetwork, match="in no unit: scale"):
        units_of(Own())


@pytest.mark.parametrize("value", [64, nn.ModuleList([nn.Linear(2, 2)])])
def test_something_else_called_units_is_no_declaration(value: object) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)
            self.units = value

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.head(x))

    found = units_of(Recurrent())
    assert found["head"] == ("head.weight", "head.bias")
    assert ("units" in found) == isinstance(value, nn.ModuleList)


@pytest.mark.parametrize(
    "network", [Conv4((1, 16, 16), 5, 4), Conv4((3, 20, 28), 2, 4, "stride"), MLP((1,), 1, (3, 3)), MLP((2, 2), 3, ())]
)
def test_every_network_of_ours_covers_its_parameters(network: nn.Module) -> None:
    listed = [name for names in units_of(network).values() for name in names]
    assert listed == [name for name, _ in network.named_parameters()]


def test_parameters_that_are_not_there_yet_are_refused() -> None:
    network = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(
        UnsupportedNetwork, match=r"Sequential: parameters without a shape yet: 0\.weight, 0\.bias; run"
    ):
        units_of(network)
    network(torch.zeros(1, 3))
    assert list(units_of(network)) == ["0", "1"]
