"""The call behind ``zonal run``: a zone, its one workload, and the workload's streams.

A client that hangs up before the workload was started takes its zone with it: the launch is undone. One that hangs up
later leaves the workload running, as docker does; without a terminal the workload then reads the end of its input.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from zonal.api import control_pb2 as pb
from zonal.daemon.attending import attend
from zonal.daemon.messages import phase_messages
from zonal.daemon.mount_spec import Mounts
from zonal.daemon.network_spec import resolve_network
from zonal.daemon.rpc import Context
from zonal.daemon.run_spec import resolve_spec
from zonal.daemon.services import ImageFinder
from zonal.daemon.sharing import find_zone, into_zone
from zonal.daemon.stream_sockets import StreamSocket, StreamSockets
from zonal.errors import InvalidInputError
from zonal.network.networks import NetworkStore
from zonal.zones.devices import is_zone_device
from zonal.zones.names import make_name
from zonal.zones.spec import RunningZone, ZoneService, ZoneSpec
from zonal.zones.state import NameTakenError

T = TypeVar("T")

_NAME_TRIES = 20


class RunCall:
    """The run call of the control service."""

    def __init__(
        self,
        zones: ZoneService,
        images: ImageFinder,
        mounts: Mounts,
        networks: NetworkStore,
        stopping: asyncio.Event,
        sockets: StreamSockets,
    ) -> None:
        self._zones = zones
        self._networks = networks
        self._images = images
        self._mounts = mounts
        self._stopping = stopping
        self._sockets = sockets

    async def __call__(self, requests: AsyncIterator[pb.RunRequest], context: Context) -> None:
        """Serves one run, until its workload has ended or its client is gone."""
        arrived_ns = time.monotonic_ns()
        first = await anext(requests, None)
        if first is None or first.WhichOneof("request") != "spec":
            raise InvalidInputError("a run begins with its spec")
        async with self._sockets.claimed(first.streams) as streams:
            await self._serve(first.spec, arrived_ns, requests, context, streams)

    async def _serve(
        self,
        wanted: pb.RunSpec,
        arrived_ns: int,
        requests: AsyncIterator[pb.RunRequest],
        context: Context,
        streams: StreamSocket | None,
    ) -> None:
        spec = await self._resolve(wanted)
        if wanted.create:
            record = await self._named(spec, wanted, self._zones.create)
            await context.write(pb.RunReply(started=pb.Started(zone_id=record.id, name=record.name)))
            return
        zone = await self._named(spec, wanted, lambda named: self._zones.run(named, arrived_ns=arrived_ns))
        spec = zone.record.spec
        try:
            await context.write(pb.RunReply(started=_started(zone)))
            if not spec.detach:
                hint = f"zonal zone logs -f {spec.name}"
                await attend(zone, requests, context, self._stopping, streams, hint=hint)
        finally:
            if spec.stdin and not spec.terminal:
                await zone.stdin.close()
            await zone.detach()

    async def _resolve(self, request: pb.RunSpec) -> ZoneSpec:
        zone = await find_zone(request, self._zones) if request.zone else None
        # What is wrong with the rest is told before a volume is made for a mount.
        spec = resolve_spec(request, self._images, name=request.name or make_name())
        if zone is not None:
            spec = await into_zone(spec, request, zone, self._zones)
        else:
            spec = replace(spec, network=resolve_network(request.network, self._networks))
        if spec.houses:
            return spec
        _check_user_namespace(spec, request)
        # Until the zone has a hold of its own on the image, for volumes may be made first.
        with self._images.use(spec.image_id, f"zone {spec.name}"):
            return replace(spec, mounts=await self._mounts.resolve(request.mounts))

    async def _named(self, spec: ZoneSpec, request: pb.RunSpec, make: Callable[[ZoneSpec], Awaitable[T]]) -> T:
        """What ``make`` makes. A made-up name may be taken; then another is made up."""
        for attempt in range(_NAME_TRIES):
            try:
                return await make(spec)
            except NameTakenError:
                if request.name or attempt == _NAME_TRIES - 1:
                    self._mounts.discard(spec.mounts)
                    raise
                spec = replace(spec, name=make_name())
        raise AssertionError("the loop returns or raises")


def _check_user_namespace(spec: ZoneSpec, request: pb.RunSpec) -> None:
    """What cannot be in one is refused before anything is made. Raises ``InvalidInputError``."""
    if not spec.runtime.namespaces.uids:
        return
    if spec.runtime.security.privileged:
        raise InvalidInputError("who is privileged has no user namespace", hint="leave out --privileged or --userns")
    for mount in request.mounts:
        if mount.type == "device" and not is_zone_device(mount.source):
            raise InvalidInputError(
                f"{mount.source[:64]} would be nobody's in a user namespace", hint="leave out --device or --userns"
            )


def _started(zone: RunningZone) -> pb.Started:
    record = zone.record
    return pb.Started(
        zone_id=record.id, name=record.name, domain_id=record.domain_id, phases=phase_messages(record.phases)
    )
