"""Images and kernels held in memory, for tests of what is above the stores: their files are never looked into."""

from __future__ import annotations

import asyncio
import builtins
import hashlib
import json
import tarfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from zonal.daemon.services import KernelInfo
from zonal.errors import AccessDeniedError, InvalidInputError, NotFoundError, WrongStateError
from zonal.images.config import ImageConfig
from zonal.images.image import Image, Pruned, Pulled, Removed, Usage
from zonal.images.lease import Lease
from zonal.images.pull import LayerNews, LayerProgress, LayerState, quiet
from zonal.images.skopeo import ANONYMOUS, Access


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
        self.leases: set[Lease[Image]] = set()

    async def commit(
        self,
        base: str,
        layer: Path,
        *,
        name: str = "",
        author: str = "",
        comment: str = "",
        created_by: str = "",
        changes: Sequence[str] = (),
    ) -> Image:
        with tarfile.open(layer) as archive:
            assert archive.getnames() == ["new"]
        return self.resolve(base)

    def resolve(self, name: str) -> Image:
        for reference, image in self.images.items():
            if name in (reference, image.id) or (len(name) > 3 and image.id.removeprefix("sha256:").startswith(name)):
                return image
        raise NotFoundError(f"there is no image {name!r}", hint="zonal image ls lists those that are there")

    def config(self, image_id: str) -> ImageConfig:
        return self.configs.get(image_id, ImageConfig(command=("/bin/true",)))

    def use(self, image_id: str, user: str) -> Lease[Image]:
        return Lease(self.leases, self.resolve(image_id), user)

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

    async def pull(
        self,
        name: str,
        access: Access = ANONYMOUS,
        *,
        progress: Callable[[str], None] = lambda _: None,
        news: LayerNews = quiet,
    ) -> Pulled:
        if not name.startswith("registry.test/"):
            raise NotFoundError(f"{name}: the registry has no such image", hint="check the name")
        if "closed" in name and access.login.username != "tester":
            raise AccessDeniedError(f"{name}: the registry refuses", hint="log in")
        progress(f"asking for {name}")
        layer = "sha256:" + "1" * 64
        for state, done in ((LayerState.WAITING, 0), (LayerState.FETCHING, 5), (LayerState.FETCHED, 10)):
            await asyncio.to_thread(news, LayerProgress(layer, state, done, 10))
        new = name not in self.images
        self.images[name] = local_image(name, name.encode())
        return Pulled(self.images[name], new)

    async def push(self, name: str, target: str = "", access: Access = ANONYMOUS) -> str:
        return self.resolve(name).id

    async def load_archive(
        self, path: Path, *, source: str = "", progress: Callable[[str], None] = lambda _: None
    ) -> builtins.list[Image]:
        progress(f"reading {source}")
        names = path.read_text().split()
        self.images |= {name: local_image(name, name.encode()) for name in names}
        return [self.images[name] for name in names]

    @contextmanager
    def save(self, names: Sequence[str]) -> Generator[Iterator[bytes]]:
        for name in names:
            self.resolve(name)
        yield (f"{name}\n".encode() for name in names)

    async def check_login(self, domain: str, access: Access) -> None:
        if (access.login.username, access.login.password) != ("tester", "secret"):
            raise AccessDeniedError(f"{domain}: the registry refuses", hint="check the password")

    def usage(self) -> Usage:
        return Usage(len(self.images), 0, 4096, 4096)

    def tag(self, name: str, target: str) -> Image:
        self.images[target] = self.resolve(name)
        return self.images[target]

    def prune(self, *, everything: bool = False) -> Pruned:
        return Pruned((), 0)

    def remove(self, name: str, *, force: bool = False) -> Removed:
        image = self.resolve(name)
        if image.references == ("local:1",) and not force:
            raise WrongStateError(f"image {name} is in use", hint="remove the zone first")
        if any(lease.held.id == image.id for lease in self.leases):
            raise WrongStateError(f"image {name} is in use by a zone", hint="remove the zone first")
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

    async def pull(self, reference: str, name: str, access: Access) -> KernelInfo:
        if not reference.startswith("registry.test/"):
            raise NotFoundError(f"{reference}: the registry has no such image", hint="check the name")
        self.kernels.append(KernelInfo(name or "pulled", "6.12.2", 1000, is_default=False, source=reference))
        return self.kernels[-1]

    async def import_debian(self, release: str, image_name: str) -> tuple[KernelInfo, Image]:
        self.kernels.append(KernelInfo("debian", release or "6.12.3", 1000, is_default=False, has_modules=True))
        return self.kernels[-1], local_image(image_name or "zonal-kernel:6.12.3", b"kernel")

    async def use(self, name: str) -> KernelInfo:
        self.kernels = [replace(kernel, is_default=kernel.name == name) for kernel in self.kernels]
        return next(kernel for kernel in self.kernels if kernel.is_default)

    async def remove(self, name: str) -> None:
        self.kernels = [kernel for kernel in self.kernels if kernel.name != name]

    async def list(self) -> builtins.list[KernelInfo]:
        return self.kernels
