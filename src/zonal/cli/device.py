"""``zonal device``: the machine's PCI devices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from zonal.cli.connect import host_option, lab_option, zonald
from zonal.cli.errors import warn
from zonal.cli.format import show_table
from zonal.cli.pci import insecure_option, pci_devices, permissive_option
from zonal.cli.zone import each

if TYPE_CHECKING:
    from zonal.api import control_pb2 as pb


@click.group()
def device() -> None:
    """The machine's PCI devices: list them, set them aside for zones, give them back to the host."""


@device.command("ls")
@click.option("-q", "--quiet", is_flag=True, help="Addresses of those that can be given away.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@host_option
@lab_option
def list_devices(quiet: bool, as_json: bool, host: str | None, lab: str | None) -> None:
    """List them: what they are, who has them, and why some cannot be given away."""
    from zonal.api import control_pb2 as pb

    with zonald(host, lab) as control:
        devices = control.call("ListDevices", pb.ListDevicesRequest(), pb.ListDevicesReply).devices
    if quiet or as_json:
        for item in devices:
            if as_json:
                click.echo(json.dumps(_document(item), ensure_ascii=False))
            elif not item.obstacle:
                click.echo(item.address)
        return
    header = ["ADDRESS", "DEVICE", "KIND", "DRIVER", "GROUP", "RESET", "OWNER", "CANNOT BE GIVEN, SINCE IT"]
    rows = [
        [
            item.address,
            item.name,
            item.kind,
            item.driver or "-",
            item.iommu_group or "-",
            ",".join(item.resets) or "no",
            item.owner + (" (not confined)" if item.insecure else ""),
            item.obstacle,
        ]
        for item in devices
    ]
    click.echo(show_table(header, rows))


@device.command("assign")
@insecure_option
@permissive_option
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@host_option
@lab_option
def assign(insecure: bool, permissive: bool, addresses: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Take devices from the host and set them aside for zones, from now on and after restarts.

    Those of one IOMMU group go together.
    """
    from zonal.api import control_pb2 as pb

    request = pb.AssignDevicesRequest(devices=pci_devices(addresses, insecure=insecure, permissive=permissive))
    with zonald(host, lab) as control:
        control.call("AssignDevices", request, pb.AssignDevicesReply)
        devices = control.call("ListDevices", pb.ListDevicesRequest(), pb.ListDevicesReply).devices
    wanted = {address.lower()[-7:] for address in addresses}
    for item in devices:
        if item.address[-7:] in wanted and item.owner == "free":
            click.echo(item.address)
            if not item.resets:
                warn(f"{item.address} cannot be reset: a zone gets it as the one before has left it")
            if not item.iommu_group:
                warn(f"{item.address} is confined by nothing: who has it reaches all of the machine's memory")


@device.command("release")
@click.argument("addresses", nargs=-1, required=True, metavar="ADDRESS…")
@host_option
@lab_option
def release(addresses: tuple[str, ...], host: str | None, lab: str | None) -> None:
    """Give devices back to the host and its drivers."""
    from zonal.api import control_pb2 as pb

    def release_one(address: str) -> str:
        control.call("ReleaseDevice", pb.DeviceRef(address=address), pb.ReleaseDeviceReply)
        return address

    with zonald(host, lab) as control:
        each(addresses, release_one)


def _document(item: pb.HostDevice) -> dict[str, Any]:
    return {
        "address": item.address,
        "name": item.name,
        "kind": item.kind,
        "class": f"{item.class_code:06x}",
        "vendor": f"{item.vendor:04x}",
        "device": f"{item.device:04x}",
        "driver": item.driver,
        "iommu_group": item.iommu_group,
        "owner": item.owner,
        "obstacle": item.obstacle,
        "resets": list(item.resets),
        "interrupts": list(item.interrupts),
        "insecure": item.insecure,
    }
