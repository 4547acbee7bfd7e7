"""The channel of a zone: two byte rings in pages that the zone granted, in the layout of libxenvchan.

The zone's agent is the server: it allocates the pages and an event channel and names both in the store. This is the
client. Layout: ``io/libxenvchan.h``, ``struct vchan_interface``; "left" is what the client writes, "right" what it
reads. The zone may write anything into these pages at any time: sizes and grants are copied once and checked, counters
are checked at every look, and nothing that was read stays in shared memory.

Going to sleep and waking up. Whoever finds nothing to read (or no room) sets a bit in the byte by which it asks the
other side for events (the client: ``srv_notify``), looks once more, and then waits. Whoever has written (or read) and
finds the bit set clears it and raises an event. libxenvchan clears the one bit atomically. Python has no atomic
operations, so a bit that the other side sets at that moment could be lost; hence the whole byte is cleared and *then*
the event is raised, always. The other side wakes after whatever it set was lost, looks again, and asks again.

Liveness. ``cli_live`` and ``srv_live`` are 1 while that side is there; ``cli_live`` is 2 while the server waits for a
client. When a client leaves or dies, the kernel sets ``cli_live`` to 0 and raises an event. The server then offers the
next client new pages, or empties both rings, sets ``cli_live`` to 2 again and raises an event; a client awaits the 2.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from zonal.errors import DeadlineError, WrongStateError, ZonalError
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.events import EventChannel, EventChannelClosedError, EventChannelError, EventDevice
from zonal.xen.grants import GrantDevice, SharedPages
from zonal.xen.ring import RingCorruptError, RingReader, RingWriter, fence
from zonal.xen.store import Store, parse_integer

CONTROL = struct.Struct("=4I2H4B")
"""``struct vchan_interface`` without its grants: left cons and prod, right cons and prod, left and right order,
``cli_live``, ``srv_live``, ``cli_notify``, ``srv_notify``."""
LEFT_CONS, LEFT_PROD, RIGHT_CONS, RIGHT_PROD = range(4)
ORDERS_OFFSET, CLI_LIVE, SRV_LIVE, CLI_NOTIFY, SRV_NOTIFY = 16, 20, 21, 22, 23
NOTIFY_WRITE = 1
NOTIFY_READ = 2

PAGE_ORDER = 12
IN_PAGE_OFFSETS = {10: 1024, 11: 2048}
"""Rings of these orders live in the control page itself, at that offset."""
ORDER_MAX = 20

LIVE, WAITING_FOR_CLIENT = 1, 2

_REFERENCE_MAX = 0xFFFF_FFFF
_PORT_MAX = 0x1FFFF  # EVTCHN_2L and FIFO together: event_channel.h, EVTCHN_FIFO_NR_CHANNELS
_READ_LIMIT = 120 << 10


class ChannelError(ZonalError):
    """The zone's side of the channel breaks the protocol."""

    grpc_code = "ABORTED"


class ChannelClosedError(ChannelError, WrongStateError):
    """The channel cannot be written to any more."""

    grpc_code = "ABORTED"


@dataclass(frozen=True, slots=True)
class Layout:
    """What a server's control page says of its rings: sizes as powers of two, and grants."""

    left_order: int
    right_order: int
    left_grants: tuple[int, ...]
    right_grants: tuple[int, ...]


def parse_layout(page: bytes) -> Layout:
    """Checks a copy of the control page; raises :class:`ChannelError` naming what is impossible."""
    fields = CONTROL.unpack_from(page)
    left_order, right_order = fields[4], fields[5]
    grants_end = PAGE_SIZE
    for order in (left_order, right_order):
        if order not in IN_PAGE_OFFSETS and not PAGE_ORDER <= order <= ORDER_MAX:
            raise ChannelError(f"a ring of the channel has order {order}; it must be from 10 to {ORDER_MAX}")
        grants_end = min(grants_end, IN_PAGE_OFFSETS.get(order, PAGE_SIZE))
    if left_order == right_order and left_order in IN_PAGE_OFFSETS:
        raise ChannelError(f"both rings of the channel have order {left_order}, which is the same place in the page")
    left_count, right_count = _page_count(left_order), _page_count(right_order)
    if CONTROL.size + 4 * (left_count + right_count) > grants_end:
        raise ChannelError(f"the grants of rings of orders {left_order} and {right_order} do not fit into the page")
    grants = struct.unpack_from(f"={left_count + right_count}I", page, CONTROL.size)
    return Layout(left_order, right_order, grants[:left_count], grants[left_count:])


class Channel:
    """The host's end of a zone's channel. An async context manager; made by :meth:`connect`."""

    def __init__(
        self, control: SharedPages, event: EventChannel, reader: RingReader, writer: RingWriter, resources: ExitStack
    ) -> None:
        self._control = control.buffer
        self._event = event
        self._reader = reader
        self._writer = writer
        self._resources = resources
        self._writing = asyncio.Lock()
        self._peer_gone = False
        self._closed = False

    @classmethod
    async def connect(
        cls,
        store: Store,
        events: EventDevice,
        grants: GrantDevice,
        domain_id: int,
        path: str,
        *,
        timeout: float,
        epoch: str | None = None,
    ) -> Self:
        """Waits for the server's ``ring-ref`` and ``event-channel`` below ``path`` in the store, and connects.

        With ``epoch``, what the server offers counts only once ``epoch`` below ``path`` has that value, which it writes
        last: so a client that follows another one does not take the offer that was made to its predecessor.

        Raises :class:`DeadlineError` if that takes more than ``timeout`` seconds, :class:`StoreValueError` or
        :class:`ChannelError` for values that cannot be, and :class:`GrantError` or :class:`EventChannelError` if Xen
        refuses them. Nothing stays mapped or bound then.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        reference, port = await _wait_for_server(store, path, epoch, timeout)
        with ExitStack() as stack:
            event = stack.enter_context(events.bind_interdomain(domain_id, port))
            control = stack.enter_context(grants.map(domain_id, [reference]))
            control.notify_on_unmap(CLI_LIVE, event.port)
            try:
                async with asyncio.timeout_at(deadline):
                    await _wait_for_turn(control.buffer, event)
            except TimeoutError:
                live: int = control.buffer[CLI_LIVE]
                raise DeadlineError(
                    f"the agent of domain {domain_id} took no new connection within {timeout:g} s (cli_live is {live})"
                ) from None
            reader, writer = _map_rings(stack, grants, domain_id, control.buffer)
            control.buffer[SRV_NOTIFY] = NOTIFY_WRITE
            control.buffer[CLI_LIVE] = LIVE
            event.notify()
            return cls(control, event, reader, writer, stack.pop_all())

    async def read(self, limit: int = _READ_LIMIT) -> bytes:
        """Some bytes, at most ``limit``, as soon as there are any; nothing once the other side has closed.

        Raises :class:`RingCorruptError` for impossible counters and :class:`ChannelClosedError` after :meth:`close`.
        """
        while True:
            self._check_open()
            seen = self._event.count
            # Before the ring is looked at: what the server wrote before it closed is there then.
            open_before = self._peer_is_there()
            if self._reader.available() or self._request(NOTIFY_WRITE, self._reader.available):
                data = self._reader.read(limit)
                self._notify_peer(NOTIFY_READ)
                return data
            if not open_before:
                return b""
            await self._wait(seen)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Writes all of ``data``; writes of several tasks do not mix.

        Raises :class:`ChannelClosedError` once either side has closed, whatever part has been written by then, and
        :class:`RingCorruptError` for impossible counters. Cancelled half-way, a part of ``data`` has been written.
        """
        rest = memoryview(data).cast("B")
        async with self._writing:
            while rest:
                self._check_open()
                seen = self._event.count
                if not self._peer_is_there():
                    raise ChannelClosedError("the zone's agent has closed its channel")
                if self._writer.space() or self._request(NOTIFY_READ, self._writer.space):
                    rest = rest[self._writer.write(rest) :]
                    self._notify_peer(NOTIFY_WRITE)
                else:
                    await self._wait(seen)

    def offer(self, data: bytes | bytearray | memoryview) -> bool:
        """Writes all of ``data`` at once if nobody else is writing and there is room for it; says whether it did.

        Whatever is wrong with the channel is no matter here: it is what :meth:`write` raises.
        """
        view = memoryview(data).cast("B")
        try:
            if self._closed or self._writing.locked() or not self._peer_is_there() or self._writer.space() < len(view):
                return False
        except RingCorruptError:
            return False
        self._writer.write(view)
        with suppress(EventChannelError):
            self._notify_peer(NOTIFY_WRITE)
        return True

    def peer_gone(self) -> None:
        """To be called when the zone has died, of which the channel itself learns nothing.

        What is in the ring can still be read; then comes the end, as if the zone had closed.
        """
        self._peer_gone = True
        self._event.wake()

    def close(self) -> None:
        """Tells the other side, unmaps and unbinds everything, and ends every wait. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._control[CLI_LIVE] = 0
        self._resources.close()  # the unmap notice tells the other side

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ChannelClosedError("the channel is closed")

    def _peer_is_there(self) -> bool:
        return not self._peer_gone and self._control[SRV_LIVE] == LIVE

    def _request(self, bit: int, look: Callable[[], int]) -> int:
        # Asks for an event, then looks again for what came before the request was seen.
        self._control[SRV_NOTIFY] |= bit
        fence()
        return look()

    def _notify_peer(self, bit: int) -> None:
        fence()  # the counter must be out before the other side's request is read
        if self._control[CLI_NOTIFY] & bit:
            self._control[CLI_NOTIFY] = 0
            self._event.notify()

    async def _wait(self, seen: int) -> None:
        try:
            await self._event.wait(seen)
        except EventChannelClosedError:
            self._check_open()
            raise


async def _wait_for_server(store: Store, path: str, epoch: str | None, timeout: float) -> tuple[int, int]:
    try:
        async with asyncio.timeout(timeout), store.watch(path) as watch:
            async for _ in watch:
                if epoch is not None and await store.find(f"{path}/epoch") != epoch.encode():
                    continue
                reference = await store.find(f"{path}/ring-ref")
                port = await store.find(f"{path}/event-channel")
                if reference and port:
                    return (
                        parse_integer(reference, 1, _REFERENCE_MAX, name=f"{path}/ring-ref"),
                        parse_integer(port, 1, _PORT_MAX, name=f"{path}/event-channel"),
                    )
    except TimeoutError:
        raise DeadlineError(f"no agent offered a channel at {path} in the Xen store within {timeout:g} s") from None
    raise AssertionError("a watch ends only by an exception")


async def _wait_for_turn(control: memoryview, event: EventChannel) -> None:
    while True:
        seen = event.count
        if control[CLI_LIVE] == WAITING_FOR_CLIENT:
            return
        await event.wait(seen)


def _map_rings(
    stack: ExitStack, grants: GrantDevice, domain_id: int, control: memoryview
) -> tuple[RingReader, RingWriter]:
    layout = parse_layout(bytes(control))
    left = _ring_memory(stack, grants, domain_id, control, layout.left_order, layout.left_grants)
    right = _ring_memory(stack, grants, domain_id, control, layout.right_order, layout.right_grants)
    counters = _view(stack, control[:ORDERS_OFFSET].cast("I"))
    name = f"of the channel of domain {domain_id}"
    return (
        RingReader(right, counters, prod=RIGHT_PROD, cons=RIGHT_CONS, name=f"to the host {name}"),
        RingWriter(left, counters, prod=LEFT_PROD, cons=LEFT_CONS, name=f"from the host {name}"),
    )


def _ring_memory(
    stack: ExitStack,
    grants: GrantDevice,
    domain_id: int,
    control: memoryview,
    order: int,
    references: tuple[int, ...],
) -> memoryview:
    if order in IN_PAGE_OFFSETS:
        offset = IN_PAGE_OFFSETS[order]
        return _view(stack, control[offset : offset + (1 << order)])
    return _view(stack, stack.enter_context(grants.map(domain_id, references)).buffer[:])


def _view(stack: ExitStack, memory: memoryview) -> memoryview:
    # Pages cannot be unmapped while a view of them is held, so views are released first, whoever still refers to them.
    stack.callback(memory.release)
    return memory


def _page_count(order: int) -> int:
    return 1 << (order - PAGE_ORDER) if order >= PAGE_ORDER else 0
