"""What happens to containers and pods, told to whoever follows (GetContainerEvents)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Final

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.containers import Containers
from zonal.cri.pods import Pods
from zonal.cri.records import CriStore
from zonal.errors import ResourceExhaustedError
from zonal.zones.spec import ZoneService

log = logging.getLogger(__name__)

MAX_WAITING: Final = 1000
"""Events that wait for one follower; who is further behind is dropped, and lists anew."""

_News = tuple[pb.ContainerEventType, str, str, int]
"""What it is, the container or sandbox, its pod, and when in ns of the wall clock."""


class Events:
    """See the module."""

    def __init__(self, store: CriStore, zones: ZoneService, pods: Pods, containers: Containers) -> None:
        self._store = store
        self._zones = zones
        self._pods = pods
        self._containers = containers
        self._followers: set[asyncio.Queue[pb.ContainerEventResponse | None]] = set()
        self._news: asyncio.Queue[_News] = asyncio.Queue()

    def tell(self, kind: pb.ContainerEventType, container_id: str, pod_id: str) -> None:
        """Has each follower hear of it, after all that was told before."""
        if self._followers:
            self._news.put_nowait((kind, container_id, pod_id, time.time_ns()))

    async def watch(self) -> None:
        """Passes on what is told, and tells of ends, which come by themselves; to be cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pass_on())
            async for event in self._zones.events(since_ns=0, until_ns=0):
                if event.action != "die":
                    continue
                if (entry := self._store.containers.get(event.zone_id)) is not None:
                    self.tell(pb.CONTAINER_STOPPED_EVENT, entry.id, entry.pod)
                elif event.zone_id in self._store.pods:
                    self.tell(pb.CONTAINER_STOPPED_EVENT, event.zone_id, event.zone_id)

    async def follow(self) -> AsyncGenerator[pb.ContainerEventResponse]:
        """Events from now on. Raises ``ResourceExhaustedError`` for a follower that is too slow."""
        queue: asyncio.Queue[pb.ContainerEventResponse | None] = asyncio.Queue(MAX_WAITING)
        self._followers.add(queue)
        try:
            while (event := await queue.get()) is not None:
                yield event
            raise ResourceExhaustedError(f"more than {MAX_WAITING} events were waiting", hint="list, and follow anew")
        finally:
            self._followers.discard(queue)

    async def _pass_on(self) -> None:
        """One after the other, in order: what is with a pod is looked up as it is then."""
        while True:
            news = await self._news.get()
            try:
                event = await self._event(*news)
            except Exception:  # one that cannot be told keeps nobody from the next
                log.exception("an event of %s cannot be told", news[1])
                continue
            for queue in tuple(self._followers):
                if queue.full():
                    self._followers.discard(queue)
                    queue.get_nowait()
                    queue.put_nowait(None)
                else:
                    queue.put_nowait(event)
            await asyncio.sleep(0)  # many at once are no reason to cut off those who do keep up

    async def _event(
        self, kind: pb.ContainerEventType, container_id: str, pod_id: str, now: int
    ) -> pb.ContainerEventResponse:
        event = pb.ContainerEventResponse(container_id=container_id, container_event_type=kind, created_at=now)
        if (pod := self._store.pods.get(pod_id)) is not None:
            event.pod_sandbox_status.CopyFrom(await self._pods.status(pod))
            for each in self._store.containers_of(pod_id):
                if each.made:
                    event.containers_statuses.append(await self._containers.status(each))
        return event
