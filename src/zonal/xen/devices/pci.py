"""PCI devices in the store: what xen-pciback offers and a zone's xen-pcifront takes.

Nodes: Linux, drivers/xen/xen-pciback/xenbus.c, and ``io/pciif.h``. One device of this kind carries all functions of a
zone, so that they appear on one bus.
"""

from __future__ import annotations

from collections.abc import Sequence

from zonal.xen.devices.xenbus import Device, plan_device
from zonal.xen.pci.address import PciAddress
from zonal.xen.store import Entry


def pci(domain_id: int) -> Device:
    """A zone's."""
    return Device("pci", domain_id, 0)


def plan_pci(domain_id: int, addresses: Sequence[PciAddress]) -> list[Entry]:
    """All nodes, for the functions in the hands of pciback."""
    served: dict[str, str | int] = {"num_devs": len(addresses)}
    for number, address in enumerate(addresses):
        served[f"dev-{number}"] = str(address)
        served[f"opts-{number}"] = "msitranslate=0,power_mgmt=0,permissive=0"
        served[f"state-{number}"] = 1
    return plan_device(pci(domain_id), frontend={}, backend=served)
