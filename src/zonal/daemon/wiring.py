"""What serves zonald's calls, joined: the stores of images and kernels, the doors to Xen, and the zones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from zonal.daemon.control import Services
from zonal.daemon.kernels import Kernels
from zonal.daemon.main import Config, prepare_spool
from zonal.daemon.volumes import Volumes
from zonal.daemon.xen_host import XenMachine
from zonal.devices.host_devices import HostDevices
from zonal.images.kernels import KernelStore
from zonal.images.store import ImageStore
from zonal.network.attachments import Attachments
from zonal.network.cni import Client
from zonal.network.networks import NetworkStore
from zonal.volumes.store import VolumeStore
from zonal.xen.machine import read_machine
from zonal.zones.boot_files import BootFileStore
from zonal.zones.host import open_host
from zonal.zones.kinds import zone_kinds
from zonal.zones.lifecycle import open_zones


@asynccontextmanager
async def open_services(config: Config) -> AsyncGenerator[Services]:
    """Opens everything as ``config`` has it, and takes back the zones that run; for as long as the block lasts."""
    state = config.state
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_host())
        devices = HostDevices(host.hypervisor, state)
        await asyncio.to_thread(devices.recover)
        host = replace(host, devices=devices)
        images = ImageStore.open(state / "images")
        stack.callback(images.close)
        kernels = KernelStore(state / "kernels")
        volumes = VolumeStore(state / "volumes")
        runtime = config.socket.parent / "network"
        networks = NetworkStore(state / "networks", runtime / "leases", configurations=config.cni_configurations)
        attachments = Attachments(networks, runtime, Client(config.cni_plugins))
        stack.callback(attachments.close)
        boot = BootFileStore(kernels, state / "system", zone_kinds(read_machine(host.hypervisor), config.virt))
        zones = await stack.enter_async_context(
            open_zones(
                *(host, images, volumes, boot, attachments, state),
                agent_timeout=config.agent_timeout,
                reserve=config.reserve,
            )
        )
        await asyncio.to_thread(devices.return_unheld)
        spool = prepare_spool(state)
        yield Services(
            zones=zones,
            images=images,
            volumes=Volumes(volumes),
            networks=attachments,
            kernels=Kernels(kernels, images, spool),
            host=XenMachine(host.hypervisor, state),
            spool=spool,
            devices=devices,
        )
