"""Whether an ext4 was left in the middle of things.

Two fields of the superblock are read, and nothing that a zone wrote is trusted: a wrong answer harms its own data only.
"""

from __future__ import annotations

import struct
from pathlib import Path

_SUPERBLOCK = 1024
_MAGIC = 0xEF53
_MAGIC_OFFSET = 0x38  # s_magic; Linux, Documentation/filesystems/ext4/super.rst
_INCOMPAT_OFFSET = 0x60  # s_feature_incompat
_NEEDS_RECOVERY = 0x4  # INCOMPAT_RECOVER


def needs_recovery(path: Path) -> bool:
    """Whether the journal has to be replayed, which takes a writable mount. What is no ext4 says no."""
    with path.open("rb") as file:
        file.seek(_SUPERBLOCK)
        block = file.read(1024)
    if len(block) < 1024 or struct.unpack_from("<H", block, _MAGIC_OFFSET)[0] != _MAGIC:
        return False
    return bool(struct.unpack_from("<I", block, _INCOMPAT_OFFSET)[0] & _NEEDS_RECOVERY)
