"""The channel's client from the host to itself: against the agent's server, Xen's own library, and hostile servers."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zonal.errors import DeadlineError
from zonal.xen import channel as layout
from zonal.xen.channel import Channel, ChannelClosedError, ChannelError
from zonal.xen.events import EventChannel, EventChannelError, EventDevice
from zonal.xen.grants import GrantAllocator, GrantDevice, GrantError, SharedPages
from zonal.xen.ring import RingCorruptError
from zonal.xen.store import Entry, Store, StoreValueError

PATH = "/zonal-test-channel"
AGENT_PATH = "/local/domain/0/zonal/channel"


@dataclass
class Host:
    """What a client needs."""

    store: Store
    events: EventDevice
    grants: GrantDevice

    async def connect(self, path: str = PATH, *, timeout: float = 60, epoch: str | None = None) -> Channel:
        return await Channel.connect(self.store, self.events, self.grants, 0, path, timeout=timeout, epoch=epoch)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with await Store.connect() as store:
        with EventDevice() as events, GrantDevice() as grants:
            yield Host(store, events, grants)
            await store.remove(PATH)
            await store.remove("/local/domain/0/zonal")


@dataclass
class Server:
    """The pages and the event channel of a server that does only what a test makes it do."""

    store: Store
    event: EventChannel
    control: SharedPages
    control_reference: int
    ring_references: list[int] = field(default_factory=list[int])

    def header(self, *, left_order: int = 12, right_order: int = 12, client: int = 2, server: int = 1) -> None:
        packed = layout.CONTROL.pack(0, 0, 0, 0, left_order, right_order, client, server, 1, 0)
        self.control.buffer[: len(packed)] = packed
        grants = struct.pack(f"={len(self.ring_references)}I", *self.ring_references)
        self.control.buffer[len(packed) : len(packed) + len(grants)] = grants

    def counter(self, index: int, value: int) -> None:
        self.control.buffer[4 * index : 4 * index + 4] = struct.pack("=I", value)

    async def publish(self, **changed: str) -> None:
        values = {"ring-ref": str(self.control_reference), "event-channel": str(self.event.port)}
        values.update({name.replace("_", "-"): value for name, value in changed.items()})
        await self.store.put(Entry(f"{PATH}/{name}", value) for name, value in values.items())


@pytest.fixture
async def server(host: Host) -> AsyncIterator[Server]:
    with GrantAllocator() as allocator:
        control, (reference,) = allocator.allocate(0, 1)
        rings, ring_references = allocator.allocate(0, 2)
        with control, rings, host.events.bind_unbound(0) as event:
            yield Server(host.store, event, control, reference, ring_references)


@asynccontextmanager
async def program(*arguments: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
        assert await process.stdout.readline() == b"done\n"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def sample(size: int) -> bytes:
    """Bytes in which no two stretches are alike."""
    return b"".join(hashlib.sha256(number.to_bytes(4)).digest() for number in range(size // 32 + 1))[:size]


async def echo(channel: Channel, data: bytes, *, piece: int) -> bytes:
    received = bytearray()

    async def collect() -> None:
        while len(received) < len(data):
            got = await channel.read()
            assert got
            received.extend(got)

    async with asyncio.TaskGroup() as group:
        group.create_task(collect())
        for start in range(0, len(data), piece):
            await channel.write(data[start : start + piece])
    return bytes(received)


@pytest.mark.parametrize(("left", "right"), [(1000, 2000), (2048, 1000), (2048, 8192), (65536, 65536), (1 << 20, 4096)])
async def test_the_reference_implementation_gets_on_with_it(host: Host, left: int, right: int) -> None:
    script = str(Path(__file__).with_name("vchan_server.py"))
    async with program(script, PATH, str(left), str(right)), await host.connect() as channel:
        data = sample(100_000)
        assert await echo(channel, data, piece=7777) == data
        assert await echo(channel, data[:3000], piece=100) == data[:3000]


async def test_the_agent_gets_on_with_it(host: Host) -> None:
    script = str(Path(__file__).with_name("agent_server.py"))
    await host.store.make_directory(AGENT_PATH)
    async with AsyncExitStack() as stack:
        # A second meeting: what was published for the first is not taken for it.
        for epoch in ("one", "two"):
            await stack.enter_async_context(program(script, epoch))
            channel = await host.connect(AGENT_PATH, epoch=epoch)
            data = sample(1_000_000)
            assert await echo(channel, data, piece=60_000) == data
            assert await echo(channel, data[:1000], piece=7) == data[:1000]
            channel.close()


async def test_a_client_that_leaves_is_noticed(host: Host, server: Server) -> None:
    server.header()
    await server.publish()
    channel = await host.connect()
    assert server.control.buffer[layout.CLI_LIVE] == 1
    seen = server.event.count
    channel.close()
    channel.close()
    await server.event.wait(seen)
    assert server.control.buffer[layout.CLI_LIVE] == 0
    with pytest.raises(ChannelClosedError):
        await channel.read()
    with pytest.raises(ChannelClosedError):
        await channel.write(b"x")


async def test_the_next_client_waits_for_its_turn(host: Host, server: Server) -> None:
    server.header(client=0)
    await server.publish()
    with pytest.raises(DeadlineError, match="cli_live is 0"):
        await host.connect(timeout=0.05)
    async with asyncio.TaskGroup() as group:
        connecting = group.create_task(host.connect())
        server.header(client=2)
        server.event.notify()
    connecting.result().close()


async def test_closing_ends_what_waits(host: Host, server: Server) -> None:
    server.header()
    await server.publish()
    channel = await host.connect()
    reading = asyncio.ensure_future(channel.read())
    writing = asyncio.ensure_future(channel.write(bytes(10_000)))
    await asyncio.sleep(0)
    channel.close()
    for waiting in (reading, writing):
        with pytest.raises(ChannelClosedError):
            await waiting


async def test_what_there_is_no_room_for_is_not_begun(host: Host, server: Server) -> None:
    server.header()
    await server.publish()
    async with await host.connect() as channel:
        assert not channel.offer(bytes(4097))
        assert channel.offer(bytes(4000))
        assert not channel.offer(bytes(97))
        assert channel.offer(bytes(96))
        server.counter(layout.LEFT_CONS, 9999)
        assert not channel.offer(b"x")
        with pytest.raises(RingCorruptError):
            await channel.write(b"x")


async def test_all_is_read_before_the_end(host: Host, server: Server) -> None:
    server.header()
    await server.publish()
    async with await host.connect() as channel:
        server.counter(layout.RIGHT_PROD, 4096)
        server.control.buffer[layout.SRV_LIVE] = 0
        assert await channel.read(96) == bytes(96)
        assert await channel.read() == bytes(4000)
        assert await channel.read() == b""
        with pytest.raises(ChannelClosedError, match="agent has closed"):
            await channel.write(b"x")


async def test_a_dead_zone_is_the_end_too(host: Host, server: Server) -> None:
    server.header()
    await server.publish()
    async with await host.connect() as channel:
        reading = asyncio.ensure_future(channel.read())
        await asyncio.sleep(0)
        channel.peer_gone()
        assert await reading == b""


async def test_no_server_is_a_deadline(host: Host) -> None:
    with pytest.raises(DeadlineError, match=f"no agent offered a channel at {PATH}"):
        await host.connect(timeout=0.05)


async def test_another_epoch_is_not_taken(host: Host, server: Server) -> None:
    server.header()
    await server.publish(epoch="before")
    with pytest.raises(DeadlineError):
        await host.connect(timeout=0.05, epoch="now")
    async with asyncio.TaskGroup() as group:
        connecting = group.create_task(host.connect(epoch="now"))
        await server.publish(epoch="now")
    connecting.result().close()


@pytest.mark.parametrize("value", ["-1", "0", "4294967296", "7x", "9" * 1000])
async def test_impossible_references_and_ports_are_named(host: Host, server: Server, value: str) -> None:
    server.header()
    await server.publish(ring_ref=value)
    with pytest.raises(StoreValueError, match="ring-ref"):
        await host.connect()
    await server.publish(event_channel=value)
    with pytest.raises(StoreValueError, match="event-channel"):
        await host.connect()


async def test_what_xen_refuses_leaves_nothing_bound(host: Host, server: Server) -> None:
    server.header()
    for _ in range(3):
        await server.publish(ring_ref="4000000000")
        with pytest.raises(GrantError, match="grant 4000000000 of domain 0"):
            await host.connect()
    await server.publish(event_channel="100000")
    with pytest.raises(EventChannelError, match="port 100000"):
        await host.connect()
    server.ring_references[1] = 4_000_000_000
    server.header()
    await server.publish()
    with pytest.raises(GrantError):
        await host.connect()
    server.header(right_order=30)
    with pytest.raises(ChannelError, match="order 30"):
        await host.connect()
    assert server.control.buffer[layout.CLI_LIVE] == 0  # told by the unmapping, each time


@pytest.mark.parametrize("produced", [4097, 0x8000_0000, 0xFFFF_FFFF])
async def test_impossible_counters_end_a_read(host: Host, server: Server, produced: int) -> None:
    server.header()
    await server.publish()
    async with await host.connect() as channel:
        reading = asyncio.ensure_future(channel.read())
        await asyncio.sleep(0)
        server.counter(layout.RIGHT_PROD, produced)
        server.event.notify()
        with pytest.raises(RingCorruptError, match=f"domain 0 is corrupt: {produced} bytes written"):
            await reading


async def test_impossible_counters_end_a_write(host: Host, server: Server) -> None:
    server.header()
    await server.publish()
    async with await host.connect() as channel:
        writing = asyncio.ensure_future(channel.write(bytes(5000)))
        await asyncio.sleep(0)
        server.counter(layout.LEFT_CONS, 5000)
        server.event.notify()
        with pytest.raises(RingCorruptError, match="5000 read"):
            await writing


async def test_impossible_counters_at_the_start_are_refused(host: Host, server: Server) -> None:
    server.header()
    server.counter(layout.LEFT_PROD, 9999)
    await server.publish()
    with pytest.raises(RingCorruptError, match="9999 bytes written and 0 read"):
        await host.connect()


async def test_orders_that_change_later_do_not_matter(host: Host, server: Server) -> None:
    server.header()
    await server.publish()
    async with await host.connect() as channel:
        server.header(left_order=20, right_order=20, client=1)
        server.counter(layout.RIGHT_PROD, 4096)
        assert len(await channel.read()) == 4096
        await channel.write(bytes(4096))
