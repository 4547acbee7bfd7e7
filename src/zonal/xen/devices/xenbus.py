"""Paravirtual devices in general: two directories in the store, one for each end, and a state that each end tells.

The kernel's drivers of both ends meet there (``io/xenbus.h``). Zonal writes both directories, waits until the two are
connected, and takes them apart again. No script and no rule of udev has a part in it: what they would do, such as
finding a block device's number, is done before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from zonal.errors import DeadlineError, ZonalError
from zonal.xen.store import (
    Access,
    Entry,
    Nodes,
    Permission,
    Store,
    StoreNotFoundError,
    StoreValueError,
    decode_text,
    parse_integer,
)


class XenbusState(IntEnum):
    """``enum xenbus_state``."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


class DeviceError(ZonalError):
    """A device did not come up; the message carries what the kernel's backend said."""

    grpc_code = "INTERNAL"


@dataclass(frozen=True, slots=True)
class Device:
    """Which device: its kind (``vbd``, ``vif``), the zone that has it, its number there, and who serves it."""

    kind: str
    domain_id: int
    number: int
    backend_id: int = 0

    @property
    def frontend(self) -> str:
        """The directory of the zone's end."""
        return f"/local/domain/{self.domain_id}/device/{self.kind}/{self.number}"

    @property
    def backend(self) -> str:
        """The directory of the serving end."""
        return f"/local/domain/{self.backend_id}/backend/{self.kind}/{self.domain_id}/{self.number}"

    @property
    def backend_error(self) -> str:
        """Where the kernel's backend writes why it failed."""
        path = self.backend.removeprefix(f"/local/domain/{self.backend_id}/")
        return f"/local/domain/{self.backend_id}/error/{path}/error"

    def __str__(self) -> str:
        return f"{self.kind} {self.number} of domain {self.domain_id}"


def plan_device(device: Device, *, frontend: Mapping[str, str | int], backend: Mapping[str, str | int]) -> list[Entry]:
    """All nodes of both ends, to be written in one transaction.

    Adds what every device has to what this kind needs. The zone owns its end and the backend may read it; the
    backend's end belongs to whoever serves, and the zone may only read it.
    """
    zone, server = device.domain_id, device.backend_id
    zone_may_read = (Permission(0), Permission(zone, Access.READ))
    zone_owns = (Permission(zone), Permission(server, Access.READ))
    server_owns = (Permission(server), Permission(zone, Access.READ))
    directory = f"/local/domain/{zone}/device"
    nodes: dict[str, str | int] = {
        "backend": device.backend,
        "backend-id": server,
        "state": XenbusState.INITIALISING,
        **frontend,
    }
    served: dict[str, str | int] = {
        "frontend": device.frontend,
        "frontend-id": zone,
        "online": 1,
        "state": XenbusState.INITIALISING,
        **backend,
    }
    # The frontend comes last: the zone's kernel, if it runs already, finds the backend's end complete.
    return [
        Entry(device.backend, b"", server_owns),
        *(Entry(f"{device.backend}/{name}", _text(value), server_owns) for name, value in served.items()),
        Entry(directory, b"", zone_may_read),
        Entry(f"{directory}/{device.kind}", b"", zone_may_read),
        Entry(device.frontend, b"", zone_owns),
        *(Entry(f"{device.frontend}/{name}", _text(value), zone_owns) for name, value in nodes.items()),
    ]


async def read_state(store: Nodes, directory: str) -> XenbusState:
    """The state of one end, unknown if it tells none; the zone's end may say anything, which is unknown too."""
    value = await store.find(f"{directory}/state")
    return XenbusState.UNKNOWN if value is None else _parse_state(value, directory)


async def wait_connected(store: Store, device: Device, *, timeout: float) -> None:
    """Waits until the backend is connected, which it is only after the zone's driver has done its part.

    Raises :class:`DeviceError` with the backend's own words if it gives up, :class:`DeadlineError` after ``timeout``
    seconds.
    """
    state = XenbusState.UNKNOWN
    try:
        async with asyncio.timeout(timeout), store.watch(f"{device.backend}/state") as watch:
            async for _ in watch:
                state = await read_state(store, device.backend)
                if state == XenbusState.CONNECTED:
                    return
                if state in (XenbusState.CLOSING, XenbusState.CLOSED):
                    raise DeviceError(f"{device} failed: {await _backend_reason(store, device)}")
    except TimeoutError:
        zone_state = await read_state(store, device.frontend)
        reason = await _backend_reason(store, device)
        raise DeadlineError(
            f"{device} was not connected within {timeout:g} s: "
            f"the backend is {_name(state)}, the zone's driver {_name(zone_state)}; {reason}"
        ) from None


async def find_devices(nodes: Nodes, domain_id: int, *, backend_id: int = 0) -> list[Device]:
    """All devices of a zone that one domain serves, as its own directories tell: the zone has no say in it."""
    devices: list[Device] = []
    root = f"/local/domain/{backend_id}/backend"
    for kind in await _children(nodes, root):
        for number in await _children(nodes, f"{root}/{kind}/{domain_id}"):
            devices.append(Device(kind, domain_id, int(number), backend_id))
    return devices


async def detach(store: Store, devices: Sequence[Device], *, timeout: float, zone_runs: bool) -> None:
    """Takes devices away, so that the backend has let go of everything when this returns.

    While the zone runs, its drivers are asked first; what they have not given up after ``timeout`` seconds is taken by
    force. Then, or for a zone that is dead, the frontends are removed, and the backends close by themselves. Raises
    :class:`DeadlineError` if they do not within another ``timeout`` seconds; the nodes are removed all the same.
    """
    if zone_runs:
        await store.transaction(lambda tx: _ask_to_close(tx, devices))
        await _all_closed(store, devices, timeout)
    await store.transaction(lambda tx: _force_closed(tx, devices))
    still_open = await _all_closed(store, devices, timeout)
    await store.transaction(lambda tx: forget(tx, devices))
    if still_open:
        names = ", ".join(map(str, still_open))
        raise DeadlineError(f"the backend did not let go of {names} within {timeout:g} s", hint="see dmesg in the host")


async def forget(nodes: Nodes, devices: Iterable[Device]) -> None:
    """Removes the nodes of both ends, and of the backend's directory for the zone once it is empty."""
    parents: dict[str, None] = {}
    for device in devices:
        for path in (device.frontend, device.backend, device.backend_error.removesuffix("/error")):
            await nodes.remove(path)
        for path in (device.backend, device.backend_error.removesuffix("/error")):
            parents[path.rpartition("/")[0]] = None
    for parent in parents:
        if not await _children(nodes, parent):
            await nodes.remove(parent)


async def _children(nodes: Nodes, path: str) -> list[str]:
    try:
        return await nodes.list(path)
    except StoreNotFoundError:
        return []


async def _ask_to_close(nodes: Nodes, devices: Sequence[Device]) -> None:
    for device in devices:
        if await nodes.exists(f"{device.backend}/state"):
            await nodes.put(
                (Entry(f"{device.backend}/online", "0"), Entry(f"{device.backend}/state", _text(XenbusState.CLOSING)))
            )


async def _force_closed(nodes: Nodes, devices: Sequence[Device]) -> None:
    # A backend whose frontend is gone closes without asking it.
    for device in devices:
        await nodes.remove(device.frontend)
        if await read_state(nodes, device.backend) not in (XenbusState.UNKNOWN, XenbusState.CLOSED):
            await nodes.put(
                (Entry(f"{device.backend}/online", "0"), Entry(f"{device.backend}/state", _text(XenbusState.CLOSING)))
            )


async def _all_closed(store: Store, devices: Sequence[Device], timeout: float) -> list[Device]:
    # Returns those whose backends are not closed after `timeout` seconds.
    waiting = list(devices)
    try:
        async with asyncio.timeout(timeout):
            while waiting:
                device = waiting[0]
                async with store.watch(f"{device.backend}/state") as watch:
                    async for _ in watch:
                        if await read_state(store, device.backend) in (XenbusState.UNKNOWN, XenbusState.CLOSED):
                            break
                del waiting[0]
    except TimeoutError:
        return waiting
    return []


async def _backend_reason(store: Nodes, device: Device) -> str:
    reason = await store.find(device.backend_error)
    return f"the backend says {decode_text(reason[:200])!r}" if reason else "the backend gave no reason"


def _parse_state(value: bytes, directory: str) -> XenbusState:
    try:
        return XenbusState(parse_integer(value, 0, max(XenbusState), name=f"{directory}/state"))
    except StoreValueError:
        return XenbusState.UNKNOWN


def _name(state: XenbusState) -> str:
    return state.name.lower().replace("_", " ")


def _text(value: str | int) -> str:
    return str(int(value)) if isinstance(value, int) else value
