"""The call behind ``zonal update``: what a zone is to be is changed while it is there."""

from __future__ import annotations

from dataclasses import replace

from zonal.api import control_pb2 as pb
from zonal.daemon.messages import zone_message
from zonal.daemon.policies import resolve_restart
from zonal.daemon.resources import resource_change
from zonal.daemon.rpc import Context
from zonal.errors import InvalidInputError
from zonal.zones.resources import ResourceChange
from zonal.zones.spec import ZoneService, ZoneUpdate


class UpdateCall:
    """See the module."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def __call__(self, request: pb.UpdateZoneRequest, _context: Context) -> pb.UpdateZoneReply:
        """All that is set, at once and for the next start."""
        record = await self._zones.find(request.zone)
        resources = resource_change(request.resources)
        change = ZoneUpdate(resources=resources if resources != ResourceChange() else None)
        if request.HasField("restart"):
            change = replace(change, restart=resolve_restart(request.restart, remove=record.spec.remove))
        if change == ZoneUpdate():
            raise InvalidInputError("nothing is to be changed", hint="such as --memory-max 1G; see zonal update --help")
        return pb.UpdateZoneReply(zone=zone_message(await self._zones.update(record.id, change)))
