"""zonald on the stand-in machine: ``python -m benchmarks.simulation.daemon MACHINE STATE``.

But for the doors to Xen, loop devices, what zones boot, and networks, which there are none, all of it is the product's.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tarfile
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.simulation.doors import open_machine, stand_in_loop_devices
from zonal.cri.pod_network import AUTO
from zonal.cri.server import serving_cri
from zonal.daemon.control import Services
from zonal.daemon.kernels import Kernels
from zonal.daemon.main import Config, allow_files, keep_memory_small, prepare_spool, serve
from zonal.daemon.metrics_address import MetricsAddress
from zonal.daemon.volumes import Volumes
from zonal.daemon.xen_host import XenMachine
from zonal.errors import NotFoundError
from zonal.images.kernels import KernelStore
from zonal.images.store import ImageStore
from zonal.network.attachments import Attachments
from zonal.network.networks import NetworkStore
from zonal.service import log_to_stderr
from zonal.volumes.store import VolumeStore
from zonal.xen.build.elf import PvKernel, Segment
from zonal.xen.build.kernel import KernelImage
from zonal.zones import live_zone
from zonal.zones.boot_files import BootFiles
from zonal.zones.lifecycle import open_zones
from zonal.zones.networking import ZoneNetwork

IMAGE = "simulated:1"
SOCKET, METRICS, CRI = "zonald.sock", "metrics.sock", "cri.sock"
"""In the folder of the state."""
_KERNEL_SIZE = 64 << 10
_BASE = 0xFFFF_FFFF_8000_0000


class StandInBoot:
    """Something to boot, of a size that costs next to nothing to read; see ``zonal.zones.lives.BootSource``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        kernel, initrd, system = folder / "kernel", folder / "initrd", folder / "system"
        for path in (kernel, initrd, system):
            path.write_bytes(bytes(_KERNEL_SIZE))
        segment = Segment(physical=1 << 24, offset=0, file_size=_KERNEL_SIZE, memory_size=_KERNEL_SIZE)
        pv = PvKernel(
            segments=(segment,),
            entry=_BASE + segment.physical,
            virtual_base=_BASE,
            hypercall_page=_BASE + segment.physical,
            p2m_base=None,
            initrd_by_frame=True,
        )
        self._files = BootFiles(KernelImage(kernel, pv), initrd, system, "console=hvc0")

    async def boot_files(
        self, kernel: str, drivers: Sequence[str] = (), virt: str = "", modaliases: Sequence[str] = ()
    ) -> BootFiles:
        """See ``BootSource``."""
        del kernel, drivers, virt
        return self._files

    def modules(self, release: str) -> Path | None:
        """See ``BootSource``."""
        del release
        return None


class NoAttachments(Attachments):
    """No zone has a network, and none of what this machine has is anybody's here."""

    async def recover(self, alive: Collection[str]) -> None:
        """See ``Attachments``."""
        del alive


class NoNetwork(ZoneNetwork):
    """What a pod gets, which always wants one."""

    def begin(self, stack: AsyncExitStack, leaving: Callable[[], bool]) -> None:
        """See ``ZoneNetwork``."""
        del stack, leaving


@asynccontextmanager
async def open_services(machine: Path, state: Path, config: Config) -> AsyncGenerator[Services]:
    """As ``zonal.daemon.wiring.open_services``."""
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_machine(machine))
        images = ImageStore.open(state / "images")
        stack.callback(images.close)
        await _prepare_image(images, state)
        kernels = KernelStore(state / "kernels")
        volumes = VolumeStore(state / "volumes")
        networks = NetworkStore(state / "networks", state / "leases", configurations=state / "cni")
        attachments = NoAttachments(networks, state / "network")
        stack.callback(attachments.close)
        zones = await stack.enter_async_context(
            open_zones(
                *(host, images, volumes, StandInBoot(state / "boot"), attachments, state),
                agent_timeout=config.agent_timeout,
                reserve=config.reserve,
            )
        )
        spool = prepare_spool(state)
        yield Services(
            zones=zones,
            images=images,
            volumes=Volumes(volumes),
            networks=attachments,
            kernels=Kernels(kernels, images, spool),
            host=XenMachine(host.hypervisor, state),
            spool=spool,
        )


async def _prepare_image(images: ImageStore, state: Path) -> None:
    try:
        images.resolve(IMAGE)
    except NotFoundError:
        path = state / "image.tar"
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("work")
            info.size, info.mode = 4, 0o755
            tar.addfile(info, io.BytesIO(b"work"))
        await images.import_archive(path, name=IMAGE)


def main() -> None:
    """See the module."""
    machine, state = map(Path, sys.argv[1:3])
    log_to_stderr("info")
    keep_memory_small()
    allow_files()
    stand_in_loop_devices()
    config = Config(socket=state / SOCKET, state=state, metrics=MetricsAddress(socket=state / METRICS))
    live_zone.__dict__.update(ZoneNetwork=NoNetwork)
    asyncio.run(
        serve(
            config,
            lambda config: open_services(machine, state, config),
            beside=lambda services, _: serving_cri(services, state / CRI, state, network=AUTO),
        )
    )


if __name__ == "__main__":
    main()
