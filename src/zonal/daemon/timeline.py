"""The call behind ``zonal zone timeline``."""

from __future__ import annotations

from collections.abc import Sequence

from zonal.api import control_pb2 as pb
from zonal.daemon.messages import phase_messages, zone_message
from zonal.daemon.rpc import Context
from zonal.zones.boot_log import BootStep
from zonal.zones.spec import ZoneService


class TimelineCall:
    """How a zone came up."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def __call__(self, request: pb.ZoneRef, _context: Context) -> pb.ZoneTimelineReply:
        """Its phases, and what it says itself."""
        record = await self._zones.find(request.zone)
        log = await self._zones.boot_log(record.id)
        return pb.ZoneTimelineReply(
            zone=zone_message(record),
            phases=phase_messages(record.phases),
            steps=_messages(log.steps),
            kernel=_messages(log.kernel),
            from_console=log.from_console,
        )


def _messages(steps: Sequence[BootStep]) -> list[pb.BootStep]:
    return [pb.BootStep(time_ns=step.time_ns, text=step.text) for step in steps]
