"""Which functions an IOMMU can tell apart: those that it cannot go to one zone together, or not at all.

Under Xen the host's kernel has no driver of the IOMMU and so no groups of its own; they are worked out here from the
tree of buses, by the same rules as Linux's ``pci_device_group``:

- behind a conventional PCI bridge, all of them send as the bridge;
- behind a port without Access Control Services, they reach each other past the IOMMU;
- functions of one device without these reach each other inside of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zonal.errors import InvalidInputError
from zonal.xen.pci.address import PciAddress, parse_address
from zonal.xen.pci.functions import PciFunction


def group_names(functions: Sequence[PciFunction]) -> dict[PciAddress, str]:
    """Each function's group; a name of Linux's own, or the address of what holds the group together."""
    known = {function.address: function for function in functions}
    return {function.address: function.iommu_group or _name(function, known) for function in functions}


def companions(address: PciAddress, functions: Sequence[PciFunction]) -> list[PciFunction]:
    """The others of its group that have to go with it; bridges, which move no data of their own, do not."""
    names = group_names(functions)
    return [
        each
        for each in functions
        if each.address != address and names[each.address] == names.get(address) and not each.is_bridge
    ]


def _name(function: PciFunction, known: dict[PciAddress, PciFunction]) -> str:
    top: PciFunction = function
    for bridge in _bridges_above(function, known):
        if bridge.abilities.express_type is None or not bridge.abilities.isolated:
            top = bridge
    if top.abilities.multifunction and not top.abilities.isolated:
        return top.address.slot
    return str(top.address)


def _bridges_above(function: PciFunction, known: dict[PciAddress, PciFunction]) -> Iterable[PciFunction]:
    """The nearest first."""
    for part in reversed(function.path.parts[:-1]):
        try:
            address = parse_address(part)
        except InvalidInputError:
            return
        if address in known:
            yield known[address]
