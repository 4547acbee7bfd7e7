"""The control service: every call of the protocol and what serves it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from zonal.daemon.info import InfoCall
from zonal.daemon.rpc import Handler, control_handler
from zonal.daemon.run import RunCall
from zonal.daemon.services import ImageService, KernelService
from zonal.daemon.uploads import ImageCalls, KernelCalls
from zonal.daemon.zones import ZoneCalls
from zonal.zones.spec import ZoneService


@dataclass(frozen=True)
class Services:
    """What the control API serves; ``spool`` is a folder for uploads."""

    zones: ZoneService
    images: ImageService
    kernels: KernelService
    spool: Path


def make_control(services: Services, stopping: asyncio.Event) -> Handler:
    """The service's handler; once ``stopping`` is set, attached runs end and their zones go on."""
    zones = ZoneCalls(services.zones)
    images = ImageCalls(services.images, services.spool)
    kernels = KernelCalls(services.kernels, services.spool)
    return control_handler(
        {
            "Info": InfoCall(services.zones),
            "Run": RunCall(services.zones, services.images, stopping),
            "ListZones": zones.list,
            "InspectZone": zones.inspect,
            "StopZone": zones.stop,
            "KillZone": zones.kill,
            "WaitZone": zones.wait,
            "RemoveZone": zones.remove,
            "ZoneLogs": zones.logs,
            "ZoneConsole": zones.console,
            "ImportImage": images.import_image,
            "ListImages": images.list,
            "InspectImage": images.inspect,
            "RemoveImage": images.remove,
            "ImportKernel": kernels.import_kernel,
            "ListKernels": kernels.list,
        }
    )
