"""The control service: every call of the protocol and what serves it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from zonal.daemon.devices import DeviceCalls
from zonal.daemon.exec import ExecCalls
from zonal.daemon.files import FileCalls
from zonal.daemon.host import HostCalls
from zonal.daemon.info import InfoCall
from zonal.daemon.kernels import KernelCalls
from zonal.daemon.mount_spec import Mounts
from zonal.daemon.networks import NetworkCalls
from zonal.daemon.pool import PoolCalls
from zonal.daemon.registries import RegistryCalls
from zonal.daemon.requested import RequestedZones
from zonal.daemon.rpc import Handler, control_handler
from zonal.daemon.run import RunCall
from zonal.daemon.services import HostService, ImageService, KernelService, NetworkService, VolumeService
from zonal.daemon.stream_sockets import StreamSockets
from zonal.daemon.timeline import TimelineCall
from zonal.daemon.update import UpdateCall
from zonal.daemon.uploads import ImageCalls
from zonal.daemon.usage import UsageCall
from zonal.daemon.verbs import VerbCalls
from zonal.daemon.volumes import VolumeCalls
from zonal.daemon.zones import ZoneCalls
from zonal.devices.host_devices import HostDevices
from zonal.zones.spec import ZoneService


@dataclass(frozen=True)
class Services:
    """What the control API serves; ``spool`` is a folder for uploads."""

    zones: ZoneService
    images: ImageService
    volumes: VolumeService
    networks: NetworkService
    kernels: KernelService
    host: HostService
    spool: Path
    devices: HostDevices | None = None
    """The machine's PCI devices; none where there is no way to them."""


def requested_zones(services: Services) -> RequestedZones:
    """Makes of requests what they ask for."""
    mounts = Mounts(services.images, services.volumes)
    return RequestedZones(services.zones, services.images, mounts, services.networks.networks)


def make_control(services: Services, stopping: asyncio.Event, sockets: StreamSockets) -> Handler:
    """The service's handler; once ``stopping`` is set, attached runs end and their zones go on."""
    mounts = Mounts(services.images, services.volumes)
    zones = ZoneCalls(services.zones, mounts)
    verbs = VerbCalls(services.zones)
    execs = ExecCalls(services.zones, stopping, sockets)
    files = FileCalls(services.zones, services.images, services.spool)
    volumes = VolumeCalls(services.volumes)
    images = ImageCalls(services.images, services.spool)
    registries = RegistryCalls(services.images)
    networks = NetworkCalls(services.networks)
    kernels = KernelCalls(services.kernels, services.spool)
    host = HostCalls(services.host)
    devices = DeviceCalls(services.devices)
    pool = PoolCalls(services.zones)
    return control_handler(
        {
            "Info": InfoCall(services.zones),
            "Run": RunCall(services.zones, requested_zones(services), stopping, sockets),
            "Exec": execs.exec,
            "Attach": execs.attach,
            "GetPool": pool.get,
            "SetPool": pool.set,
            "ListZones": zones.list,
            "InspectZone": zones.inspect,
            "StopZone": zones.stop,
            "KillZone": zones.kill,
            "WaitZone": zones.wait,
            "RemoveZone": zones.remove,
            "StartZone": verbs.start,
            "RestartZone": verbs.restart,
            "PauseZone": verbs.pause,
            "UnpauseZone": verbs.unpause,
            "RenameZone": verbs.rename,
            "UpdateZone": UpdateCall(services.zones),
            "ZoneStats": verbs.statistics,
            "ZoneProcesses": verbs.processes,
            "Events": verbs.events,
            "ZoneLogs": zones.logs,
            "ZoneConsole": zones.console,
            "ImportImage": images.import_image,
            "PullImage": registries.pull,
            "PushImage": registries.push,
            "SaveImages": images.save,
            "CheckLogin": registries.check_login,
            "DiskUsage": UsageCall(services.images, services.zones, services.volumes),
            "TagImage": images.tag,
            "PruneImages": images.prune,
            "ListImages": images.list,
            "InspectImage": images.inspect,
            "RemoveImage": images.remove,
            "MountInZone": zones.mount,
            "UnmountInZone": zones.unmount,
            "CopyFromZone": files.copy_from,
            "CopyToZone": files.copy_to,
            "StatInZone": files.stat,
            "ZoneChanges": files.changes,
            "CommitZone": files.commit,
            "CreateVolume": volumes.create,
            "ListVolumes": volumes.list,
            "InspectVolume": volumes.inspect,
            "RemoveVolume": volumes.remove,
            "PruneVolumes": volumes.prune,
            "CreateNetwork": networks.create,
            "ListNetworks": networks.list,
            "InspectNetwork": networks.inspect,
            "RemoveNetwork": networks.remove,
            "ImportKernel": kernels.import_kernel,
            "ListKernels": kernels.list,
            "PullKernel": kernels.pull,
            "ImportDebianKernel": kernels.import_debian,
            "UseKernel": kernels.use,
            "RemoveKernel": kernels.remove,
            "ListDevices": devices.list,
            "AssignDevices": devices.assign,
            "ReleaseDevice": devices.release,
            "HostDetails": host.details,
            "HypervisorLog": host.log,
            "CheckHost": host.examine,
            "ZoneTimeline": TimelineCall(services.zones),
        }
    )
