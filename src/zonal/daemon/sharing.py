"""Workloads in zones that they share: what of a run request is the workload's, what the zone's, and who is meant."""

from __future__ import annotations

from dataclasses import replace

from zonal.api import control_pb2 as pb
from zonal.daemon.resources import resource_change
from zonal.daemon.runtime_spec import OF_CONTAINER
from zonal.errors import InvalidInputError
from zonal.zones.live_zone import WORKLOAD
from zonal.zones.network_spec import NO_NETWORK
from zonal.zones.runtime_options import OF_WORKLOAD
from zonal.zones.spec import SHORT_ID, ZoneRecord, ZoneService, ZoneSpec
from zonal.zones.workload_limits import limits_of


async def find_zone(request: pb.RunSpec, zones: ZoneService) -> ZoneRecord:
    """The zone that a request names. Raises ``NotFoundError``, and ``InvalidInputError`` for one that is no zone."""
    record = await zones.find(request.zone)
    if record.spec.zone:
        raise InvalidInputError(f"{record.name} is a workload, and no zone to be shared", hint="name its zone")
    return record


async def into_zone(spec: ZoneSpec, request: pb.RunSpec, zone: ZoneRecord, zones: ZoneService) -> ZoneSpec:
    """The same for a workload in ``zone``. Raises ``InvalidInputError`` for what only a zone as a whole can have."""
    for what, given in (
        ("a kernel", request.kernel),
        ("--virt", request.virt),
        ("a PCI device", request.pci),
        ("a network", request.network != pb.NetworkOptions()),
        ("a user namespace beside --pid", spec.runtime.namespaces.uids and request.runtime.namespaces.pid),
    ):
        if given:
            raise InvalidInputError(
                f"{what} is for a zone as a whole, and this workload shares one", hint="give it where the zone is made"
            )
    change = replace(resource_change(request.resources), memory=request.memory_bytes or None, cpus=request.cpus or None)
    spaces = spec.runtime.namespaces
    uts = "" if request.hostname or spec.runtime.domainname else spaces.uts
    runtime = replace(
        spec.runtime,
        limits=limits_of(change, spec.runtime.limits),
        namespaces=replace(spaces, uts=uts, pid=await _process_space(spaces.pid, zone, zones)),
    )
    hostname = spec.hostname if request.hostname else zone.spec.hostname
    return replace(spec, zone=zone.id, runtime=runtime, hostname=hostname, network=NO_NETWORK)


async def _process_space(mode: str, zone: ZoneRecord, zones: ZoneService) -> str:
    """``container:REF`` as the zone's agent knows it."""
    if not mode.startswith(OF_CONTAINER):
        return mode
    other = await zones.find(mode.removeprefix(OF_CONTAINER))
    if other.id == zone.id and not zone.spec.houses:
        return f"{OF_WORKLOAD}{WORKLOAD}"
    if other.spec.zone != zone.id:
        raise InvalidInputError(
            f"{other.name} is not in zone {zone.name}, and zones share no kernel", hint="name a workload of that zone"
        )
    return f"{OF_WORKLOAD}{other.id[:SHORT_ID]}"
