"""The calls on images. An upload is spooled to a file first, and read only once it is whole."""

from __future__ import annotations

import asyncio
import builtins
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import IO

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.daemon.services import ImageService
from zonal.errors import InvalidInputError, ResourceExhaustedError
from zonal.images.archive import FORMATS
from zonal.images.image import Image
from zonal.images.making import Progress

MAX_IMAGE_BYTES = 64 << 30
RESERVE_BYTES = 256 << 20
"""Left free on the stores' disk by an upload, since the records and logs of zones are there too."""
_CHECK_EVERY = 16 << 20


class ImageCalls:
    """Import, list, inspect and removal of images."""

    def __init__(self, images: ImageService, spool: Path) -> None:
        self._images = images
        self._spool = spool

    async def import_image(self, requests: AsyncIterator[pb.ImportImageRequest], context: Context) -> None:
        """Spools the file, imports it, and tells the progress on the way."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("request") != "header":
            raise InvalidInputError("an import begins with its header")
        header = first.header
        if (header.format or "auto") not in FORMATS:
            raise InvalidInputError(f"{header.format!r} is not a format of images", hint="one of " + ", ".join(FORMATS))
        with tempfile.NamedTemporaryFile(dir=self._spool, prefix="image-") as file:
            await receive((request.data async for request in requests), file.file, MAX_IMAGE_BYTES, header.source)
            images = await _with_progress(lambda progress: self._take_in(Path(file.name), header, progress), context)
        for image in images:
            await context.write(pb.ImportImageReply(image=image_message(image)))

    async def save(self, request: pb.SaveImagesRequest, context: Context) -> None:
        """An archive of images, piece by piece."""
        if not request.references:
            raise InvalidInputError("no image is named", hint="zonal image ls lists them")
        with self._images.save(list(request.references)) as pieces:
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                await context.write(pb.SaveImagesReply(data=piece))

    async def _take_in(self, path: Path, header: pb.ImportImageHeader, progress: Progress) -> builtins.list[Image]:
        source = header.source or "the upload"
        if header.every:
            return await self._images.load_archive(path, source=source, progress=progress)
        image = await self._images.import_archive(
            path,
            format=header.format or "auto",
            name=header.reference,
            settings=header.config_json.encode(),
            source=source,
            progress=progress,
        )
        return [image]

    async def list(self, _request: pb.ListImagesRequest, _context: Context) -> pb.ListImagesReply:
        """All images."""
        return pb.ListImagesReply(images=[image_message(image) for image in self._images.list()])

    async def inspect(self, request: pb.ImageRef, _context: Context) -> pb.ImageDetails:
        """One image, with its configuration."""
        image = self._images.resolve(request.reference)
        return pb.ImageDetails(
            image=image_message(image),
            config_json=self._images.read_config(image.id).decode(errors="replace"),
            layers=image.layers,
            erofs_path=str(image.erofs),
        )

    async def remove(self, request: pb.RemoveImageRequest, _context: Context) -> pb.RemoveImageReply:
        """A reference, and the image with its last one."""
        removed = self._images.remove(request.reference, force=request.force)
        return pb.RemoveImageReply(untagged=removed.untagged, deleted=removed.deleted)

    async def tag(self, request: pb.TagImageRequest, _context: Context) -> pb.Image:
        """One more name for an image."""
        return image_message(self._images.tag(request.reference, request.target))

    async def prune(self, request: pb.PruneImagesRequest, _context: Context) -> pb.PruneImagesReply:
        """What nobody needs goes."""
        pruned = self._images.prune(everything=request.all)
        return pb.PruneImagesReply(deleted=pruned.deleted, freed_bytes=pruned.freed)


def image_message(image: Image) -> pb.Image:
    """One image, as ``zonal image ls`` shows it."""
    return pb.Image(
        id=image.id,
        references=image.references,
        size_bytes=image.size,
        created_ns=image.created_ns,
        platform=image.platform,
    )


async def receive(chunks: AsyncIterator[bytes], file: IO[bytes], limit: int, name: str) -> None:
    """Spools an upload of at most ``limit`` bytes. Raises ``InvalidInputError``, ``ResourceExhaustedError``."""
    name = name or "the upload"
    size = 0
    checked = -_CHECK_EVERY
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise InvalidInputError(f"{name} has more than {limit} bytes")
        if size - checked >= _CHECK_EVERY:
            checked = size
            _check_space(Path(file.name).parent)
        await asyncio.to_thread(file.write, chunk)
    if size == 0:
        raise InvalidInputError(f"{name} is empty", hint="is it the file that was meant?")
    file.flush()


def _check_space(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < RESERVE_BYTES:
        raise ResourceExhaustedError(
            f"no space for the upload: {free >> 20} MiB are free in {folder}, and {RESERVE_BYTES >> 20} stay free",
            hint="remove images or zones: zonal image rm, zonal zone rm",
        )


async def _with_progress(
    work: Callable[[Progress], Coroutine[None, None, list[Image]]], context: Context
) -> list[Image]:
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def progress(line: str) -> None:
        loop.call_soon_threadsafe(lines.put_nowait, line)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(work(progress))
        task.add_done_callback(lambda _: lines.put_nowait(None))
        while (line := await lines.get()) is not None:
            await context.write(pb.ImportImageReply(progress=line))
    return task.result()
