"""The calls on zones that exist: list, inspect, stop, kill, wait, remove, logs, console."""

from __future__ import annotations

from zonal.api import control_pb2 as pb
from zonal.daemon.attending import MAX_CHUNK, checked_signal
from zonal.daemon.messages import config_message, zone_message
from zonal.daemon.mount_spec import Mounts
from zonal.daemon.policies import probe_messages
from zonal.daemon.rpc import Context
from zonal.daemon.run_spec import MAX_STOP_TIMEOUT
from zonal.errors import InvalidInputError
from zonal.zones.spec import LogQuery, ZoneService

SIGKILL = 9


class ZoneCalls:
    """Everything on zones but running one."""

    def __init__(self, zones: ZoneService, mounts: Mounts) -> None:
        self._zones = zones
        self._mounts = mounts

    async def list(self, request: pb.ListZonesRequest, _context: Context) -> pb.ListZonesReply:
        """Those alive, or all."""
        records = await self._zones.list()
        names = {record.id: record.name for record in records}
        wanted = [record for record in records if request.all or not record.state.at_rest]
        return pb.ListZonesReply(zones=[zone_message(r, names.get(r.spec.zone, "")) for r in wanted])

    async def inspect(self, request: pb.ZoneRef, _context: Context) -> pb.Zone:
        """One zone."""
        record = await self._zones.find(request.zone)
        shared = (await self._zones.find(record.spec.zone)).name if record.spec.zone else ""
        found = zone_message(record, shared)
        found.config.CopyFrom(config_message(record.spec))
        if record.health:
            found.health.log.extend(probe_messages(record.health))
        return found

    async def stop(self, request: pb.StopZoneRequest, _context: Context) -> pb.StopZoneReply:
        """Politely, then by force."""
        timeout = await stop_timeout(self._zones, request)
        return pb.StopZoneReply(zone=zone_message(await self._zones.stop(request.zone, timeout)))

    async def kill(self, request: pb.KillZoneRequest, _context: Context) -> pb.KillZoneReply:
        """Any signal; 0 is SIGKILL."""
        await self._zones.kill(request.zone, checked_signal(request.signal or SIGKILL), request.exec_id)
        return pb.KillZoneReply()

    async def wait(self, request: pb.ZoneRef, _context: Context) -> pb.WaitZoneReply:
        """Until the workload has ended."""
        result = await self._zones.wait(request.zone)
        return pb.WaitZoneReply(status=result.status, reason=result.reason)

    async def remove(self, request: pb.RemoveZoneRequest, _context: Context) -> pb.RemoveZoneReply:
        """The record and the logs."""
        await self._zones.remove(request.zone, force=request.force, volumes=request.volumes)
        return pb.RemoveZoneReply()

    async def mount(self, request: pb.MountInZoneRequest, _context: Context) -> pb.MountInZoneReply:
        """A mount more, in a zone that runs."""
        await self._zones.find(request.zone)  # an unknown zone is to be told before a volume is made for it
        await self._zones.mount(request.zone, await self._mounts.resolve_one(request.mount))
        return pb.MountInZoneReply()

    async def unmount(self, request: pb.UnmountInZoneRequest, _context: Context) -> pb.UnmountInZoneReply:
        """A mount less."""
        await self._zones.unmount(request.zone, request.target)
        return pb.UnmountInZoneReply()

    async def logs(self, request: pb.ZoneLogsRequest, context: Context) -> None:
        """The workload's output as kept."""
        if request.since_ns < 0 or request.until_ns < 0:
            raise InvalidInputError("there is no output from before 1970", hint="give a later time")
        query = LogQuery(
            follow=request.follow,
            tail=request.tail if request.HasField("tail") else None,
            since_ns=request.since_ns,
            until_ns=request.until_ns,
            timestamps=request.timestamps,
        )
        async for stream, data in self._zones.logs(request.zone, query):
            for begin in range(0, len(data), MAX_CHUNK):
                piece = data[begin : begin + MAX_CHUNK]
                await context.write(pb.OutputChunk(stdout=piece) if stream == 1 else pb.OutputChunk(stderr=piece))

    async def console(self, request: pb.ZoneConsoleRequest, context: Context) -> None:
        """The kernel's console as kept."""
        async for data in self._zones.console(request.zone, follow=request.follow):
            for begin in range(0, len(data), MAX_CHUNK):
                await context.write(pb.OutputChunk(stdout=data[begin : begin + MAX_CHUNK]))


async def stop_timeout(zones: ZoneService, request: pb.StopZoneRequest) -> int:
    """Seconds between the stop signal and SIGKILL: as asked, or as the zone has it. Raises ``InvalidInputError``."""
    if not request.HasField("timeout_seconds"):
        return (await zones.find(request.zone)).spec.stop_timeout
    if request.timeout_seconds > MAX_STOP_TIMEOUT:
        raise InvalidInputError(
            f"{request.timeout_seconds} s are too long to wait for a stop", hint=f"at most {MAX_STOP_TIMEOUT}"
        )
    return request.timeout_seconds
