"""The CRI on a unix socket of its own, and its streaming server, beside the control API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc.aio

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.calls import Parts, cri_calls
from zonal.cri.containers import Containers
from zonal.cri.events import Events
from zonal.cri.images import Images
from zonal.cri.info import RuntimeInfo
from zonal.cri.logs import ContainerLogs
from zonal.cri.metrics import Metrics
from zonal.cri.passthrough import passing_through
from zonal.cri.pod_network import PodNetwork
from zonal.cri.pods import Pods
from zonal.cri.records import CriStore
from zonal.cri.routes import RoutingRule
from zonal.cri.stats import Stats
from zonal.cri.streaming.server import StreamingServer
from zonal.cri.streams import Streams
from zonal.daemon.control import Services, requested_zones
from zonal.daemon.rpc import Call, Handler, service_handler
from zonal.daemon.server import bind_socket

log = logging.getLogger(__name__)

STORE = "cri.db"
STOP_GRACE = 1.0
"""Seconds that calls get when zonald stops."""
_OPTIONS = (("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 16 << 20))


@asynccontextmanager
async def serving_cri(
    services: Services,
    socket: Path,
    state: Path,
    fallback: Path | None = None,
    rule: RoutingRule | None = None,
    *,
    network: str = "",
) -> AsyncGenerator[None]:
    """Serves both services within the block. Raises ``ZonalError`` when it cannot listen there.

    With ``fallback``, the socket of another runtime, pods that are not ours by ``rule`` are handed on to that. Pods are
    on ``network``; see ``PodNetwork``.
    """
    async with AsyncExitStack() as stack:
        store = CriStore.open(state / STORE)
        stack.callback(store.close)
        await _forget_lost(store, services)
        requested = requested_zones(services)
        zones = services.zones
        pod_network = PodNetwork(services.networks, network)
        pods = Pods(store, zones, requested, pod_network)
        logs = ContainerLogs(zones)
        stack.push_async_callback(logs.close)
        containers = Containers(store, zones, services.images, requested, pods, logs)
        await containers.take_back()
        events = Events(store, zones, pods, containers)
        watching = asyncio.create_task(events.watch())
        stack.callback(watching.cancel)
        looking = asyncio.create_task(pods.watch_networks())
        stack.callback(looking.cancel)
        streaming = await stack.enter_async_context(StreamingServer(Streams(store, zones, pods)))
        images = Images(services.images, state / "images")
        stats = Stats(store, zones, state)
        metrics = Metrics(store, zones, stats)
        info = RuntimeInfo(zones, pod_network)
        calls = cri_calls(Parts(store, zones, pods, containers, images, events, streaming, stats, metrics, info))
        if fallback is None:
            served = handlers(calls)
        else:
            served = await stack.enter_async_context(passing_through(calls, fallback, rule))
        server: grpc.aio.Server = cast("Any", grpc.aio).server(handlers=served, options=_OPTIONS)
        bind_socket(server, socket)
        stack.callback(socket.unlink, missing_ok=True)
        await server.start()
        stack.push_async_callback(server.stop, STOP_GRACE)
        log.info("the CRI is on %s", socket)
        yield


def handlers(calls: dict[str, Call]) -> list[Handler]:
    """Both services, with the calls by their names."""
    return [service_handler(service, calls) for service in pb.DESCRIPTOR.services_by_name.values()]


async def _forget_lost(store: CriStore, services: Services) -> None:
    """Of what was not made to its end, nothing is left; of what was, the kubelet asks for it to be removed."""
    there = {record.id for record in await services.zones.list()}
    for entry in tuple(store.pods.values()):
        if entry.id not in there and not any(store.containers_of(entry.id)):
            store.remove_pod(entry.id)
