"""The calls on files of zones: copies in and out, what has changed, and images of that."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from zonal.api import control_pb2 as pb
from zonal.daemon.attending import MAX_CHUNK
from zonal.daemon.rpc import Context
from zonal.daemon.services import ImageCommitter
from zonal.daemon.uploads import image_message
from zonal.errors import InvalidInputError
from zonal.images.files import is_full, no_room
from zonal.zones.spec import ZoneService

_CHANGES_A_REPLY = 1000


class FileCalls:
    """Copy, look, compare."""

    def __init__(self, zones: ZoneService, images: ImageCommitter, spool: Path) -> None:
        self._zones = zones
        self._images = images
        self._spool = spool

    async def commit(self, request: pb.CommitZoneRequest, _context: Context) -> pb.Image:
        """A new image; what the zone has changed is taken in as any other layer, from a file of its own."""
        record = await self._zones.find(request.zone)
        with tempfile.TemporaryDirectory(dir=self._spool) as folder:
            layer = Path(folder) / "layer.tar"
            try:
                with layer.open("wb") as file:
                    async for data in self._zones.layer(request.zone, pause=request.pause):
                        await asyncio.to_thread(file.write, data)
            except OSError as error:
                if not is_full(error):
                    raise
                raise no_room(self._spool) from error
            image = await self._images.commit(
                record.spec.image_id,
                layer,
                name=request.name,
                author=request.author,
                comment=request.comment,
                created_by=" ".join(record.spec.command),
                changes=list(request.changes),
            )
        return image_message(image)

    async def copy_from(self, request: pb.CopyFromZoneRequest, context: Context) -> None:
        """A tar, piece by piece."""
        async for data in self._zones.read_files(request.zone, request.path, follow=request.follow):
            for begin in range(0, len(data), MAX_CHUNK):
                await context.write(pb.CopyFromZoneReply(data=data[begin : begin + MAX_CHUNK]))

    async def copy_to(self, requests: AsyncIterator[pb.CopyToZoneRequest], _context: Context) -> pb.CopyToZoneReply:
        """A tar, unpacked while it comes."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("request") != "header":
            raise InvalidInputError("a copy begins with its header")
        chunks = (request.data async for request in requests)
        await self._zones.write_files(first.header.zone, first.header.path, chunks)
        return pb.CopyToZoneReply()

    async def stat(self, request: pb.StatInZoneRequest, _context: Context) -> pb.StatInZoneReply:
        """What is at a path."""
        info = await self._zones.stat_path(request.zone, request.path)
        return pb.StatInZoneReply(kind=info.kind, is_link=info.is_link)

    async def changes(self, request: pb.ZoneRef, context: Context) -> None:
        """All changes, some at a time."""
        changes = await self._zones.changes(request.zone)
        for begin in range(0, len(changes), _CHANGES_A_REPLY):
            some = [pb.Change(kind=item.kind, path=item.path) for item in changes[begin : begin + _CHANGES_A_REPLY]]
            await context.write(pb.ZoneChangesReply(changes=some))
