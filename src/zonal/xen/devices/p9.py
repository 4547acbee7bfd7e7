"""9pfs devices: a way for a zone's 9P client to a server in the host, which is ours and not the kernel's.

Nodes: ``io/9pfs.h``. The zone's driver makes its rings when the backend says what it takes, and offers them; here they
are checked and mapped for the process that serves them, which then needs nothing of Xen's any more.
"""

from __future__ import annotations

import asyncio
import os
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from zonal.errors import DeadlineError
from zonal.xen.abi import p9
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.devices.xenbus import Device, DeviceError, XenbusState, plan_device, read_state
from zonal.xen.events import bind_for_process
from zonal.xen.grants import GrantDevice
from zonal.xen.store import Entry, Store, parse_integer

RING_PAGE_ORDER: Final = 8
"""1 MiB a ring: 512 KiB each way, of the zone's memory."""
MESSAGE_SIZE: Final = 1 << (RING_PAGE_ORDER + 12 - 2)
"""Bytes in one message: two fit into one way of a ring."""
_REFERENCE_MAX = 0xFFFF_FFFF
_PORT_MAX = 0x1FFFF


@dataclass(frozen=True, slots=True)
class MappedRing:
    """One ring, ready to be taken by the process that serves it."""

    port: int
    """Of ``Rings.events``."""
    control: int
    """Offset in ``Rings.grants``, of the page with the indices."""
    data: int
    """Offset in ``Rings.grants``."""
    data_bytes: int


class Rings:
    """What a zone offered, as descriptors to hand on. A context manager, which closes them on this side."""

    def __init__(self, domain_id: int, offers: list[tuple[int, int]], grants: GrantDevice) -> None:
        """``offers``: the reference of the indices' page and the port of each. Raises ``GrantError`` and the like."""
        with ExitStack() as stack:
            self._device = stack.enter_context(GrantDevice())
            self.grants = self._device.descriptor
            """/dev/xen/gntdev, with just these pages in it."""
            self.events, ports = bind_for_process(domain_id, [port for _, port in offers])
            """/dev/xen/evtchn, with just these ports in it, for no other domain."""
            stack.callback(os.close, self.events)
            self.rings: list[MappedRing] = []
            for (reference, _), port in zip(offers, ports, strict=True):
                references = _data_references(domain_id, reference, grants)
                control = self._device.reserve(domain_id, [reference])
                data = self._device.reserve(domain_id, references)
                self.rings.append(MappedRing(port, control, data, len(references) * PAGE_SIZE))
            self._stack = stack.pop_all()

    def __enter__(self) -> Rings:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def p9_device(domain_id: int, number: int) -> Device:
    """The device with this number."""
    return Device("9pfs", domain_id, number)


def plan_9pfs(domain_id: int, number: int, *, tag: str) -> list[Entry]:
    """All nodes of one device; the zone mounts it by its ``tag``."""
    return plan_device(
        p9_device(domain_id, number),
        frontend={"tag": tag},
        backend={
            "versions": "1",
            "max-rings": p9.RINGS_MAX,
            "max-ring-page-order": RING_PAGE_ORDER,
            "security_model": "none",
            "state": XenbusState.INIT_WAIT,
        },
    )


async def offered_rings(store: Store, device: Device, *, timeout: float) -> list[tuple[int, int]]:
    """Waits until the zone's driver has made its rings; the grant of the indices' page and the port of each.

    Raises ``DeviceError``, ``StoreValueError`` for values that cannot be, ``DeadlineError`` after ``timeout`` seconds.
    """
    state = XenbusState.UNKNOWN
    try:
        async with asyncio.timeout(timeout), store.watch(f"{device.frontend}/state") as watch:
            async for _ in watch:
                state = await read_state(store, device.frontend)
                if state in (XenbusState.CLOSING, XenbusState.CLOSED):
                    raise DeviceError(f"{device} failed: the zone's driver gave up")
                if state in (XenbusState.INITIALISED, XenbusState.CONNECTED):
                    break
    except TimeoutError:
        raise DeadlineError(
            f"{device} was not set up by the zone's driver within {timeout:g} s, which is {state.name.lower()}"
        ) from None
    folder = device.frontend
    count = await store.read_int(f"{folder}/num-rings", 1, p9.RINGS_MAX)
    offers: list[tuple[int, int]] = []
    for number in range(count):
        reference = parse_integer(
            await store.read(f"{folder}/ring-ref{number}"), 1, _REFERENCE_MAX, name=f"{folder}/ring-ref{number}"
        )
        port = parse_integer(
            await store.read(f"{folder}/event-channel-{number}"), 1, _PORT_MAX, name=f"{folder}/event-channel-{number}"
        )
        offers.append((reference, port))
    return offers


async def mark_connected(store: Store, device: Device) -> None:
    """Tells the zone's driver that its rings are served."""
    await store.write(f"{device.backend}/state", str(int(XenbusState.CONNECTED)))


async def mark_closing(store: Store, device: Device, *, timeout: float) -> None:
    """Asks the zone's driver to give its rings up; returns when it has, or after ``timeout`` seconds."""
    await store.write(f"{device.backend}/state", str(int(XenbusState.CLOSING)))
    try:
        async with asyncio.timeout(timeout), store.watch(f"{device.frontend}/state") as watch:
            async for _ in watch:
                if await read_state(store, device.frontend) in (XenbusState.UNKNOWN, XenbusState.CLOSED):
                    break
    except TimeoutError:
        return


def _data_references(domain_id: int, reference: int, grants: GrantDevice) -> list[int]:
    # Copied once: the zone may change the page at any time.
    with grants.map(domain_id, [reference], writable=False) as page:
        items = struct.unpack(f"={PAGE_SIZE // 4}I", page.buffer)
    order = items[p9.RING_ORDER]
    if not 1 <= order <= RING_PAGE_ORDER:
        raise DeviceError(f"a ring of 9pfs has order {order}, and it must be from 1 to {RING_PAGE_ORDER}")
    return list(items[p9.REFERENCES : p9.REFERENCES + (1 << order)])
