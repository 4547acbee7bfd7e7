"""The on-disk layout of an uncompressed erofs: fs/erofs/erofs_fs.h of Linux, and Documentation/filesystems/erofs.rst.

Only what every kernel since 5.4 reads is used: one device, blocks of 4 KiB, extended inodes, data that is plain or has
its last block behind the inode, extended attributes behind the inode too.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping, Sequence
from typing import Final

from zonal.images import tarformat as tar

BLOCK: Final = 4096
"""Bytes of a block."""
SLOT: Final = 32
"""Bytes of a slot; an inode's number is that of the slot which it begins in, from meta_blkaddr on."""

SUPER_OFFSET: Final = 1024
SUPER_BLOCK: Final = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24s")
"""magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid, inos, build_time, build_time_nsec, blocks,
meta_blkaddr, xattr_blkaddr, uuid, volume_name, feature_incompat, available_compr_algs, extra_devices, devt_slotoff,
dirblkbits, xattr_prefix_count, xattr_prefix_start, packed_nid, reserved."""
MAGIC: Final = 0xE0F5E1E2
FEATURE_CHECKSUM: Final = 0x1
FEATURE_MTIME: Final = 0x2

INODE: Final = struct.Struct("<HHHHQIIIIQII16s")
"""i_format, i_xattr_icount, i_mode, i_reserved, i_size, i_u, i_ino, i_uid, i_gid, i_mtime, i_mtime_nsec, i_nlink,
i_reserved2: struct erofs_inode_extended."""
EXTENDED: Final = 1
PLAIN: Final = 0
INLINE: Final = 2
"""EROFS_INODE_FLAT_PLAIN and EROFS_INODE_FLAT_INLINE, in i_format from bit 1 on."""

DIRENT: Final = struct.Struct("<QHBB")
"""nid, nameoff, file_type, reserved."""
XATTR_HEADER: Final = struct.Struct("<IB7s")
"""h_name_filter, h_shared_count, h_reserved2: struct erofs_xattr_ibody_header."""
XATTR_ENTRY: Final = struct.Struct("<BBH")
"""e_name_len, e_name_index, e_value_size; then name and value, padded to 4 bytes."""

_XATTR_PREFIXES: Final = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
"""EROFS_XATTR_INDEX_…"""

KINDS: Final[Mapping[bytes, tuple[int, int]]] = {
    tar.REGULAR: (stat.S_IFREG, 1),
    tar.DIRECTORY: (stat.S_IFDIR, 2),
    tar.CHARACTER_DEVICE: (stat.S_IFCHR, 3),
    tar.BLOCK_DEVICE: (stat.S_IFBLK, 4),
    tar.FIFO: (stat.S_IFIFO, 5),
    tar.SYMLINK: (stat.S_IFLNK, 7),
}
"""For each kind of a tar's member the type in i_mode, and in a directory's entry (EROFS_FT_…)."""


def super_block(*, root: int, inodes: int, blocks: int, meta: int, uuid: bytes) -> bytes:
    """The first block from `SUPER_OFFSET` on, with the checksum of it; there is nothing else in it.

    Inodes are numbered from block ``meta`` on.
    """
    rest = bytes(BLOCK - SUPER_OFFSET - SUPER_BLOCK.size)

    def pack(checksum: int) -> bytes:
        return SUPER_BLOCK.pack(
            MAGIC, checksum, FEATURE_CHECKSUM | FEATURE_MTIME, BLOCK.bit_length() - 1, 0, root, inodes, 0, 0, blocks,
            meta, 0, uuid, b"", 0, 0, 0, 0, 0, 0, 0, 0, b"",
        )  # fmt: skip

    return pack(crc32c(pack(0) + rest)) + rest


def inode(
    *,
    mode: int,
    layout: int,
    attributes: int,
    size: int,
    union: int,
    number: int,
    owner: tuple[int, int],
    mtime: tuple[int, int],
    links: int,
) -> bytes:
    """An extended inode. ``attributes`` are the bytes of its extended attributes, ``union`` is the first block of its
    data, or a device's number; ``mtime`` is in seconds and nanoseconds."""
    count = (attributes - XATTR_HEADER.size) // 4 + 1 if attributes else 0
    return INODE.pack(
        EXTENDED | layout << 1, count, mode, 0, size, union, number, *owner, *mtime, links, b""
    )  # fmt: skip


def device_number(major: int, minor: int) -> int:
    """As new_encode_dev of linux/kdev_t.h has it."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def xattrs(attributes: Mapping[bytes, bytes] | None) -> bytes:
    """Extended attributes as they follow an inode; names that no file of Linux can have are left out."""
    found = bytearray()
    for name, value in sorted((attributes or {}).items()):
        for prefix, index in _XATTR_PREFIXES:
            rest = name[len(prefix) :]
            # A namespace needs a name in it; that of an ACL is one already.
            if name.startswith(prefix) and bool(rest) == prefix.endswith(b"."):
                found += XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
                found += bytes(-len(found) % 4)
                break
    return XATTR_HEADER.pack(0, 0, b"") + bytes(found) if found else b""


def split_names(names: Sequence[bytes]) -> tuple[list[int], int]:
    """How many of a directory's sorted names go into each of its blocks, and the bytes of them all."""
    counts: list[int] = []
    count = used = 0
    for name in names:
        needed = DIRENT.size + len(name)
        if used + needed > BLOCK:
            counts.append(count)
            count = used = 0
        count += 1
        used += needed
    return [*counts, count], len(counts) * BLOCK + used


def dirents(entries: Sequence[tuple[bytes, int, int]], counts: Sequence[int]) -> bytes:
    """A directory's content: (name, inode, type), sorted by name, ``counts`` of them in each block."""
    found = bytearray()
    begin = 0
    for count in counts:
        found += bytes(-len(found) % BLOCK)
        block = entries[begin : begin + count]
        offset = count * DIRENT.size
        for name, number, kind in block:
            found += DIRENT.pack(number, offset, kind, 0)
            offset += len(name)
        found += b"".join([name for name, _, _ in block])
        begin += count
    return bytes(found)


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC as the kernel's crc32c() begins it (all ones), and without the inversion at the end."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def _crc32c_table() -> list[int]:
    table: list[int] = []
    for value in range(256):
        crc = value
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        table.append(crc)
    return table


_CRC32C: Final = _crc32c_table()
