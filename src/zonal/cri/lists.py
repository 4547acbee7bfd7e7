"""Lists, statistics and metrics of both runtimes, ours first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from google.protobuf.message import Message

from zonal.cri.api import runtime_pb2 as cri
from zonal.cri.merging import matches_container, matches_sandbox
from zonal.cri.other_runtime import RUNTIME_SERVICE, OtherRuntime
from zonal.cri.own_calls import OwnCalls, decode
from zonal.cri.routes import Routes
from zonal.daemon.rpc import Context
from zonal.errors import UnsupportedError

PIECE = 500
"""Items in a message of a stream: far below the 16 MiB that a kubelet takes."""

MEASURES = ("ListContainerStats", "ListPodSandboxStats", "ListPodSandboxMetrics")
"""Lists of figures: the other runtime's are left out while it does not answer."""
STREAMS: dict[str, tuple[str, type[Message]]] = {
    "StreamPodSandboxes": ("ListPodSandbox", cri.StreamPodSandboxesResponse),
    "StreamContainers": ("ListContainers", cri.StreamContainersResponse),
    "StreamContainerStats": ("ListContainerStats", cri.StreamContainerStatsResponse),
    "StreamPodSandboxStats": ("ListPodSandboxStats", cri.StreamPodSandboxStatsResponse),
    "StreamPodSandboxMetrics": ("ListPodSandboxMetrics", cri.StreamPodSandboxMetricsResponse),
}
"""Streamed lists, with the call that has the same request and, in its field 1, the same items: the other runtime is
asked by that, which all versions have."""


class Lists:
    """The lists of both; what they tell is remembered for the routing."""

    def __init__(self, own: OwnCalls, other: OtherRuntime, routes: Routes) -> None:
        self._own = own
        self._other = other
        self._routes = routes
        self._theirs: dict[str, Callable[[bytes], Awaitable[bytes]]] = {
            "ListPodSandbox": self._their_sandboxes,
            "ListContainers": self._their_containers,
            **{name: self._their_measures(name) for name in MEASURES},
        }

    def unary(self) -> dict[str, Callable[[bytes, Context], Awaitable[bytes]]]:
        """The calls with one reply."""
        return {name: self._merged(name) for name in self._theirs}

    def streams(self) -> dict[str, Callable[[bytes, Context], Awaitable[None]]]:
        """The calls with many."""
        return {name: self._streamed(name, *STREAMS[name]) for name in STREAMS}

    async def sandboxes(self, request: cri.ListPodSandboxRequest, context: Context) -> None:
        """Learns of sandboxes."""
        await self._merged("ListPodSandbox")(request.SerializeToString(), context)

    async def containers(self, request: cri.ListContainersRequest, context: Context) -> None:
        """Learns of containers."""
        await self._merged("ListContainers")(request.SerializeToString(), context)

    async def own_has(self, kind: str, key: str, context: Context) -> bool:
        """Whether a sandbox or container of ours has an id that begins with ``key``."""
        if kind == "sandbox":
            request = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(id=key))
            found = (await self._own.reply("ListPodSandbox", request, context, cri.ListPodSandboxResponse)).items
        else:
            wanted = cri.ListContainersRequest(filter=cri.ContainerFilter(id=key))
            found = (await self._own.reply("ListContainers", wanted, context, cri.ListContainersResponse)).containers
        ids = [each.id for each in found if each.id.startswith(key)]
        if key in ids:
            self._routes.ids[key] = True
        return bool(ids)

    def _merged(self, name: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        theirs = self._theirs[name]

        async def call(data: bytes, context: Context) -> bytes:
            own, other = await asyncio.gather(self._ours(name, data, context), theirs(data))
            if own is None:
                if not other:
                    return await self._own.unary(name, data, context)  # which says why there are none
                return other
            if name == "ListPodSandbox":
                self._routes.learn(cri.ListPodSandboxResponse.FromString(own).items, ours=True)
            return own + other

        return call

    async def _ours(self, name: str, data: bytes, context: Context) -> bytes | None:
        """Our part of a list, or ``None`` where we have no such list."""
        try:
            return await self._own.unary(name, data, context)
        except UnsupportedError:
            return None

    def _streamed(
        self, name: str, listing: str, response: type[Message]
    ) -> Callable[[bytes, Context], Awaitable[None]]:
        async def call(data: bytes, context: Context) -> None:
            await self._own.stream(name, data, context, context.write)
            for piece in pieces(await self._theirs[listing](data), response):
                await context.write(piece)

        return call

    async def _their_sandboxes(self, data: bytes) -> bytes:
        wanted = decode(cri.ListPodSandboxRequest, data).filter
        whole = wanted == cri.PodSandboxFilter()
        reply = await self._other.ask(RUNTIME_SERVICE, "ListPodSandbox", data)
        if reply is None:
            last = [each for each in self._other.sandboxes.values() if matches_sandbox(each, wanted)]
            return cri.ListPodSandboxResponse(items=last).SerializeToString()
        items = cri.ListPodSandboxResponse.FromString(reply).items
        if whole:
            self._other.sandboxes = {}
        self._other.sandboxes.update((each.id, each) for each in items)
        self._routes.learn(items, ours=False)
        return reply

    async def _their_containers(self, data: bytes) -> bytes:
        wanted = decode(cri.ListContainersRequest, data).filter
        whole = wanted == cri.ContainerFilter()
        reply = await self._other.ask(RUNTIME_SERVICE, "ListContainers", data)
        if reply is None:
            last = [each for each in self._other.containers.values() if matches_container(each, wanted)]
            return cri.ListContainersResponse(containers=last).SerializeToString()
        items = cri.ListContainersResponse.FromString(reply).containers
        if whole:
            self._other.containers = {}
        self._other.containers.update((each.id, each) for each in items)
        return reply

    def _their_measures(self, name: str) -> Callable[[bytes], Awaitable[bytes]]:
        async def measures(data: bytes) -> bytes:
            return await self._other.ask(RUNTIME_SERVICE, name, data) or b""

        return measures


def pieces(data: bytes, response: type[Message]) -> Iterator[bytes]:
    """A list as the messages of a stream, of ``PIECE`` items each: the items are in the one field of both."""
    message: Any = response.FromString(data)
    field = response.DESCRIPTOR.fields_by_number[1].name
    items = getattr(message, field)
    for first in range(0, len(items), PIECE):
        yield response(**{field: items[first : first + PIECE]}).SerializeToString()
