"""Units: what a pattern updates or freezes as one."""

from __future__ import annotations

from search_service.domain.errors import InvalidSpec

Units = dict[str, tuple[str, ...]]
"""Unit name -> names of its parameters, input to output."""


def grouped(own: Units, groups: tuple[tuple[str, ...], ...]) -> Units:
    """Units as a spec groups or splits a network's own.

    Args:
        own: the network's own units.
        groups: each a list of names, of units, their modules or single parameters.

    Raises:
        InvalidSpec: a name is unknown, a parameter is in two units or in none, or units are out of order.
    """
    parameters = [name for names in own.values() for name in names]
    unit_of: dict[str, str] = {}
    units: Units = {}
    for group in groups:
        unit = "+".join(group)
        named: list[str] = []
        for name in group:
            meant = [parameter for parameter in parameters if parameter == name or parameter.startswith(f"{name}.")]
            if not meant:
                raise InvalidSpec("space.units", f"the network has no '{name}'; it has {', '.join(own)}")
            named += meant
        for parameter in named:
            if parameter in unit_of:
                raise InvalidSpec("space.units", f"'{parameter}' is in '{unit_of[parameter]}' and again in '{unit}'")
            unit_of[parameter] = unit
        if not named:
            raise InvalidSpec("space.units", "a unit is empty")
        units[unit] = tuple(sorted(named, key=parameters.index))
    if left := [name for name in parameters if name not in unit_of]:
        raise InvalidSpec("space.units", f"in no unit: {', '.join(left)}")
    firsts = [parameters.index(names[0]) for names in units.values()]
    if firsts != sorted(firsts):
        raise InvalidSpec("space.units", f"list units from input to output: {', '.join(own)}")
    return units
