"""Images and kernels held in memory, for tests of what is above the stores: their files are never looked into."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from zonal.daemon.services import KernelInfo
from zonal.errors import InvalidInputError, NotFoundError, WrongStateError
from zonal.images.config import ImageConfig
from zonal.images.store import Image, Removed


def local_image(reference: str, data: bytes) -> Image:
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return Image(
        id=digest,
        references=(reference,),
        chain_id=digest,
        erofs=Path("/nowhere") / digest,
        size=len(data),
        created_ns=1_700_000_000_000_000_000,
        imported_ns=1_700_000_000_000_000_000,
        platform="linux/amd64",
        layers=(digest,),
        source="test",
    )


class LocalImages:
    """As ``ImageService``: one image from the start, ``local:1``, whose command is a shell."""

    def __init__(self) -> None:
        self.images = {"local:1": local_image("local:1", b"local")}
        self.configs = {self.images["local:1"].id: ImageConfig(command=("/bin/sh",), env=("FROM_IMAGE=yes",))}

    def resolve(self, name: str) -> Image:
        for reference, image in self.images.items():
            if name in (reference, image.id) or (len(name) > 3 and image.id.removeprefix("sha256:").startswith(name)):
                return image
        raise NotFoundError(f"there is no image {name!r}", hint="zonal image ls lists those that are there")

    def config(self, image_id: str) -> ImageConfig:
        return self.configs.get(image_id, ImageConfig(command=("/bin/true",)))

    def read_config(self, image_id: str) -> bytes:
        return json.dumps({"config": {"Cmd": self.config(image_id).command}}).encode()

    def list(self) -> builtins.list[Image]:
        return [*self.images.values()]

    async def import_archive(
        self,
        path: Path,
        *,
        format: str = "auto",
        name: str = "",
        settings: bytes = b"",
        source: str = "",
        progress: Callable[[str], None] = lambda _: None,
    ) -> Image:
        progress(f"reading {source}")
        data = path.read_bytes()
        if data.startswith(b"garbage"):
            for _ in range(data.count(b".")):
                await asyncio.sleep(0)
            raise InvalidInputError(f"{source} is no image", hint="give a tar")
        if not name:
            raise InvalidInputError("the image has no name", hint="give one with --name")
        self.images[name] = local_image(name, data)
        return self.images[name]

    def remove(self, name: str, *, force: bool = False) -> Removed:
        image = self.resolve(name)
        if image.references == ("local:1",) and not force:
            raise WrongStateError(f"image {name} is in use", hint="remove the zone first")
        del self.images[image.references[0]]
        return Removed(image.references, (image.id,))


class LocalKernels:
    """As ``KernelService``."""

    def __init__(self) -> None:
        self.kernels = [KernelInfo("default", "6.12.0", 1000, is_default=True)]

    async def import_file(self, path: Path, *, name: str, source: str) -> KernelInfo:
        size = path.stat().st_size
        if not path.read_bytes().startswith(b"\x7fELF"):
            raise InvalidInputError(f"{source} is no kernel", hint="give a bzImage or an ELF file")
        self.kernels.append(KernelInfo(name, "6.12.1", size, is_default=False))
        return self.kernels[-1]

    async def list(self) -> builtins.list[KernelInfo]:
        return self.kernels
