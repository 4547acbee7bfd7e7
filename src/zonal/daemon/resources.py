"""What zones may have of memory and CPUs: from and to the messages of the control API."""

from __future__ import annotations

from zonal.api import control_pb2 as pb
from zonal.zones.resources import ResourceChange, Resources

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
