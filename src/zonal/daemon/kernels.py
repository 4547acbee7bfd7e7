"""Kernels: files and OCI images that are taken in, and the one that is the default."""

from __future__ import annotations

import asyncio
import builtins
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from zonal.api import control_pb2 as pb
from zonal.daemon.registries import access_of
from zonal.daemon.rpc import Context
from zonal.daemon.services import KernelInfo, KernelService
from zonal.daemon.uploads import image_message, receive
from zonal.errors import InvalidInputError, NotFoundError
from zonal.images import reference as references
from zonal.images.image import Image
from zonal.images.kernel_image import pack_debian_kernel
from zonal.images.kernels import Kernel, KernelStore, check_kind
from zonal.images.skopeo import Access
from zonal.images.store import ImageStore

MAX_UPLOAD_BYTES = 6 << 30
"""Of a kernel's file, or of an image with its modules."""


class Kernels:
    """The kernel store, as the control API asks for it; fulfils ``zonal.daemon.services.KernelService``."""

    def __init__(self, store: KernelStore, images: ImageStore, spool: Path) -> None:
        self._store = store
        self._images = images
        self._spool = spool

    async def import_file(self, path: Path, *, name: str, source: str) -> KernelInfo:
        """See ``KernelService``."""
        try:
            check_kind(path, source)
        except InvalidInputError:
            if not _is_archive(path):
                raise
            return await self._import_archive(path, name, source)
        return _info(await asyncio.to_thread(self._store.import_file, path, name, source=source))

    async def pull(self, reference: str, name: str, access: Access) -> KernelInfo:
        """See ``KernelService``."""
        wanted = references.parse(reference)
        pulled = await self._images.pull(reference, access)
        try:
            return await self._take(pulled.image, name or _name_of(wanted.familiar), wanted.familiar)
        finally:
            if pulled.new:
                # What is wanted of it is in the store of kernels.
                self._images.remove(str(wanted))

    async def import_debian(self, release: str, image_name: str) -> tuple[KernelInfo, Image]:
        """See ``KernelService``."""
        installed = [kernel for kernel in self._store.list() if not kernel.source and kernel.modules]
        if not release:
            if not installed:
                raise NotFoundError("no kernel of Debian's is installed", hint="apt-get install linux-image-amd64")
            # The one with every driver, where there are two.
            release = next((k.release for k in installed if "cloud" not in k.release), installed[0].release)
        name = image_name or f"zonal-kernel:{release.replace('+', '-')}"
        familiar = references.parse(name).familiar
        with tempfile.TemporaryDirectory(dir=self._spool) as folder:
            packed = await asyncio.to_thread(
                pack_debian_kernel, release, Path(folder), self._store.boot, self._store.host_modules
            )
            image = await self._images.import_archive(packed, format="rootfs", name=name, source=f"Debian's {release}")
        return await self._take(image, _name_of(familiar), familiar), image

    async def use(self, name: str) -> KernelInfo:
        """See ``KernelService``."""
        return _info(await asyncio.to_thread(self._store.use, name))

    async def remove(self, name: str) -> None:
        """See ``KernelService``."""
        await asyncio.to_thread(self._store.remove, name)

    async def list(self) -> builtins.list[KernelInfo]:
        """See ``KernelService``."""
        return [_info(kernel) for kernel in await asyncio.to_thread(self._store.list)]

    async def _import_archive(self, path: Path, name: str, source: str) -> KernelInfo:
        before = {image.id for image in self._images.list()}
        image = await self._images.import_archive(path, source=source)
        try:
            return await self._take(image, name, source)
        finally:
            if image.id not in before:
                self._images.remove(image.id, force=True)

    async def _take(self, image: Image, name: str, source: str) -> KernelInfo:
        with tempfile.TemporaryDirectory(dir=self._spool) as folder:
            files = await self._images.kernel(image.id, Path(folder))
            kernel = await asyncio.to_thread(self._store.import_image, files, name, source=source)
        return _info(kernel)


class KernelCalls:
    """The calls on kernels."""

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
            await receive((request.data async for request in requests), file.file, MAX_UPLOAD_BYTES, header.source)
            kernel = await self._kernels.import_file(Path(file.name), name=header.name, source=header.source)
        return kernel_message(kernel)

    async def pull(self, request: pb.PullKernelRequest, _context: Context) -> pb.Kernel:
        """From a registry."""
        return kernel_message(await self._kernels.pull(request.reference, request.name, access_of(request.access)))

    async def import_debian(
        self, request: pb.ImportDebianKernelRequest, _context: Context
    ) -> pb.ImportDebianKernelReply:
        """Of what is installed in the host."""
        kernel, image = await self._kernels.import_debian(request.release, request.image)
        return pb.ImportDebianKernelReply(kernel=kernel_message(kernel), image=image_message(image))

    async def use(self, request: pb.KernelRef, _context: Context) -> pb.Kernel:
        """The default from now on."""
        return kernel_message(await self._kernels.use(request.name))

    async def remove(self, request: pb.KernelRef, _context: Context) -> pb.RemoveKernelReply:
        """An imported one."""
        await self._kernels.remove(request.name)
        return pb.RemoveKernelReply()

    async def list(self, _request: pb.ListKernelsRequest, _context: Context) -> pb.ListKernelsReply:
        """All kernels."""
        return pb.ListKernelsReply(kernels=[kernel_message(kernel) for kernel in await self._kernels.list()])


def kernel_message(kernel: KernelInfo) -> pb.Kernel:
    """One kernel, as ``zonal kernel ls`` shows it."""
    return pb.Kernel(
        name=kernel.name,
        release=kernel.release,
        size_bytes=kernel.size_bytes,
        is_default=kernel.is_default,
        source=kernel.source,
        has_modules=kernel.has_modules,
        metadata=kernel.metadata,
    )


def _info(kernel: Kernel) -> KernelInfo:
    return KernelInfo(
        name=kernel.name,
        release=kernel.release,
        size_bytes=kernel.size,
        is_default=kernel.is_default,
        source=kernel.source,
        has_modules=kernel.modules is not None,
        metadata=kernel.metadata,
    )


def _name_of(reference: str) -> str:
    """``registry:5000/team/zone:6.12`` becomes ``zone-6.12``."""
    last = reference.partition("@")[0].rpartition("/")[2]
    return re.sub(r"[^a-z0-9._+-]+", "-", last.lower()).strip("-._+") or "kernel"


def _is_archive(path: Path) -> bool:
    """Whether it looks like a tar, or like something that is compressed."""
    with path.open("rb") as file:
        head = file.read(512)
    return head[257:262] == b"ustar" or head[:2] == b"\x1f\x8b" or head[:4] == b"\x28\xb5\x2f\xfd"
