"""The call behind ``zonal run``: a zone, its one workload, and the workload's streams.

A client that hangs up before the workload was started takes its zone with it: the launch is undone. One that hangs up
later leaves the workload running, as docker does; without a terminal the workload then reads the end of its input.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TypeVar

from zonal.api import control_pb2 as pb
from zonal.daemon.attending import attend
from zonal.daemon.messages import phase_messages
from zonal.daemon.requested import RequestedZones
from zonal.daemon.rpc import Context
from zonal.daemon.stream_sockets import StreamSocket, StreamSockets
from zonal.errors import InvalidInputError
from zonal.zones.spec import RunningZone, ZoneService

T = TypeVar("T")

_NAME_TRIES = 20


class RunCall:
    """The run call of the control service."""

    def __init__(
        self,
        zones: ZoneService,
        requested: RequestedZones,
        stopping: asyncio.Event,
        sockets: StreamSockets,
    ) -> None:
        self._zones = zones
        self._requested = requested
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
        spec = await self._requested.resolve(wanted)
        if wanted.create:
            record = await self._requested.named(spec, wanted, self._zones.create)
            await context.write(pb.RunReply(started=pb.Started(zone_id=record.id, name=record.name)))
            return
        zone = await self._requested.named(spec, wanted, lambda named: self._zones.run(named, arrived_ns=arrived_ns))
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


def _started(zone: RunningZone) -> pb.Started:
    record = zone.record
    return pb.Started(
        zone_id=record.id, name=record.name, domain_id=record.domain_id, phases=phase_messages(record.phases)
    )
