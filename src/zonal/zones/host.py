"""The host's open doors to Xen, shared by all zones of this daemon."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from zonal.devices.host_devices import HostDevices
from zonal.xen import domctl
from zonal.xen.events import EventDevice
from zonal.xen.grants import GrantDevice
from zonal.xen.hypercall import Hypervisor
from zonal.xen.loop import LoopPool
from zonal.xen.shutdowns import Shutdowns, open_shutdowns
from zonal.xen.store import Store


@dataclass(frozen=True)
class XenHost:
    """Hypercalls, the store, event channels, grants, the loop devices that zones share, and who tells of their ends."""

    hypervisor: Hypervisor
    store: Store
    events: EventDevice
    grants: GrantDevice
    loops: LoopPool
    shutdowns: Shutdowns
    devices: HostDevices | None = None
    """The machine's PCI devices; none where there is no way to them."""


@asynccontextmanager
async def open_host() -> AsyncGenerator[XenHost]:
    """Opens them all; raises ``UnavailableError`` where Xen, its store or its devices are missing."""
    async with AsyncExitStack() as stack:
        hypervisor = stack.enter_context(Hypervisor())
        domctl.check_interface(hypervisor)
        store = await stack.enter_async_context(await Store.connect())
        events = stack.enter_context(EventDevice())
        grants = stack.enter_context(GrantDevice())
        shutdowns = await stack.enter_async_context(open_shutdowns(hypervisor, store))
        yield XenHost(hypervisor, store, events, grants, LoopPool(), shutdowns)
