"""The calls on volumes, and the store of volumes as calls see it."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Mapping

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.daemon.services import VolumeService
from zonal.errors import ZonalError
from zonal.volumes.store import Volume, VolumeStore


class Volumes:
    """The store, without holding up other calls while a filesystem is made; fulfils ``VolumeService``."""

    def __init__(self, store: VolumeStore) -> None:
        self._store = store

    async def create(
        self, name: str, *, size: int = 0, anonymous: bool = False, labels: Mapping[str, str] | None = None
    ) -> Volume:
        """See ``VolumeStore``."""
        return await asyncio.to_thread(
            self._store.create, name, size=size, anonymous=anonymous, labels=dict(labels or {})
        )

    def list(self) -> builtins.list[Volume]:
        """See ``VolumeStore``."""
        return self._store.list()

    def find(self, name: str) -> Volume:
        """See ``VolumeStore``."""
        return self._store.find(name)

    def users(self, name: str) -> builtins.list[str]:
        """See ``VolumeStore``."""
        return self._store.users(name)

    def remove(self, name: str) -> None:
        """See ``VolumeStore``."""
        self._store.remove(name)


class VolumeCalls:
    """Create, list, inspect, remove, prune."""

    def __init__(self, volumes: VolumeService) -> None:
        self._volumes = volumes

    async def create(self, request: pb.CreateVolumeRequest, _context: Context) -> pb.Volume:
        """A new one."""
        return self._message(
            await self._volumes.create(request.name, size=request.size_bytes, labels=dict(request.labels))
        )

    async def list(self, _request: pb.ListVolumesRequest, _context: Context) -> pb.ListVolumesReply:
        """All of them."""
        return pb.ListVolumesReply(volumes=[self._message(volume) for volume in self._volumes.list()])

    async def inspect(self, request: pb.VolumeRef, _context: Context) -> pb.Volume:
        """One of them."""
        return self._message(self._volumes.find(request.name))

    async def remove(self, request: pb.VolumeRef, _context: Context) -> pb.RemoveVolumeReply:
        """With all that is in it."""
        self._volumes.remove(request.name)
        return pb.RemoveVolumeReply()

    async def prune(self, request: pb.PruneVolumesRequest, _context: Context) -> pb.PruneVolumesReply:
        """Those that nobody uses: anonymous ones, or all."""
        reply = pb.PruneVolumesReply()
        for volume in self._volumes.list():
            if (volume.anonymous or request.all) and not self._volumes.users(volume.name):
                used = volume.used
                try:
                    self._volumes.remove(volume.name)
                except ZonalError:
                    continue  # somebody has begun to use it, or has removed it
                reply.deleted.append(volume.name)
                reply.freed_bytes += used
        return reply

    def _message(self, volume: Volume) -> pb.Volume:
        return pb.Volume(
            name=volume.name,
            size_bytes=volume.size,
            used_bytes=volume.used,
            created_ns=volume.created_ns,
            anonymous=volume.anonymous,
            labels=volume.labels,
            used_by=self._volumes.users(volume.name),
        )
