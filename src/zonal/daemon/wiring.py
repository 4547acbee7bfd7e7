"""What serves zonald's calls, joined: the stores of images and kernels, the doors to Xen, and the zones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from zonal.daemon.control import Services
from zonal.daemon.main import Config, prepare_spool
from zonal.daemon.services import KernelInfo
from zonal.images.kernels import Kernel, KernelStore
from zonal.images.store import ImageStore
from zonal.zones.boot_files import BootFileStore
from zonal.zones.host import open_host
from zonal.zones.lifecycle import open_zones


@asynccontextmanager
async def open_services(config: Config) -> AsyncGenerator[Services]:
    """Opens everything as ``config`` has it, and takes back the zones that run; for as long as the block lasts."""
    state = config.state
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(open_host())
        images = ImageStore.open(state / "images")
        stack.callback(images.close)
        kernels = KernelStore(state / "kernels")
        boot = BootFileStore(kernels, state / "system")
        zones = await stack.enter_async_context(
            open_zones(host, images, boot, state, agent_timeout=config.agent_timeout)
        )
        yield Services(zones=zones, images=images, kernels=Kernels(kernels), spool=prepare_spool(state))


class Kernels:
    """The kernel store, as the control API asks for it."""

    def __init__(self, store: KernelStore) -> None:
        self._store = store

    async def import_file(self, path: Path, *, name: str, source: str) -> KernelInfo:
        """See ``zonal.daemon.services.KernelService``."""
        return _info(await asyncio.to_thread(self._store.import_file, path, name, source=source))

    async def list(self) -> list[KernelInfo]:
        """See ``zonal.daemon.services.KernelService``."""
        return [_info(kernel) for kernel in await asyncio.to_thread(self._store.list)]


def _info(kernel: Kernel) -> KernelInfo:
    return KernelInfo(name=kernel.name, release=kernel.release, size_bytes=kernel.size, is_default=kernel.is_default)
