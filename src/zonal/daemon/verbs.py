"""The calls that begin, hold, rename and measure zones that are there: start, restart, pause, rename, stats, top."""

from __future__ import annotations

import sys

from zonal.api import control_pb2 as pb
from zonal.daemon.messages import zone_message
from zonal.daemon.rpc import Context
from zonal.daemon.snapshot import gather
from zonal.daemon.zones import stop_timeout
from zonal.errors import InvalidInputError
from zonal.zones.spec import ZoneRecord, ZoneService, ZoneStatistics


class VerbCalls:
    """See the module."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def start(self, request: pb.ZoneRef, _context: Context) -> pb.StartZoneReply:
        """One that has ended runs again."""
        record = await self._zones.find(request.zone)
        await self._zones.start(record.id)
        return pb.StartZoneReply(zone=zone_message(await self._zones.find(record.id)))

    async def restart(self, request: pb.StopZoneRequest, _context: Context) -> pb.StartZoneReply:
        """Stopped, and started."""
        timeout = await stop_timeout(self._zones, request)
        record = await self._zones.find(request.zone)
        await self._zones.restart(record.id, timeout)
        return pb.StartZoneReply(zone=zone_message(await self._zones.find(record.id)))

    async def pause(self, request: pb.ZoneRef, _context: Context) -> pb.PauseZoneReply:
        """Nothing of it runs from here on."""
        await self._zones.pause(request.zone)
        return pb.PauseZoneReply()

    async def unpause(self, request: pb.ZoneRef, _context: Context) -> pb.PauseZoneReply:
        """It goes on."""
        await self._zones.unpause(request.zone)
        return pb.PauseZoneReply()

    async def rename(self, request: pb.RenameZoneRequest, _context: Context) -> pb.RenameZoneReply:
        """Another name."""
        await self._zones.rename(request.zone, request.name)
        return pb.RenameZoneReply()

    async def statistics(self, request: pb.ZoneStatsRequest, _context: Context) -> pb.ZoneStatsReply:
        """Of those that are named, which must run, or of all that do."""
        if request.zones:
            records = [await self._zones.find(ref) for ref in request.zones]
            return pb.ZoneStatsReply(
                stats=[_stats_message(record, await self._zones.statistics(record.id)) for record in records]
            )
        measured = (await gather(self._zones, most=sys.maxsize)).measured
        return pb.ZoneStatsReply(stats=[_stats_message(*each) for each in measured])

    async def processes(self, request: pb.ZoneRef, _context: Context) -> pb.ZoneProcessesReply:
        """Those of the container."""
        found = await self._zones.processes(request.zone)
        return pb.ZoneProcessesReply(
            processes=[
                pb.Process(
                    pid=each.pid,
                    parent=each.parent,
                    uid=each.uid,
                    terminal=each.terminal,
                    state=each.state,
                    started_ns=each.started_ns,
                    cpu_ns=each.cpu_ns,
                    virtual_bytes=each.virtual_bytes,
                    resident_bytes=each.resident_bytes,
                    name=each.name,
                    command=each.command,
                )
                for each in found
            ]
        )

    async def events(self, request: pb.EventsRequest, context: Context) -> None:
        """As they come, or those of a stretch of time."""
        if request.since_ns < 0 or request.until_ns < 0:
            raise InvalidInputError("there are no events from before 1970", hint="give a later time")
        async for each in self._zones.events(since_ns=request.since_ns, until_ns=request.until_ns):
            event = pb.Event(
                time_ns=each.time_ns, action=each.action, zone_id=each.zone_id, name=each.name, image=each.image
            )
            event.attributes.update(each.attributes)
            await context.write(event)


def _stats_message(record: ZoneRecord, now: ZoneStatistics) -> pb.ZoneStats:
    return pb.ZoneStats(
        id=record.id,
        name=record.name,
        time_ns=now.time_ns,
        cpu_time_ns=now.cpu_time_ns,
        memory_bytes=now.memory_bytes,
        memory_limit_bytes=now.memory_limit_bytes,
        block_read_bytes=now.block_read_bytes,
        block_written_bytes=now.block_written_bytes,
        net_received_bytes=now.traffic.received.bytes,
        net_sent_bytes=now.traffic.sent.bytes,
        processes=now.processes,
        memory_held_bytes=now.memory_held_bytes,
        cpus=now.cpus,
    )
