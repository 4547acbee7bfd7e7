"""What the store tells of an image, and of what was done to images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the store."""

    id: str
    """Digest of its configuration, ``sha256:…``."""
    references: tuple[str, ...]
    """Its names, in the form that people type."""
    chain_id: str
    erofs: Path
    size: int
    """Bytes of the erofs."""
    created_ns: int
    """Wall clock, ns since the epoch; 0 when the image does not say."""
    imported_ns: int
    platform: str
    layers: tuple[str, ...]
    """Diff ids, the lowest first."""
    source: str


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal came to."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    """Ids of images that are gone."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull came to."""

    image: Image
    new: bool
    """Whether anything has changed here."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning came to."""

    deleted: tuple[str, ...]
    """Ids of images that are gone."""
    freed: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What things of one kind take on the disk."""

    total: int
    """How many there are."""
    active: int
    """How many of them are in use."""
    size: int
    """Bytes."""
    reclaimable: int
    """Bytes that would be free without those that nobody uses."""
