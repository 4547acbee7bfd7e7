"""The calls behind ``zonal exec`` and ``zonal attach``: clients of a zone that runs already.

A client that hangs up leaves what it attended to running.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from zonal.api import control_pb2 as pb
from zonal.daemon.attending import attend
from zonal.daemon.rpc import Context
from zonal.daemon.run_spec import terminal_size
from zonal.daemon.stream_sockets import StreamSocket, StreamSockets
from zonal.errors import InvalidInputError
from zonal.zones.spec import ExecSpec, TerminalSize, ZoneService


class ExecCalls:
    """Both calls."""

    def __init__(self, zones: ZoneService, stopping: asyncio.Event, sockets: StreamSockets) -> None:
        self._zones = zones
        self._stopping = stopping
        self._sockets = sockets

    async def exec(self, requests: AsyncIterator[pb.RunRequest], context: Context) -> None:
        """A further process, until it has ended or its client is gone; a detached one until it has started."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("request") != "exec":
            raise InvalidInputError("a further process begins with what it is to be")
        async with self._sockets.claimed(first.streams) as streams:
            await self._exec(first.exec, requests, context, streams)

    async def _exec(
        self,
        wanted: pb.ExecSpec,
        requests: AsyncIterator[pb.RunRequest],
        context: Context,
        streams: StreamSocket | None,
    ) -> None:
        spec = exec_spec(wanted)
        record = await self._zones.find(wanted.zone)
        process = await self._zones.exec(record.id, spec)
        try:
            started = pb.Started(zone_id=record.id, name=record.name, exec_id=process.id)
            await context.write(pb.RunReply(started=started))
            if not wanted.detach:
                hint = f"zonal top {record.name}"
                await attend(process, requests, context, self._stopping, streams, hint=hint)
        finally:
            await process.stdin.close()
            await process.detach()

    async def attach(self, requests: AsyncIterator[pb.RunRequest], context: Context) -> None:
        """A workload's streams, until it has ended or the client is gone."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("request") != "attach":
            raise InvalidInputError("who attaches begins with the zone")
        async with self._sockets.claimed(first.streams) as streams:
            await self._attach(first.attach, requests, context, streams)

    async def _attach(
        self,
        wanted: pb.AttachSpec,
        requests: AsyncIterator[pb.RunRequest],
        context: Context,
        streams: StreamSocket | None,
    ) -> None:
        size = terminal_size(wanted.terminal_size)
        zone = await self._zones.attach(wanted.zone, stdin=wanted.stdin, start=wanted.start)
        record = zone.record
        try:
            started = pb.Started(zone_id=record.id, name=record.name, domain_id=record.domain_id)
            await context.write(pb.RunReply(started=started))
            if size.rows and size.columns:
                await zone.resize(size)
            hint = f"zonal attach {record.name}"
            await attend(zone, requests, context, self._stopping, streams, hint=hint)
        finally:
            await zone.detach()


def exec_spec(request: pb.ExecSpec) -> ExecSpec:
    """The request, checked as far as it can be without the zone. Raises ``InvalidInputError``."""
    if request.detach and request.stdin:
        raise InvalidInputError("a detached process has no client to be its input", hint="leave out -d or -i")
    size = terminal_size(request.terminal_size)
    return ExecSpec(
        command=tuple(request.command),
        env=tuple(request.env),
        cwd=request.working_directory,
        user=request.user,
        terminal=request.terminal,
        terminal_size=size if size.rows and size.columns else TerminalSize(),
        stdin=request.stdin,
        privileged=request.privileged,
    )
