"""What zones may have of memory and CPUs: from and to the messages of the control API, and the call that changes it."""

from __future__ import annotations

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.errors import InvalidInputError
from zonal.zones.resources import ResourceChange, Resources
from zonal.zones.spec import ZoneService

# Fields of the message, and of ours.
_FIELDS = {
    "memory_bytes": "memory",
    "memory_max_bytes": "memory_max",
    "cpus": "cpus",
    "cpus_max": "cpus_max",
    "cpu_weight": "cpu_weight",
    "cpu_cap": "cpu_cap",
    "cpuset_cpus": "cpuset",
}


def run_resources(request: pb.RunSpec) -> Resources:
    """What a new zone is to have. Raises ``InvalidInputError``."""
    change = resource_change(request.resources)
    first = Resources()
    memory, cpus = request.memory_bytes or first.memory, request.cpus or first.cpus
    return change.of(Resources(memory=memory, cpus=cpus))


def resource_change(message: pb.Resources) -> ResourceChange:
    """What is named in a message."""
    return ResourceChange(**{ours: getattr(message, name) for name, ours in _FIELDS.items() if message.HasField(name)})


def resources_message(resources: Resources) -> pb.Resources:
    """All of it."""
    return pb.Resources(**{name: getattr(resources, ours) for name, ours in _FIELDS.items()})


class UpdateCall:
    """The call that changes a zone."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def __call__(self, request: pb.UpdateZoneRequest, _context: Context) -> pb.UpdateZoneReply:
        """At once, and for its next start."""
        record = await self._zones.find(request.zone)
        change = resource_change(request.resources)
        if change == ResourceChange():
            raise InvalidInputError("nothing is to be changed", hint="such as --memory-max 1G; see zonal update --help")
        await self._zones.update(record.id, change)
        return pb.UpdateZoneReply()
