"""Events through the CRI's socket: in order, to all who follow, and no more than are waited for."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.cri.test_stats import DONE, POD, WEB, write_records
from tests.unit.daemon.local_zones import open_local_services
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.containers import Containers
from zonal.cri.events import MAX_WAITING, Events
from zonal.cri.logs import ContainerLogs
from zonal.cri.pod_network import AUTO, PodNetwork
from zonal.cri.pods import Pods
from zonal.cri.records import CriStore
from zonal.cri.server import STORE
from zonal.daemon.control import requested_zones
from zonal.errors import ResourceExhaustedError


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cri-") as path:
        yield Path(path)


class Open:
    """Events on real records, while the block runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __aenter__(self) -> Events:
        write_records(self._folder)
        self._services = open_local_services(self._folder)
        services = await self._services.__aenter__()
        self._store = CriStore.open(self._folder / STORE)
        requested, zones = requested_zones(services), services.zones
        pods = Pods(self._store, zones, requested, PodNetwork(services.networks, AUTO))
        containers = Containers(self._store, zones, services.images, requested, pods, ContainerLogs(zones))
        self.told = cast("Any", zones).told
        events = Events(self._store, zones, pods, containers)
        self._watching = asyncio.create_task(events.watch())
        return events

    async def __aexit__(self, *error: Any) -> None:
        self._watching.cancel()
        await asyncio.gather(self._watching, return_exceptions=True)
        self._store.close()
        await self._services.__aexit__(None, None, None)


async def follow(events: Events, count: int, ready: asyncio.Event) -> list[pb.ContainerEventResponse]:
    found: list[pb.ContainerEventResponse] = []
    stream = events.follow()
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    ready.set()
    while True:
        found.append(await waiting)
        if len(found) == count:
            await stream.aclose()
            return found
        waiting = asyncio.ensure_future(anext(stream))


async def test_all_who_follow_hear_everything_in_order_with_the_pod_as_it_is(folder: Path) -> None:
    kinds = [
        pb.CONTAINER_CREATED_EVENT,
        pb.CONTAINER_STARTED_EVENT,
        pb.CONTAINER_STOPPED_EVENT,
        pb.CONTAINER_DELETED_EVENT,
    ]
    async with Open(folder) as events:
        ready = [asyncio.Event(), asyncio.Event()]
        followers = [asyncio.ensure_future(follow(events, 4, each)) for each in ready]
        for each in ready:
            await each.wait()
        for kind in kinds:
            events.tell(kind, WEB, POD)
        for found in await asyncio.gather(*followers):
            assert [each.container_event_type for each in found] == kinds
            for each in found:
                assert each.container_id == WEB
                assert each.pod_sandbox_status.id == POD
                assert [status.id for status in each.containers_statuses] == [WEB, DONE]
                assert each.created_at > 0


async def test_who_does_not_keep_up_is_told_so_and_nobody_waits_for_them(folder: Path) -> None:
    async with Open(folder) as events:
        slow = events.follow()
        first = asyncio.ensure_future(anext(slow))
        await asyncio.sleep(0)
        ready = asyncio.Event()
        other = asyncio.ensure_future(follow(events, MAX_WAITING + 10, ready))
        await ready.wait()
        events.tell(pb.CONTAINER_STARTED_EVENT, WEB, POD)
        await first
        for _ in range(MAX_WAITING + 9):
            events.tell(pb.CONTAINER_STARTED_EVENT, WEB, "gone")
        assert len(await other) == MAX_WAITING + 10
        with pytest.raises(ResourceExhaustedError):
            async for _ in slow:
                pass
