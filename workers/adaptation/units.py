"""Units: named groups of parameters that are updated or frozen as one, ordered input to output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn.parameter import is_lazy

from search_service.domain.errors import UnsupportedNetwork

Units = Mapping[str, tuple[str, ...]]
"""Unit name -> names of its parameters; iteration order is input to output."""


@runtime_checkable
class DeclaresUnits(Protocol):
    """A network that says what its units are."""

    def units(self) -> Units:
        """Unit name -> names of its parameters, input to output."""


def units_of(network: nn.Module, chosen: Units | None = None) -> Units:
    """The units of any network: ``chosen`` ones, those it declares, or its direct children that own parameters.

    Raises:
        UnsupportedNetwork: a unit is empty or names an unknown parameter, two units share one, a parameter is in none
            or has no shape yet.
    """
    # The class is asked, since instances may own a submodule or a number called `units`.
    if chosen is not None:
        units = dict(chosen)
    elif isinstance(network, DeclaresUnits) and callable(getattr(type(network), "units", None)):
        units = dict(network.units())
    else:
        units = {
            child_name: tuple(f"{child_name}.{name}" for name, _ in child.named_parameters())
            for child_name, child in network.named_children()
            if any(True for _ in child.parameters())
        }
    known = {name for name, _ in network.named_parameters()}
    aliases = {name for name, _ in network.named_parameters(remove_duplicate=False)} - known
    listed = [name for names in units.values() for name in names]
    kind = type(network).__name__
    if lazy := [name for name, parameter in network.named_parameters() if is_lazy(parameter)]:
        raise UnsupportedNetwork(f"{kind}: parameters without a shape yet: {', '.join(lazy)}; run the network once")
    if empty := [name for name, names in units.items() if not names]:
        raise UnsupportedNetwork(f"{kind}: units without parameters: {', '.join(empty)}")
    if shared := sorted(aliases.intersection(listed)):
        raise UnsupportedNetwork(
            f"{kind}: parameters that another name already stands for: {', '.join(shared)}; declare units() that list "
            "each shared parameter once, under its first name"
        )
    if unknown := sorted(set(listed) - known):
        raise UnsupportedNetwork(f"{kind}: units name parameters that do not exist: {', '.join(unknown)}")
    if len(listed) != len(set(listed)):
        raise UnsupportedNetwork(f"{kind}: a parameter belongs to two units")
    if left := sorted(known - set(listed)):
        raise UnsupportedNetwork(f"{kind}: parameters in no unit: {', '.join(left)}")
    return units
