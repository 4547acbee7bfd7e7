"""``--pci`` of the commands that make zones, and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from zonal.errors import InvalidInputError

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb

_F = TypeVar("_F", bound=Callable[..., object])
_INSECURE = "Though no IOMMU confines the device: who has it can read and write all of the machine's memory."

insecure_option = click.option("--insecure-no-iommu", "insecure", is_flag=True, help=_INSECURE)
permissive_option = click.option(
    "--permissive", is_flag=True, help="Let zones write to all of its configuration space, as some drivers need."
)


def pci_options(command: _F) -> _F:
    """The options of ``run`` and ``zone create``; ``take_devices`` takes their values out of the others."""
    for decorate in reversed(
        (
            click.option(
                "--pci", multiple=True, metavar="ADDRESS", help="A PCI device for the zone alone, such as 00:03.0."
            ),
            insecure_option,
            permissive_option,
        )
    ):
        command = decorate(command)
    return command


def take_devices(options: dict[str, Any]) -> list[pb.PciDevice]:
    """What ``pci_options`` have given. Raises ``InvalidInputError``."""
    addresses, insecure, permissive = options.pop("pci"), options.pop("insecure"), options.pop("permissive")
    if not addresses and (insecure or permissive):
        name = "--insecure-no-iommu" if insecure else "--permissive"
        raise InvalidInputError(f"{name} is for a PCI device, and none is named", hint="--pci ADDRESS")
    return pci_devices(addresses, insecure=insecure, permissive=permissive)


def pci_devices(addresses: Iterable[str], *, insecure: bool, permissive: bool) -> list[pb.PciDevice]:
    """Messages for these."""
    from zonal.api import control_pb2 as pb

    return [pb.PciDevice(address=address, insecure_no_iommu=insecure, permissive=permissive) for address in addresses]
