"""Directories of the host in one zone: a 9pfs device for each, and one server process for all of them.

The server is started with the first share, and goes before the zone's domain does. What it serves it is handed as open
descriptors, so that it needs nothing else of the host.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zonal.errors import InvalidInputError, NotFoundError, ZonalError
from zonal.shares.process import ShareServer
from zonal.xen.devices.p9 import MESSAGE_SIZE, Rings, mark_closing, mark_connected, offered_rings, p9_device, plan_9pfs
from zonal.xen.devices.xenbus import forget
from zonal.xen.domain import DevicePlan
from zonal.zones.host import XenHost
from zonal.zones.module_loading import ModuleSource, supply_modules
from zonal.zones.mounts import Attached, Mount
from zonal.zones.session import Session

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

DRIVERS = ("9p", "9pnet_xen")
"""What a kernel needs for a share."""
TIMEOUT = 60.0


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """What is served: a folder, or the one file in it that is called ``only``."""

    descriptor: int
    only: str = ""


class ZoneShares:
    """See the module."""

    def __init__(self, host: XenHost, zone: str, folder: Path, modules: ModuleSource) -> None:
        """``folder``: the zone's own."""
        self._host = host
        self._zone = zone
        self._modules = modules
        self._server = ShareServer(folder)

    def open(self, mount: Mount, stack: ExitStack) -> SharedFolder:
        """Opens what a mount names, and begins the server. Raises ``NotFoundError`` and ``InvalidInputError``."""
        path = Path(mount.source)
        try:
            mode = path.stat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise InvalidInputError(
                    f"{path} is neither a directory nor a file, and nothing else can be shared with a zone",
                    hint="sockets and pipes join processes of one kernel; a block device goes by --device",
                )
            # Where a symbolic link leads to is settled now, in the host, by whoever typed its name.
            real = path.resolve(strict=True)
            descriptor = os.open(real if stat.S_ISDIR(mode) else real.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFoundError(f"{path} cannot be shared with a zone: {error.strerror}") from error
        stack.callback(os.close, descriptor)
        if not self._server.is_there:
            self._server.start()
        return SharedFolder(descriptor, "" if stat.S_ISDIR(mode) else real.name)

    @staticmethod
    def plan(attached: Attached) -> DevicePlan:
        """The device's nodes in the store."""
        return partial(plan_9pfs, number=attached.number, tag=attached.id)

    async def serve(
        self, session: Session, release: str, domain_id: int, folders: Sequence[tuple[Attached, SharedFolder]]
    ) -> None:
        """Connects devices whose nodes are there: all of those that are. Raises ``ZonalError``."""
        try:
            async with asyncio.TaskGroup() as group:
                # Beside each other: loading the driver ends only when the devices that are there are connected.
                group.create_task(supply_modules(session, self._modules(release), DRIVERS))
                for attached, folder in folders:
                    group.create_task(self._connect(domain_id, attached, folder))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def withdraw(self, domain_id: int, attached: Attached) -> None:
        """Takes a share from a zone that runs, and has unmounted it or not."""
        device = p9_device(domain_id, attached.number)
        await mark_closing(self._host.store, device, timeout=TIMEOUT)
        with suppress(ZonalError):
            await self._server.remove(attached.id)
        await self._host.store.transaction(lambda transaction: forget(transaction, [device]))

    async def stop(self) -> None:
        """Ends the server, if there is one; the zone's pages are let go of then."""
        await self._server.stop()

    async def _connect(self, domain_id: int, attached: Attached, folder: SharedFolder) -> None:
        device = p9_device(domain_id, attached.number)
        offers = await offered_rings(self._host.store, device, timeout=TIMEOUT)
        with await asyncio.to_thread(Rings, domain_id, offers, self._host.grants) as rings:
            await self._server.add(
                attached.id,
                (folder.descriptor, rings.grants, rings.events),
                rings.rings,
                read_only=attached.mount.read_only,
                only=folder.only,
                message_size=MESSAGE_SIZE,
            )
        await mark_connected(self._host.store, device)


def share_parameters(attached: Attached) -> dict[str, Value]:
    """What the agent has to know to mount it."""
    mount = attached.mount
    return {
        "kind": "share",
        "tag": attached.id,
        "message_size": MESSAGE_SIZE,
        "cached": mount.cached,
        "delegated": mount.delegated,
        "subpath": "" if Path(mount.source).is_dir() else Path(mount.source).resolve().name,
    }
