"""The calls on images and kernels. An upload is spooled to a file first, and read only once it is whole."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import IO

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.daemon.services import ImageService, KernelInfo, KernelService
from zonal.errors import InvalidInputError, ResourceExhaustedError
from zonal.images.archive import FORMATS
from zonal.images.store import Image, Progress

MAX_IMAGE_BYTES = 64 << 30
MAX_KERNEL_BYTES = 1 << 30
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
            await _receive((request.data async for request in requests), file.file, MAX_IMAGE_BYTES, header.source)
            image = await _with_progress(
                lambda progress: self._images.import_archive(
                    Path(file.name),
                    format=header.format or "auto",
                    name=header.reference,
                    settings=header.config_json.encode(),
                    source=header.source or "the upload",
                    progress=progress,
                ),
                context,
            )
        await context.write(pb.ImportImageReply(image=image_message(image)))

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


class KernelCalls:
    """Import and list of kernels."""

    def __init__(self, kernels: KernelService, spool: Path) -> None:
        self._kernels = kernels
        self._spool = spool

    async def import_kernel(self, requests: AsyncIterator[pb.ImportKernelRequest], _context: Context) -> pb.Kernel:
        """Spools the file and imports it."""
        first = await anext(requests, None)
        if first is None or first.WhichOneof("request") != "header":
            raise InvalidInputError("an import begins with its header")
        header = first.header
        with tempfile.NamedTemporaryFile(dir=self._spool, prefix="kernel-") as file:
            await _receive((request.data async for request in requests), file.file, MAX_KERNEL_BYTES, header.source)
            kernel = await self._kernels.import_file(Path(file.name), name=header.name, source=header.source)
        return kernel_message(kernel)

    async def list(self, _request: pb.ListKernelsRequest, _context: Context) -> pb.ListKernelsReply:
        """All kernels."""
        return pb.ListKernelsReply(kernels=[kernel_message(kernel) for kernel in await self._kernels.list()])


def image_message(image: Image) -> pb.Image:
    """One image, as ``zonal image ls`` shows it."""
    return pb.Image(
        id=image.id,
        references=image.references,
        size_bytes=image.size,
        created_ns=image.created_ns,
        platform=image.platform,
    )


def kernel_message(kernel: KernelInfo) -> pb.Kernel:
    """One kernel, as ``zonal kernel ls`` shows it."""
    return pb.Kernel(
        name=kernel.name, release=kernel.release, size_bytes=kernel.size_bytes, is_default=kernel.is_default
    )


async def _receive(chunks: AsyncIterator[bytes], file: IO[bytes], limit: int, name: str) -> None:
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


async def _with_progress(work: Callable[[Progress], Coroutine[None, None, Image]], context: Context) -> Image:
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
