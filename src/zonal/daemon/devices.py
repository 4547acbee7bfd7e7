"""The calls on the machine's PCI devices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.devices.host_devices import DeviceInfo, HostDevices, WantedDevice, check_distinct
from zonal.errors import InvalidInputError, UnavailableError
from zonal.xen.pci.address import parse_address

MAX_DEVICES = 32
"""Of one zone: what one bus of xen-pcifront holds."""


class DeviceCalls:
    """See the module."""

    def __init__(self, devices: HostDevices | None) -> None:
        self._given = devices

    async def list(self, _request: pb.ListDevicesRequest, _context: Context) -> pb.ListDevicesReply:
        """All of them."""
        found = await asyncio.to_thread(self._devices.list)
        return pb.ListDevicesReply(devices=[device_message(each) for each in found])

    async def assign(self, request: pb.AssignDevicesRequest, _context: Context) -> pb.AssignDevicesReply:
        """Sets some aside for zones."""
        await asyncio.to_thread(self._devices.assign, wanted_devices(request.devices))
        return pb.AssignDevicesReply()

    async def release(self, request: pb.DeviceRef, _context: Context) -> pb.ReleaseDeviceReply:
        """Gives one back to the host."""
        await asyncio.to_thread(self._devices.release, request.address)
        return pb.ReleaseDeviceReply()

    @property
    def _devices(self) -> HostDevices:
        if self._given is None:
            raise UnavailableError("this zonald has no PCI devices to give")
        return self._given


def wanted_devices(messages: Iterable[pb.PciDevice]) -> tuple[WantedDevice, ...]:
    """What was asked for, checked. Raises ``InvalidInputError``."""
    wanted = tuple(
        WantedDevice(str(parse_address(each.address)), each.insecure_no_iommu, each.permissive) for each in messages
    )
    if len(wanted) > MAX_DEVICES:
        raise InvalidInputError(f"{len(wanted)} PCI devices are too many", hint=f"at most {MAX_DEVICES}")
    check_distinct(wanted)
    return wanted


def device_message(info: DeviceInfo) -> pb.HostDevice:
    """One device."""
    return pb.HostDevice(
        address=info.address,
        name=info.name,
        kind=info.kind,
        class_code=info.class_code,
        vendor=info.vendor,
        device=info.device,
        driver=info.driver,
        iommu_group=info.group,
        owner=info.owner,
        obstacle=info.obstacle,
        resets=info.resets,
        interrupts=info.interrupts,
        insecure=info.insecure,
    )
