"""What the control API needs of images and kernels: the part of ``zonal.images``' stores that it calls."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from zonal.daemon.checks import Finding
from zonal.images.config import ImageConfig
from zonal.images.image import Image, Pruned, Pulled, Removed, Usage
from zonal.images.lease import Lease
from zonal.images.pull import LayerNews
from zonal.images.skopeo import Access
from zonal.network.networks import Network, NetworkStore
from zonal.volumes.store import Volume
from zonal.xen.machine import LogPart, Machine


class ImageFinder(Protocol):
    """Looks up images; see ``zonal.images.store.ImageStore``."""

    def resolve(self, name: str) -> Image:
        """By name, id or beginning of an id. Raises ``NotFoundError``, ``InvalidInputError``."""
        ...

    def config(self, image_id: str) -> ImageConfig:
        """The configuration."""
        ...

    def use(self, image_id: str, user: str) -> Lease[Image]:
        """Keeps it from being removed. Raises ``NotFoundError``."""
        ...


class ImageCommitter(Protocol):
    """Makes images of others; see ``zonal.images.store.ImageStore``."""

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
        """A new image with one more layer. Raises ``InvalidInputError``, ``WrongStateError``."""
        ...


class ImageService(ImageFinder, ImageCommitter, Protocol):
    """The image store; see ``zonal.images.store.ImageStore``."""

    def read_config(self, image_id: str) -> bytes:
        """The configuration's document, as it came."""
        ...

    def list(self) -> builtins.list[Image]:
        """Every image."""
        ...

    async def import_archive(
        self,
        path: Path,
        *,
        format: str = "auto",
        name: str = "",
        settings: bytes = b"",
        source: str = "",
        progress: Callable[[str], None] = ...,
    ) -> Image:
        """Takes in an archive. Raises ``ZonalError`` for one that cannot be."""
        ...

    async def pull(
        self, name: str, access: Access = ..., *, progress: Callable[[str], None] = ..., news: LayerNews = ...
    ) -> Pulled:
        """Fetches from a registry. Raises ``ZonalError``."""
        ...

    async def push(self, name: str, target: str = "", access: Access = ...) -> str:
        """Sends to a registry; the digest of the manifest. Raises ``ZonalError``."""
        ...

    async def load_archive(
        self, path: Path, *, source: str = "", progress: Callable[[str], None] = ...
    ) -> builtins.list[Image]:
        """Takes in every image of an archive. Raises ``ZonalError`` for one that cannot be."""
        ...

    def save(self, names: Sequence[str]) -> AbstractContextManager[Iterator[bytes]]:
        """An archive of images. Raises ``NotFoundError``, ``WrongStateError``."""
        ...

    async def check_login(self, domain: str, access: Access) -> None:
        """Raises ``AccessDeniedError`` when the registry refuses."""
        ...

    def usage(self) -> Usage:
        """What the images take on the disk."""
        ...

    def tag(self, name: str, target: str) -> Image:
        """One more name. Raises ``NotFoundError``, ``InvalidInputError``."""
        ...

    def prune(self, *, everything: bool = False) -> Pruned:
        """Removes what nobody needs."""
        ...

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Takes a name away, and the image with its last one. Raises ``NotFoundError``, ``WrongStateError``."""
        ...


class VolumeService(Protocol):
    """The store of volumes; see ``zonal.volumes.store.VolumeStore``."""

    async def create(
        self, name: str, *, size: int = 0, anonymous: bool = False, labels: Mapping[str, str] | None = None
    ) -> Volume:
        """Makes one. Raises ``AlreadyExistsError``, ``InvalidInputError``, ``ResourceExhaustedError``."""
        ...

    def list(self) -> builtins.list[Volume]:
        """Every volume."""
        ...

    def find(self, name: str) -> Volume:
        """One of them. Raises ``NotFoundError``, ``InvalidInputError``."""
        ...

    def users(self, name: str) -> builtins.list[str]:
        """Who uses it now."""
        ...

    def remove(self, name: str) -> None:
        """Raises ``NotFoundError``, ``WrongStateError``."""
        ...


class NetworkService(Protocol):
    """The networks; see ``zonal.network.attachments.Attachments``."""

    @property
    def networks(self) -> NetworkStore:
        """Which there are."""
        ...

    def users(self, network: str) -> list[str]:
        """The zones on a network, by name."""
        ...

    async def remove_network(self, name: str) -> None:
        """Raises ``NotFoundError``, ``WrongStateError``."""
        ...

    def is_there(self, zone_id: str) -> bool:
        """Whether a zone's network is there, if it has one: a quick look."""
        ...

    async def check(self, zone_id: str) -> None:
        """Raises ``ZonalError`` when a zone's network is not as it was left."""
        ...

    async def status(self, network: Network) -> None:
        """Raises ``ZonalError`` when zones cannot be attached to a network now."""
        ...

    async def collect(self, network: Network, others: Sequence[tuple[str, str]] = ()) -> None:
        """Has a network's plugins give up what is of no zone, nor of ``others``. Raises ``ZonalError``."""
        ...


@dataclass(frozen=True)
class KernelInfo:
    """A kernel as the store has it."""

    name: str
    release: str
    size_bytes: int
    is_default: bool
    source: str = ""
    """Where an imported one came from."""
    has_modules: bool = False
    metadata: dict[str, str] = field(default_factory=dict[str, str])


class KernelService(Protocol):
    """The kernel store."""

    async def import_file(self, path: Path, *, name: str, source: str) -> KernelInfo:
        """Imports an ELF, a bzImage, or an archive of a kernel image. Raises ``InvalidInputError`` for a bad one."""
        ...

    async def pull(self, reference: str, name: str, access: Access) -> KernelInfo:
        """Fetches a kernel image; an empty ``name`` is made of its own. Raises as ``ImageService.pull``."""
        ...

    async def import_debian(self, release: str, image_name: str) -> tuple[KernelInfo, Image]:
        """Makes an image, and a kernel, of one that is installed in the host. Raises ``NotFoundError``."""
        ...

    async def use(self, name: str) -> KernelInfo:
        """Makes it the default. Raises ``NotFoundError``."""
        ...

    async def remove(self, name: str) -> None:
        """Raises ``NotFoundError``, and ``WrongStateError`` for the host's own."""
        ...

    async def list(self) -> builtins.list[KernelInfo]:
        """All kernels."""
        ...


class HostService(Protocol):
    """The machine and its hypervisor; see ``zonal.daemon.xen_host.XenMachine``."""

    def machine(self) -> Machine:
        """What the hypervisor says of both."""
        ...

    def log(self, *, index: int | None, clear: bool) -> LogPart:
        """Of the hypervisor's own console; see ``zonal.xen.machine.read_log``."""
        ...

    async def examine(self) -> builtins.list[Finding]:
        """What is wrong, and what to do."""
        ...
