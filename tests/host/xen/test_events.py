"""Event channels from the host to itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from zonal.xen.events import EventChannel, EventChannelClosedError, EventChannelError, EventDevice


@pytest.fixture
async def device() -> AsyncIterator[EventDevice]:
    with EventDevice() as device:
        yield device


@pytest.fixture
async def pair(device: EventDevice) -> AsyncIterator[tuple[EventChannel, EventChannel]]:
    with device.bind_unbound(0) as one, device.bind_interdomain(0, one.port) as two:
        await two.wait()  # the event that a fresh binding has pending
        yield one, two


async def test_events_go_both_ways(pair: tuple[EventChannel, EventChannel]) -> None:
    one, two = pair
    for _ in range(5):
        one.notify()
        await two.wait()
        two.notify()
        await one.wait()


async def test_events_nobody_waits_for_become_one(pair: tuple[EventChannel, EventChannel]) -> None:
    one, two = pair
    before = two.count
    for _ in range(100):
        one.notify()
    await two.wait()
    one.notify()
    await two.wait()
    assert two.count == before + 2


async def test_every_waiter_learns_of_an_event(pair: tuple[EventChannel, EventChannel]) -> None:
    one, two = pair
    seen = two.count
    async with asyncio.TaskGroup() as group:
        waiters = [group.create_task(two.wait(seen)) for _ in range(3)]
        await asyncio.sleep(0)
        one.notify()
    assert {waiter.result() for waiter in waiters} == {seen + 1}
    assert await two.wait(seen) == seen + 1  # a late one, too


async def test_closing_ends_every_wait(pair: tuple[EventChannel, EventChannel]) -> None:
    one, _ = pair
    waiting = asyncio.ensure_future(one.wait())
    await asyncio.sleep(0)
    one.close()
    with pytest.raises(EventChannelClosedError):
        await waiting
    with pytest.raises(EventChannelClosedError):
        one.notify()


async def test_a_port_can_be_bound_again_after_its_peer_left(device: EventDevice) -> None:
    with device.bind_unbound(0) as one:
        for _ in range(3):
            with device.bind_interdomain(0, one.port) as two:
                await two.wait()
                one.notify()
                await two.wait()
                with pytest.raises(EventChannelError, match=f"port {one.port} of domain 0"):
                    device.bind_interdomain(0, one.port)


async def test_a_domain_that_is_not_there_is_named(device: EventDevice) -> None:
    with pytest.raises(EventChannelError, match="port 7 of domain 32000"):
        device.bind_interdomain(32000, 7)


async def test_many_channels_share_the_device(device: EventDevice) -> None:
    pairs = [(one, device.bind_interdomain(0, one.port)) for one in [device.bind_unbound(0) for _ in range(100)]]
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(one.wait()) for one, _ in pairs]
        for _, two in pairs:
            two.notify()
    assert all(wait.result() == 1 for wait in waits)
