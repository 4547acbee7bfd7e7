"""What the control API needs of images and kernels: the part of ``zonal.images``' stores that it calls."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from zonal.images.config import ImageConfig
from zonal.images.store import Image, Removed


class ImageFinder(Protocol):
    """Looks up images; see ``zonal.images.store.ImageStore``."""

    def resolve(self, name: str) -> Image:
        """By name, id or beginning of an id. Raises ``NotFoundError``, ``InvalidInputError``."""
        ...

    def config(self, image_id: str) -> ImageConfig:
        """The configuration."""
        ...


class ImageService(ImageFinder, Protocol):
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

    def remove(self, name: str, *, force: bool = False) -> Removed:
        """Takes a name away, and the image with its last one. Raises ``NotFoundError``, ``WrongStateError``."""
        ...


@dataclass(frozen=True)
class KernelInfo:
    """A kernel as the store has it."""

    name: str
    release: str
    size_bytes: int
    is_default: bool


class KernelService(Protocol):
    """The kernel store."""

    async def import_file(self, path: Path, *, name: str, source: str) -> KernelInfo:
        """Imports an ELF or bzImage. Raises ``InvalidInputError`` for a bad one."""
        ...

    async def list(self) -> builtins.list[KernelInfo]:
        """All kernels."""
        ...
