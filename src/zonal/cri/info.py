"""What the runtime tells of itself: its version, whether it is ready, what it can (the CRI's Version, Status, …)."""

from __future__ import annotations

import json
import logging
from ipaddress import ip_network
from typing import Final

import zonal
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.pod_network import PodNetwork
from zonal.cri.pod_spec import HANDLERS
from zonal.errors import InvalidInputError, ZonalError
from zonal.zones.spec import ZoneService

log = logging.getLogger(__name__)

RUNTIME_API_VERSION: Final = "v1"
KUBELET_API_VERSION: Final = "0.1.0"
"""Of the kubelet's API for runtimes, as every runtime answers."""
NAME: Final = "zonal"
MAX_RANGES: Final = 8
"""Pod CIDRs that a kubelet can tell: one for each family, in truth."""


class RuntimeInfo:
    """See the module."""

    def __init__(self, zones: ZoneService, network: PodNetwork) -> None:
        self._zones = zones
        self._network = network
        self._pod_ranges: tuple[str, ...] = ()

    @staticmethod
    def version() -> pb.VersionResponse:
        """Ours."""
        return pb.VersionResponse(
            version=KUBELET_API_VERSION,
            runtime_name=NAME,
            runtime_version=zonal.__version__,
            runtime_api_version=RUNTIME_API_VERSION,
        )

    async def status(self, *, verbose: bool) -> pb.StatusResponse:
        """Whether pods can be run, and what they can have; with ``verbose`` more, as JSON."""
        runtime, network = await self._runtime_condition(), await self._network_condition()
        return pb.StatusResponse(
            status=pb.RuntimeStatus(conditions=[runtime, network]),
            # A user namespace that the kubelet maps, and read-only mounts with all below them, are not ours to give.
            runtime_handlers=[pb.RuntimeHandler(name=name, features=pb.RuntimeHandlerFeatures()) for name in HANDLERS],
            features=pb.RuntimeFeatures(),
            info={"config": json.dumps(await self._details())} if verbose else {},
        )

    @staticmethod
    def configuration() -> pb.RuntimeConfigResponse:
        """A pod's control groups are its zone's own; the kubelet's are for what is in the host."""
        return pb.RuntimeConfigResponse(linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.SYSTEMD))

    def configure(self, config: pb.RuntimeConfig) -> None:
        """The pods' ranges of addresses, which the cluster's network plugin reads by itself; ours has its own.

        Raises ``InvalidInputError`` for what is no range.
        """
        text = config.network_config.pod_cidr
        ranges = tuple(each.strip() for each in text.split(",")) if text else ()
        if len(ranges) > MAX_RANGES:
            raise InvalidInputError(f"{len(ranges)} ranges for pods are more than {MAX_RANGES}")
        for each in ranges:
            try:
                ip_network(each, strict=False)
            except ValueError as error:
                raise InvalidInputError(f"{each[:80]!r} is not a range of addresses in CIDR") from error
        if ranges != self._pod_ranges:
            self._pod_ranges = ranges
            log.info("pods of this node have addresses in %s", ", ".join(ranges) or "no range of the cluster's")

    async def _runtime_condition(self) -> pb.RuntimeCondition:
        try:
            await self._zones.host()
        except (ZonalError, OSError) as error:
            return pb.RuntimeCondition(type="RuntimeReady", reason="XenNotReachable", message=str(error))
        return pb.RuntimeCondition(type="RuntimeReady", status=True)

    async def _network_condition(self) -> pb.RuntimeCondition:
        try:
            await self._network.check()
        except (ZonalError, OSError) as error:
            return pb.RuntimeCondition(type="NetworkReady", reason="NetworkPluginNotReady", message=str(error))
        return pb.RuntimeCondition(type="NetworkReady", status=True)

    async def _details(self) -> dict[str, object]:
        details: dict[str, object] = {"podRanges": self._pod_ranges, "network": self._network.describe()}
        try:
            host = await self._zones.host()
        except (ZonalError, OSError) as error:
            return {**details, "xen": str(error)}
        pool = self._zones.pool
        return {
            **details,
            "xen": {"version": host.xen_version, "capabilities": host.xen_capabilities},
            "host": {"cpus": host.cpus, "memoryBytes": host.memory_bytes, "freeBytes": host.free_bytes},
            "warmZones": len(pool.warm),
        }
