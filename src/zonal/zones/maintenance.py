"""The files of zones that have ended: a zone is booted with the former's image and scratch disk, and no workload.

The host mounts no disk that a zone has written to. Such a zone stays for some seconds, since one command of a user's is
several calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from zonal.errors import NotFoundError, ZonalError
from zonal.xen.channel import Channel
from zonal.xen.devices.vbd import Disk, plan_vbd
from zonal.xen.domain import DomainConfig, create_domain, destroy_domain, domain_path
from zonal.xen.loop import open_loop
from zonal.zones.boot_files import BootFiles
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.live_zone import WORKLOAD
from zonal.zones.machine import domain_uuid
from zonal.zones.mounts import SCRATCH_DISK
from zonal.zones.programs import ContainerFiles
from zonal.zones.session import open_session
from zonal.zones.spec import ZoneRecord, ZoneSpec
from zonal.zones.storage import scratch_path

MEMORY = 256 << 20
LINGER = 5.0
"""Seconds for which such a zone waits for more to do."""

FilesOf = Callable[[ZoneRecord], AbstractAsyncContextManager[ContainerFiles]]


@asynccontextmanager
async def open_maintenance(
    host: XenHost,
    memory: HostMemory,
    boot: BootFiles,
    spec: ZoneSpec,
    folder: Path,
    image: Path,
    agent_timeout: float,
) -> AsyncGenerator[ContainerFiles]:
    """The files of the zone that ``spec`` and ``folder`` were of, within the block. Raises ``ZonalError``.

    What was written to them is on the scratch disk afterwards.
    """
    scratch = scratch_path(folder)
    if not scratch.exists():
        raise NotFoundError(
            f"zone {spec.name} has kept no files: what it wrote was in its memory", hint="run it without --read-only"
        )
    epoch = spec.id[:16]
    async with AsyncExitStack() as stack:
        disks: list[Disk] = []
        for name, path in (("xvda", boot.system_image), ("xvdb", image)):
            shared = stack.enter_context(host.loops.acquire(path))
            disks.append(Disk(name, shared.path, shared.device))
        loop = stack.enter_context(open_loop(scratch, read_only=False, direct=True))
        disks.append(Disk(SCRATCH_DISK, loop.path, loop.device, writable=True))
        config = DomainConfig(
            name=spec.name,
            kernel=boot.kernel,
            memory=MEMORY,
            command_line=boot.command_line,
            initrd=boot.initrd,
            virt=boot.virt,
            devices=tuple(partial(plan_vbd, disk=disk) for disk in disks),
            readable=(("zonal", ""), ("zonal/host", epoch)),
            writable=("zonal/channel",),
            # As a zone's own: the next daemon sees by it whose the domain was, and destroys it.
            uuid=domain_uuid(spec.id),
        )
        memory.begin(config.uuid.bytes, MEMORY)
        stack.callback(memory.end, config.uuid.bytes)
        domain = await create_domain(host.hypervisor, host.store, config)
        stack.push_async_callback(destroy_domain, host.hypervisor, host.store, domain.domain_id)
        await domain.start()
        channel = await Channel.connect(
            *(host.store, host.events, host.grants, domain.domain_id),
            f"{domain_path(domain.domain_id)}/zonal/channel",
            timeout=agent_timeout,
            epoch=epoch,
        )
        session = await stack.enter_async_context(open_session(channel, timeout=agent_timeout))
        await session.greeted(agent_timeout)
        root = {"id": WORKLOAD, "device": "/dev/xvdb", "scratch": f"/dev/{SCRATCH_DISK}"}
        await session.call("prepare_root", dict(root))
        yield ContainerFiles(session, WORKLOAD)
        await session.call("remove_root", {"id": WORKLOAD})


class _Open:
    """One such zone."""

    def __init__(self) -> None:
        self.files: asyncio.Future[ContainerFiles] = asyncio.get_running_loop().create_future()
        self.users = 0
        self.changed = asyncio.Event()
        self.closing = False
        self.task: asyncio.Task[None] | None = None


class Maintenance:
    """Opens such zones, one for each that has ended, and closes them when nobody wants them any more."""

    def __init__(self, open_files: FilesOf, lives: asyncio.TaskGroup) -> None:
        self._open_files = open_files
        self._lives = lives
        self._open: dict[str, _Open] = {}

    @asynccontextmanager
    async def files(self, record: ZoneRecord) -> AsyncGenerator[ContainerFiles]:
        """The files of a zone that has ended. Raises ``ZonalError``."""
        while (entry := self._open.get(record.id)) is not None and entry.closing:
            assert entry.task is not None
            await asyncio.wait([entry.task])
        if entry is None:
            entry = self._open[record.id] = _Open()
            entry.task = self._lives.create_task(self._live(entry, record), name=f"maintenance of {record.name}")
        entry.users += 1
        try:
            yield await asyncio.shield(entry.files)
        finally:
            entry.users -= 1
            entry.changed.set()

    async def close(self, zone_id: str) -> None:
        """Ends it, whoever uses it."""
        entry = self._open.get(zone_id)
        if entry is not None and entry.task is not None:
            entry.closing = True
            entry.task.cancel()
            await asyncio.wait([entry.task])

    def leave(self) -> None:
        """Ends them all, in time."""
        for entry in self._open.values():
            if entry.task is not None:
                entry.task.cancel()

    async def _live(self, entry: _Open, record: ZoneRecord) -> None:
        try:
            async with self._open_files(record) as files:
                entry.files.set_result(files)
                await self._until_idle(entry)
                entry.closing = True
        except ZonalError as error:
            if not entry.files.done():
                entry.files.set_exception(error)
                entry.files.exception()  # nobody may be waiting
        finally:
            entry.files.cancel()
            self._open.pop(record.id, None)

    @staticmethod
    async def _until_idle(entry: _Open) -> None:
        while True:
            entry.changed.clear()
            try:
                async with asyncio.timeout(None if entry.users else LINGER):
                    await entry.changed.wait()
            except TimeoutError:
                if not entry.users:
                    return
