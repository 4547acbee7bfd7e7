"""zonald's doors to Xen, leading to the stand-in machine: its own classes, whose ioctls are questions to that."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import mmap
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.simulation.line import Line
from zonal.xen import domctl
from zonal.xen import loop as loop_devices
from zonal.xen.abi import domctl as abi
from zonal.xen.abi import sysctl
from zonal.xen.abi.event_channel import EvtchnAllocUnbound
from zonal.xen.abi.memory import XENMEM_POPULATE_PHYSMAP, MemoryReservation
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.abi.version import XENVER_CAPABILITIES, XENVER_EXTRAVERSION, XENVER_VERSION
from zonal.xen.abi.xen import (
    HYPERVISOR_DOMCTL,
    HYPERVISOR_EVENT_CHANNEL_OP,
    HYPERVISOR_MEMORY_OP,
    HYPERVISOR_MMUEXT_OP,
    HYPERVISOR_SYSCTL,
    HYPERVISOR_XEN_VERSION,
)
from zonal.xen.events import EventChannelClosedError, EventChannelError, EventDevice
from zonal.xen.grants import MAP_GRANT_REF, SET_UNMAP_NOTIFY, UNMAP_GRANT_REF, GrantDevice, GrantError
from zonal.xen.hypercall import ForeignPages, HypercallError, Hypervisor
from zonal.xen.loop import LoopDevice, LoopPool
from zonal.xen.shutdowns import open_shutdowns
from zonal.xen.store import Store
from zonal.zones.host import XenHost

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LINE, STORE = "machine.sock", "xenstored.sock"
"""Where the machine listens, in its folder."""
ANONYMOUS = -1

_VERSIONS = {XENVER_EXTRAVERSION: b".simulated\0", XENVER_CAPABILITIES: b"xen-3.0-x86_64 \0"}
_GRANTS = {MAP_GRANT_REF: "map_grants", UNMAP_GRANT_REF: "unmap_grants", SET_UNMAP_NOTIFY: "notify_on_unmap"}


class StandInHypervisor(Hypervisor):
    """``/dev/xen/privcmd``: structures are made and read by zonald's own code, and memory is the machine's."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._privcmd = line.memory
        self._buffers = ANONYMOUS
        self._calls: dict[int, Callable[..., int]] = {
            HYPERVISOR_DOMCTL: self._domctl,
            HYPERVISOR_SYSCTL: self._sysctl,
            HYPERVISOR_MEMORY_OP: self._memory_op,
            HYPERVISOR_EVENT_CHANNEL_OP: self._event_channel_op,
            HYPERVISOR_MMUEXT_OP: lambda *_: 0,
            HYPERVISOR_XEN_VERSION: _version,
        }

    def close(self) -> None:
        """The line is its owner's."""

    def call(self, what: str, op: int, *args: int) -> int:
        """See ``Hypervisor``."""
        try:
            return self._calls[op](*args)
        except OSError as error:
            raise HypercallError(what, error.errno or errno.EIO) from None

    def map_frames(self, domain_id: int, frames: npt.NDArray[np.uint64]) -> ForeignPages:
        """See ``Hypervisor``; the frames are one after the other, since the machine gives no others out."""
        first, count = int(frames[0]), len(frames)
        if int(frames[-1]) != first + count - 1:
            raise HypercallError(f"map frames of domain {domain_id}", errno.EINVAL)
        mapping = mmap.mmap(self._privcmd, count * PAGE_SIZE, mmap.MAP_SHARED, offset=first * PAGE_SIZE)
        return ForeignPages(mapping, count)

    def map_resource(self, domain_id: int, kind: int, resource_id: int, first: int, count: int) -> ForeignPages:
        """See ``Hypervisor``."""
        frame = self._line.ask("resource_frame", domain_id, kind, resource_id) + first
        return ForeignPages(
            mmap.mmap(self._privcmd, count * PAGE_SIZE, mmap.MAP_SHARED, offset=frame * PAGE_SIZE), count
        )

    def _domctl(self, address: int) -> int:
        request = abi.Domctl.from_address(address)
        _fill(address, self._line.ask("domctl", bytes(request)))
        return 0

    def _sysctl(self, address: int) -> int:
        request = sysctl.Sysctl.from_address(address)
        if request.cmd == sysctl.XEN_SYSCTL_GETDOMAININFOLIST:
            wanted = request.u.getdomaininfolist
            infos = self._line.ask("list_domains", wanted.first_domain, wanted.max_domains)
            _fill(wanted.buffer, infos)
            wanted.num_domains = len(infos) // ctypes.sizeof(abi.DomctlGetdomaininfo)
        else:
            _fill(address, self._line.ask("sysctl", bytes(request)))
        return 0

    def _memory_op(self, command: int, address: int) -> int:
        if command != XENMEM_POPULATE_PHYSMAP:
            return 0
        request = MemoryReservation.from_address(address)
        size = 8 * request.nr_extents
        first = ctypes.string_at(request.extent_start, size)
        frames = self._line.ask("populate", request.domid, first, request.extent_order)
        _fill(request.extent_start, frames)
        return len(frames) // 8

    def _event_channel_op(self, _command: int, address: int) -> int:
        request = EvtchnAllocUnbound.from_address(address)
        request.port = self._line.ask("alloc_unbound", request.dom)
        return 0


class StandInEvents(EventDevice):
    """``/dev/xen/evtchn``: its descriptor is a pipe of the machine's, and ports are unmasked by another."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._channels = {}
        self._descriptor = os.dup(line.events)
        os.set_blocking(self._descriptor, False)
        self._loop.add_reader(self._descriptor, self._dispatch)

    def call(self, request: int, argument: bytes, what: str) -> int:
        """See ``EventDevice``."""
        if self._descriptor < 0:
            raise EventChannelClosedError(f"{what}: the device is closed")
        try:
            return self._line.ask("events", request, argument)
        except OSError as error:
            raise EventChannelError(f"{what} failed: {error.strerror}") from error

    def unmask(self, port: int) -> None:
        """See ``EventDevice``."""
        os.write(self._line.unmasked, port.to_bytes(4, "little"))


class StandInGrants(GrantDevice):
    """``/dev/xen/gntdev``: pages are mapped out of the machine's memory."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.descriptor = os.dup(line.memory)

    def call(self, request: int, argument: bytes | bytearray, what: str) -> None:
        """See ``GrantDevice``."""
        try:
            answer = self._line.ask(_GRANTS[request], bytes(argument))
        except OSError as error:
            raise GrantError(f"{what} failed: {error.strerror}") from error
        if isinstance(argument, bytearray):
            argument[:] = answer


@asynccontextmanager
async def open_machine(folder: Path) -> AsyncGenerator[XenHost]:
    """As ``zonal.zones.host.open_host``, to the machine whose sockets are in ``folder``."""
    async with AsyncExitStack() as stack:
        line = Line(folder / LINE)
        stack.callback(line.close)
        hypervisor = stack.enter_context(StandInHypervisor(line))
        domctl.check_interface(hypervisor)
        store = await stack.enter_async_context(await Store.connect(folder / STORE))
        events = stack.enter_context(StandInEvents(line))
        grants = stack.enter_context(StandInGrants(line))
        shutdowns = await stack.enter_async_context(open_shutdowns(hypervisor, store))
        yield XenHost(hypervisor, store, events, grants, LoopPool(), shutdowns)


def stand_in_loop_devices() -> None:
    """Loop devices are an open file each, as real ones are for zonald; nothing is behind them."""

    def configured(_file: Path, _config: bytes) -> LoopDevice:
        return LoopDevice(Path("/dev/null"), os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))

    loop_devices.__dict__.update(_configure_free_device=configured)


def _version(command: int, address: int = 0) -> int:
    if command == XENVER_VERSION:
        return 4 << 16 | 20
    _fill(address, _VERSIONS[command])
    return 0


def _fill(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))
