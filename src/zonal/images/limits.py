"""How large an image may be: bounds on everything that an archive can make us count, keep or write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NAME_MAX: Final = 255
"""Bytes in one component of a path: EROFS_NAME_LEN, and NAME_MAX of linux/limits.h."""

PATH_MAX: Final = 4095
"""Bytes in a whole path, or in the target of a symbolic link: PATH_MAX of linux/limits.h, less its NUL."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for one import. Every one is far above what real images have."""

    layers: int = 256
    """Layers of an image (docker itself stops at 127)."""
    entries: int = 500_000
    """Members of all layers' archives together."""
    depth: int = 256
    """Components of a path."""
    extension_bytes: int = 1 << 20
    """Bytes of extended headers (PAX, GNU long names) before one member."""
    xattr_bytes: int = 64 << 10
    """Bytes of one member's extended attributes, names and values."""
    document_bytes: int = 4 << 20
    """Bytes of a manifest, an index or a configuration."""
    layer_bytes: int = 64 << 30
    """Bytes of one layer once decompressed."""
    total_bytes: int = 64 << 30
    """Bytes of all layers once decompressed, and of the flattened tree with the holes of its sparse files."""
    expansion: int = 200
    """How many times its size a compressed layer may grow, once it is past ``expansion_floor``."""
    expansion_floor: int = 1 << 30
    """Bytes below which a layer may grow at any ratio: a few zeros compress to nothing."""


DEFAULT: Final = Limits()
