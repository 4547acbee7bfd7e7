"""Lay out what an erofs says of its files: inodes, directories, names, and where their content has been put."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from zonal.images import erofs_layout as layout
from zonal.images import tarformat as tar
from zonal.images.erofs_layout import BLOCK, SLOT
from zonal.images.limits import PATH_MAX
from zonal.images.tarformat import Member, refuse
from zonal.images.tree import Directory, File

_ROOT_OFFSET: Final = 2 * SLOT
"""No inode has the number 0, which programs take for that of a name without a file."""
_INLINE_MOST: Final = BLOCK - 4 * SLOT
"""Bytes that may follow an inode in its block, whatever slot it begins in and whatever attributes it has."""


@dataclass(frozen=True, slots=True)
class Plan:
    """An erofs whose content is written, and nothing else."""

    head: bytes
    """The first block from `erofs_layout.SUPER_OFFSET` on."""
    metadata: bytes
    """Inodes and directories."""
    begin: int
    """Bytes before these."""
    files: int
    """Names in the tree, the root's included."""
    stored: int
    """Bytes that it takes on a disk, holes left out."""
    used: Set[File]
    """Whose content counts."""

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return self.begin + len(self.metadata)


def plan_erofs(root: Directory, places: Mapping[File, int], begin: int, labels: Sequence[str], identity: str) -> Plan:
    """Lay a tree out. The same tree and places give the same bytes.

    Args:
        root: of the tree.
        places: the block that each plain file's content begins in, for those that have any.
        begin: the block from which on nothing is.
        labels: of the layers, the lowest first.
        identity: a digest (``sha256:…``) that the filesystem's UUID is made of.

    Raises:
        InvalidInputError: a path is too long.
    """
    return _Planner(places, labels).plan(root, begin, uuid.UUID(hex=identity.removeprefix("sha256:")[:32]))


def stored_size(member: Member) -> int:
    """Bytes in whole blocks that a plain file's content takes, holes left out."""
    pieces = [member.size] if member.sparse is None else [length for _, length in member.sparse]
    return sum(-(-length // BLOCK) * BLOCK for length in pieces) if member.kind == tar.REGULAR else 0


@dataclass(slots=True)
class _Inode:
    """One inode while its place is being found."""

    member: Member
    attributes: bytes
    size: int
    inline: int
    """Bytes of its data that follow it."""
    links: int
    offset: int = 0
    block: int = 0
    """First block of the data that does not."""
    names: list[tuple[bytes, _Inode]] | None = None
    """Of a directory, sorted, ``.`` and ``..`` among them."""
    counts: list[int] | None = None

    @property
    def number(self) -> int:
        return self.offset // SLOT

    @property
    def outside(self) -> int:
        """Blocks of data elsewhere."""
        return -(-(self.size - self.inline) // BLOCK)


class _Planner:
    def __init__(self, places: Mapping[File, int], labels: Sequence[str]) -> None:
        self._places = places
        self._labels = labels
        self._inodes: list[_Inode] = []
        self._files: dict[File, _Inode] = {}
        self._names = 1

    def plan(self, root: Directory, begin: int, identity: uuid.UUID) -> Plan:
        self._directory(root, None, 0)
        end = _ROOT_OFFSET
        for each in self._inodes:
            each.offset = _place(end, layout.INODE.size + len(each.attributes), each.inline)
            end = each.offset + layout.INODE.size + len(each.attributes) + each.inline
        block = begin + -(-end // BLOCK)
        for each in self._inodes:
            if each.outside and each.member.kind != tar.REGULAR:
                each.block, block = block, block + each.outside
        metadata = bytearray((block - begin) * BLOCK)
        for number, each in enumerate(self._inodes, 1):
            self._emit(each, number, metadata, begin)
        head = layout.super_block(
            root=self._inodes[0].number, inodes=len(self._inodes), blocks=block, meta=begin, uuid=identity.bytes
        )
        content = sum(stored_size(file.member) for file in self._files)
        return Plan(head, bytes(metadata), begin * BLOCK, self._names, len(metadata) + content, self._files.keys())

    def _directory(self, directory: Directory, parent: _Inode | None, length: int) -> _Inode:
        """``length`` is that of the path above what is in the directory."""
        member = directory.member
        if member is None:
            # As old as the newest thing in it, so that the same layers give the same bytes.
            member = _undescribed(
                max((each.member.mtime for each in directory.children.values() if each.member), default=0)
            )
        made = _Inode(member, layout.xattrs(member.xattrs), 0, 0, links=2)
        self._inodes.append(made)
        names = [(b".", made), (b"..", parent or made)]
        for name, child in directory.children.items():
            self._names += 1
            if length + len(name) > PATH_MAX:
                raise refuse(self._labels[child.source], name, "its path is too long or too deep")
            if isinstance(child, Directory):
                made.links += 1
                names.append((name, self._directory(child, made, length + len(name) + 1)))
            else:
                names.append((name, self._file(child)))
        names.sort(key=lambda each: each[0])
        made.names = names
        made.counts, made.size = layout.split_names([name for name, _ in names])
        made.inline = _inline(made.size % BLOCK)
        return made

    def _file(self, file: File) -> _Inode:
        known = self._files.get(file)
        if known is not None:
            known.links += 1
            return known
        member = file.member
        link = member.kind == tar.SYMLINK
        size = len(member.link) if link else member.size
        block = self._places.get(file, 0)
        made = _Inode(member, layout.xattrs(member.xattrs), size, _inline(size) if link else 0, links=1, block=block)
        self._inodes.append(made)
        self._files[file] = made
        return made

    def _emit(self, each: _Inode, number: int, metadata: bytearray, begin: int) -> None:
        member = each.member
        mode, _ = layout.KINDS[member.kind]
        union = each.block
        if member.kind in (tar.CHARACTER_DEVICE, tar.BLOCK_DEVICE):
            union = layout.device_number(member.major, member.minor)
        head = layout.inode(
            mode=mode | member.mode,
            layout=layout.INLINE if each.inline else layout.PLAIN,
            attributes=len(each.attributes),
            size=each.size,
            union=union,
            number=number,
            owner=(member.uid, member.gid),
            mtime=(member.mtime, member.mtime_ns),
            links=each.links,
        )
        data = b""
        if each.names is not None and each.counts is not None:
            entries = [(name, to.number, layout.KINDS[to.member.kind][1]) for name, to in each.names]
            data = layout.dirents(entries, each.counts)
        elif member.kind == tar.SYMLINK:
            data = member.link
        outside = len(data) - each.inline
        head += each.attributes + data[outside:]
        metadata[each.offset : each.offset + len(head)] = head
        if outside:
            at = (each.block - begin) * BLOCK
            metadata[at : at + outside] = data[:outside]


def _undescribed(mtime: int) -> Member:
    """A directory that no layer describes: root's own, mode 0755."""
    return Member(
        b"", tar.DIRECTORY, 0o755, uid=0, gid=0, size=0, mtime=mtime, mtime_ns=0, link=b"", major=0, minor=0,
        xattrs=None, sparse=None, data=0,
    )  # fmt: skip


def _inline(size: int) -> int:
    return size if size <= _INLINE_MOST else 0


def _place(end: int, head: int, inline: int) -> int:
    """Where an inode begins, ``end`` being where the one before it ends: what is inline must be within one block."""
    offset = -(-end // SLOT) * SLOT
    begin = (offset + head) % BLOCK
    if inline and begin + inline > BLOCK:
        offset += -(-(BLOCK - begin) // SLOT) * SLOT
    return offset
