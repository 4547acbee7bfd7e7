"""Reads an erofs back, by the layout that fs/erofs/erofs_fs.h gives, into a tar that Python and GNU tar read."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
}
_ENTRY_TYPES = {1: stat.S_IFREG, 2: stat.S_IFDIR, 3: stat.S_IFCHR, 4: stat.S_IFBLK, 5: stat.S_IFIFO, 7: stat.S_IFLNK}


@dataclass(frozen=True)
class Inode:
    number: int
    mode: int
    size: int
    union: int
    owner: tuple[int, int]
    mtime_ns: int
    links: int
    attributes: dict[bytes, bytes]
    data: bytes


class Erofs:
    """One image, in memory."""

    def __init__(self, image: bytes) -> None:
        self._image = image
        magic, _, compat, bits, _, self.root, self.inodes, _, _, blocks, self._meta, _ = struct.unpack_from(
            "<IIIBBHQQIIII", image, 1024
        )
        assert (magic, compat, bits) == (0xE0F5E1E2, 3, 12)
        assert struct.unpack_from("<I", image, 1024 + 80) == (0,), "features that old kernels lack"
        assert blocks * 4096 == len(image)

    def inode(self, number: int) -> Inode:
        assert number, "programs take it for that of no file"
        at = self._meta * 4096 + number * 32
        form, count, mode, _, size, union, _, uid, gid, seconds, ns, links = struct.unpack_from(
            "<HHHHQIIIIQII", self._image, at
        )
        assert form in (1, 5), form
        attributes_size = 12 + 4 * (count - 1) if count else 0
        inline = at + 64 + attributes_size
        data = b""
        if stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) and size:
            begin = union * 4096
            if form == 5:
                tail = size % 4096
                assert inline // 4096 == (inline + tail - 1) // 4096, "inline data crosses a block"
                data = self._image[begin : begin + size - tail] + self._image[inline : inline + tail]
            else:
                assert begin, "data in the first block"
                data = self._image[begin : begin + size]
                assert not any(self._image[begin + size : begin + -(-size // 4096) * 4096])
            assert len(data) == size
        attributes = dict(self._attributes(at + 64, attributes_size)) if attributes_size else {}
        return Inode(number, mode, size, union, (uid, gid), seconds * 10**9 + ns, links, attributes, data)

    def _attributes(self, at: int, size: int) -> Iterator[tuple[bytes, bytes]]:
        end = at + size
        assert self._image[at : at + 12] == bytes(12)
        at += 12
        while at < end:
            name, index, value = struct.unpack_from("<BBH", self._image, at)
            at += 4
            yield _PREFIXES[index] + self._image[at : at + name], self._image[at + name : at + name + value]
            at += -(-(name + value) // 4) * 4
        assert at == end

    def entries(self, directory: Inode) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        for begin in range(0, directory.size, 4096):
            block = directory.data[begin : begin + 4096]
            count = struct.unpack_from("<H", block, 8)[0] // 12
            rows = [struct.unpack_from("<QHBB", block, 12 * each) for each in range(count)]
            ends = [*(row[1] for row in rows[1:]), len(block)]
            for (number, offset, kind, _), end in zip(rows, ends, strict=True):
                name = block[offset:end].rstrip(b"\0")
                assert stat.S_IFMT(self.inode(number).mode) == _ENTRY_TYPES[kind]
                found[name] = number
        assert list(found) == sorted(found), "a kernel looks names up by halving"
        return found

    def walk(self) -> Iterator[tuple[bytes, Inode]]:
        """Every name with its inode, each folder before what is in it; the root is ``.``."""
        yield from self._below(b".", self.root, self.root)

    def _below(self, path: bytes, number: int, parent: int) -> Iterator[tuple[bytes, Inode]]:
        directory = self.inode(number)
        yield path, directory
        entries = self.entries(directory)
        assert (entries.pop(b"."), entries.pop(b"..")) == (number, parent)
        folders = 0
        for name, child in entries.items():
            inner = name if path == b"." else path + b"/" + name
            node = self.inode(child)
            if stat.S_ISDIR(node.mode):
                folders += 1
                yield from self._below(inner, child, number)
            else:
                yield inner, node
        assert directory.links == 2 + folders


def as_tar(image: bytes) -> bytes:
    """The whole tree; of names of one file, the first has its content."""
    erofs = Erofs(image)
    first: dict[int, str] = {}
    links: dict[int, int] = {}
    stated: dict[int, int] = {}
    seen: set[int] = set()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, node in erofs.walk():
            seen.add(node.number)
            info = tarfile.TarInfo(os.fsdecode(path))
            info.type, info.mode = _TYPES[stat.S_IFMT(node.mode)], stat.S_IMODE(node.mode)
            info.uid, info.gid = node.owner
            info.mtime = node.mtime_ns // 10**9
            info.pax_headers = {
                f"SCHILY.xattr.{os.fsdecode(key)}": value.decode("utf-8", "surrogateescape")
                for key, value in node.attributes.items()
            }
            if node.mtime_ns % 10**9:
                info.pax_headers["mtime"] = f"{info.mtime}.{node.mtime_ns % 10**9:09}"
            if not info.isdir():
                links[node.number] = links.get(node.number, 0) + 1
                stated[node.number] = node.links
            if node.number in first:
                info.type, info.linkname = tarfile.LNKTYPE, first[node.number]
                archive.addfile(info)
                continue
            if not info.isdir():
                first[node.number] = info.name
            if info.issym():
                info.linkname = os.fsdecode(node.data)
            elif info.ischr() or info.isblk():
                minor = node.union & 0xFF | (node.union >> 12) & 0xFFF00
                info.devmajor, info.devminor = (node.union >> 8) & 0xFFF, minor
            info.size = len(node.data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(node.data) if info.isreg() else None)
    assert links == stated
    assert len(seen) == erofs.inodes
    return buffer.getvalue()


def fsck(image: Path) -> None:
    """What erofs-utils think of it."""
    done = subprocess.run(["fsck.erofs", "--extract", image], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
