"""The call behind ``zonal image df``: what is on the disk, and what could go."""

from __future__ import annotations

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.daemon.services import ImageService, VolumeService
from zonal.zones.spec import ZoneService


class UsageCall:
    """Images, what zones have written, volumes."""

    def __init__(self, images: ImageService, zones: ZoneService, volumes: VolumeService) -> None:
        self._images = images
        self._zones = zones
        self._volumes = volumes

    async def __call__(self, _request: pb.DiskUsageRequest, _context: Context) -> pb.DiskUsageReply:
        """All three, in that order."""
        images = self._images.usage()
        zones = [
            (not record.state.at_rest, await self._zones.disk_usage(record.id)) for record in await self._zones.list()
        ]
        volumes = [(bool(self._volumes.users(volume.name)), volume.used) for volume in self._volumes.list()]
        first = pb.DiskUsage(
            kind="images",
            total=images.total,
            active=images.active,
            size_bytes=images.size,
            reclaimable_bytes=images.reclaimable,
        )
        return pb.DiskUsageReply(usages=[first, _usage("zones", zones), _usage("volumes", volumes)])


def _usage(kind: str, sizes: list[tuple[bool, int]]) -> pb.DiskUsage:
    return pb.DiskUsage(
        kind=kind,
        total=len(sizes),
        active=sum(active for active, _ in sizes),
        size_bytes=sum(size for _, size in sizes),
        reclaimable_bytes=sum(size for active, size in sizes if not active),
    )
