"""How large a filesystem can be."""

from __future__ import annotations

DEFAULT_SIZE = 10 << 30
"""Bytes; for a scratch disk and for a volume. Both are sparse: only what is written takes room."""
MIN_SIZE = 16 << 20
MAX_SIZE = 16 << 40
"""ext4's own bound with blocks of 4 KiB and without its feature 64bit."""

_UNITS = (("T", 40), ("G", 30), ("M", 20))


def show(size: int) -> str:
    """``10G`` and the like, as options take it."""
    for unit, shift in _UNITS:
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)
