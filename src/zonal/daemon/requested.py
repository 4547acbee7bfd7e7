"""From a client's request for a zone or a workload to what it is to be: checked, resolved, with a name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from zonal.api import control_pb2 as pb
from zonal.daemon.mount_spec import Mounts
from zonal.daemon.network_spec import resolve_network
from zonal.daemon.run_spec import resolve_spec
from zonal.daemon.services import ImageFinder
from zonal.daemon.sharing import find_zone, into_zone
from zonal.errors import InvalidInputError
from zonal.network.networks import NetworkStore
from zonal.zones.devices import is_zone_device
from zonal.zones.names import make_name
from zonal.zones.spec import ZoneService, ZoneSpec
from zonal.zones.state import NameTakenError

T = TypeVar("T")

_NAME_TRIES = 20


class RequestedZones:
    """See the module."""

    def __init__(self, zones: ZoneService, images: ImageFinder, mounts: Mounts, networks: NetworkStore) -> None:
        self._zones = zones
        self._images = images
        self._mounts = mounts
        self._networks = networks

    async def resolve(self, request: pb.RunSpec) -> ZoneSpec:
        """Raises ``InvalidInputError``, ``NotFoundError``, and what making a volume raises."""
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

    async def named(self, spec: ZoneSpec, request: pb.RunSpec, make: Callable[[ZoneSpec], Awaitable[T]]) -> T:
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
