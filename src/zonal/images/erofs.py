"""Write a flattened tree as an erofs: one file, of which zones' kernels see a plain filesystem.

Everything about the files comes first, then the directories that do not fit there, then the content of files, each
from a block of its own on and in the order that the layers have it in: so it is copied in large pieces, straight from
the layers' tars. ``mkfs.erofs`` would have a tar stream made for it, read that through a pipe, and write every file by
itself; all of that is dear where system calls are.
"""

from __future__ import annotations

import mmap
import os
import shutil
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from zonal.errors import InvalidInputError
from zonal.images import erofs_layout as layout
from zonal.images import tarformat as tar
from zonal.images.erofs_layout import BLOCK, SLOT
from zonal.images.files import no_room
from zonal.images.limits import PATH_MAX
from zonal.images.tarformat import Member, Source, refuse
from zonal.images.tree import Directory, File, Tree

_ROOT_OFFSET: Final = layout.SUPER_OFFSET + layout.SUPER_BLOCK.size
_INLINE_MOST: Final = BLOCK - 4 * SLOT
"""Bytes that may follow an inode in its block, whatever slot it begins in and whatever attributes it has."""
_BATCH: Final = 2 << 20
"""Bytes copied at once: whole blocks."""
_AT_ONCE: Final = 3
"""Batches under way: one is read while another is written."""
_PIECES: Final = 512
"""Most files in one batch: two of the kernel's 1024 vectors each (UIO_MAXIOV of linux/uio.h)."""
_GAP: Final = 64 << 10
"""Bytes of a layer between two files that are read and thrown away, rather than begin anew behind them."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes of an open file and their place in the erofs."""

    fd: int
    offset: int
    size: int
    target: int


@dataclass(frozen=True, slots=True)
class Plan:
    """An erofs not yet written."""

    metadata: bytes
    """Its beginning: super block, inodes, directories."""
    copies: list[Copy]
    """Content of files, in ascending order of targets; what lies between is zeros."""
    size: int
    """Bytes of all of it."""
    files: int
    """Names in the tree, the root's included."""

    @property
    def stored(self) -> int:
        """Bytes that it takes on a disk, holes left out."""
        return len(self.metadata) + sum(-(-copy.size // BLOCK) * BLOCK for copy in self.copies)


def plan_erofs(tree: Tree, layers: Sequence[Source], identity: str) -> Plan:
    """Lay a tree out. The same tree gives the same bytes.

    Args:
        tree: from these ``layers``, whose descriptors must stay open until the erofs has been written.
        layers: the lowest first.
        identity: a digest (``sha256:…``) that the filesystem's UUID is made of.

    Raises:
        InvalidInputError: a path is too long.
    """
    return _Planner(layers).plan(tree.root, uuid.UUID(hex=identity.removeprefix("sha256:")[:32]))


def write_erofs(plan: Plan, target: Path, *, on_step: Callable[[], None] = lambda: None) -> None:
    """Write an erofs to ``target``, which must not exist; `files.publish` has it on the disk. Nothing is left of it
    when it fails.

    ``on_step`` is called every few MiB and may raise to give up.

    Raises:
        ResourceExhaustedError: not enough room on the disk.
        InvalidInputError: a layer is shorter than it was.
    """
    check_room(target.parent, plan.stored)
    fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.truncate(fd, plan.size)
        _write_all(fd, memoryview(plan.metadata), 0)
        with _Copier(target, fd, on_step) as copier:
            copier.copy(plan.copies)
    except BaseException:
        target.unlink()
        raise
    finally:
        os.close(fd)


def check_room(folder: Path, needed: int) -> None:
    """Refuse to start what cannot fit.

    Raises:
        ResourceExhaustedError: fewer than ``needed`` bytes are free on the disk that holds ``folder``.
    """
    if shutil.disk_usage(folder).free < needed:
        raise no_room(folder, needed)


@dataclass(slots=True)
class _Inode:
    """One inode while its place is being found."""

    member: Member
    source: int
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
    def __init__(self, layers: Sequence[Source]) -> None:
        self._layers = layers
        self._inodes: list[_Inode] = []
        self._files: dict[File, _Inode] = {}
        self._names = 1

    def plan(self, root: Directory, identity: uuid.UUID) -> Plan:
        self._directory(root, None, 0)
        end = _ROOT_OFFSET
        for each in self._inodes:
            each.offset = _place(end, layout.INODE.size + len(each.attributes), each.inline)
            end = each.offset + layout.INODE.size + len(each.attributes) + each.inline
        block = -(-end // BLOCK)
        regular = [each for each in self._inodes if each.member.kind == tar.REGULAR and each.size]
        regular.sort(key=lambda each: (each.source, each.member.data))
        others = [each for each in self._inodes if each.outside and each.member.kind != tar.REGULAR]
        for each in others:
            each.block, block = block, block + each.outside
        metadata = bytearray(block * BLOCK)
        copies: list[Copy] = []
        for each in regular:
            each.block, block = block, block + each.outside
            copies += self._copies(each)
        for number, each in enumerate(self._inodes, 1):
            self._emit(each, number, metadata)
        metadata[layout.SUPER_OFFSET : _ROOT_OFFSET] = layout.super_block(
            root=self._inodes[0].number,
            inodes=len(self._inodes),
            blocks=block,
            uuid=identity.bytes,
            rest=bytes(metadata[_ROOT_OFFSET:BLOCK]),
        )
        return Plan(bytes(metadata), copies, block * BLOCK, self._names)

    def _directory(self, directory: Directory, parent: _Inode | None, length: int) -> _Inode:
        """``length`` is that of the path above what is in the directory."""
        member = directory.member
        if member is None:
            # As old as the newest thing in it, so that the same layers give the same bytes.
            member = _undescribed(
                max((each.member.mtime for each in directory.children.values() if each.member), default=0)
            )
        made = _Inode(member, directory.source, layout.xattrs(member.xattrs), 0, 0, links=2)
        self._inodes.append(made)
        names = [(b".", made), (b"..", parent or made)]
        for name, child in directory.children.items():
            self._names += 1
            if length + len(name) > PATH_MAX:
                label = self._layers[child.source].label
                raise refuse(label, name, "its path is too long or too deep")
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
        made = _Inode(
            member, file.source, layout.xattrs(member.xattrs), size, _inline(size) if link else 0, links=1
        )  # fmt: skip
        self._inodes.append(made)
        self._files[file] = made
        return made

    def _copies(self, each: _Inode) -> Iterable[Copy]:
        member, fd, target = each.member, self._layers[each.source].fd, each.block * BLOCK
        if member.sparse is None:
            yield Copy(fd, member.data, member.size, target)
            return
        stored = member.data
        for offset, length in member.sparse:
            if length:
                yield Copy(fd, stored, length, target + offset)
            stored += length

    def _emit(self, each: _Inode, number: int, metadata: bytearray) -> None:
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
        metadata[each.block * BLOCK : each.block * BLOCK + outside] = data[:outside]


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


class _Copier:
    """Copies ranges of files to their places, neighbours together and a few batches at a time.

    A batch is read by one call, each file's bytes to their place in a buffer and what is between them in the tar to
    where nobody looks; and it is written by another, past the page cache where the file system can, which is then
    spared a second copy, and is not filled with what zones may never read.
    """

    def __init__(self, target: Path, fd: int, on_step: Callable[[], None]) -> None:
        self._fd = fd
        self._on_step = on_step
        self._batch: list[Copy] = []
        self._waste = memoryview(bytearray(_GAP))
        # Anonymous memory begins at a page, as direct I/O wants it.
        self._buffers = [memoryview(mmap.mmap(-1, _BATCH)) for _ in range(_AT_ONCE)]
        self._under_way: deque[tuple[Future[None], memoryview]] = deque()
        self._stack = ExitStack()
        try:
            self._direct = os.open(target, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
            self._stack.callback(os.close, self._direct)
        except OSError:  # EINVAL: the file system has no direct I/O
            self._direct = fd
        self._threads = self._stack.enter_context(ThreadPoolExecutor(_AT_ONCE, "erofs"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def copy(self, copies: Iterable[Copy]) -> None:
        for copy in copies:
            offset = 0
            while copy.size - offset > _BATCH:
                self._flush()
                self._add(Copy(copy.fd, copy.offset + offset, _BATCH, copy.target + offset))
                offset += _BATCH
            self._add(Copy(copy.fd, copy.offset + offset, copy.size - offset, copy.target + offset))
        self._flush()
        while self._under_way:
            self._wait()

    def _add(self, copy: Copy) -> None:
        if self._batch:
            first, last = self._batch[0], self._batch[-1]
            gap = copy.offset - last.offset - last.size
            if (
                copy.fd != last.fd
                or not 0 <= gap <= _GAP
                or copy.target - last.target - last.size >= BLOCK
                or copy.target + copy.size - first.target > _BATCH
                or len(self._batch) == _PIECES
            ):
                self._flush()
        self._batch.append(copy)

    def _flush(self) -> None:
        if not self._batch:
            return
        self._on_step()
        if not self._buffers:
            self._wait()
        buffer = self._buffers.pop()
        batch, self._batch = self._batch, []
        self._under_way.append((self._threads.submit(self._do, batch, buffer), buffer))

    def _wait(self) -> None:
        done, buffer = self._under_way.popleft()
        done.result()
        self._buffers.append(buffer)

    def _do(self, batch: list[Copy], buffer: memoryview) -> None:
        first, last = batch[0], batch[-1]
        vectors: list[memoryview] = []
        position, done = first.offset, 0
        for copy in batch:
            if copy.offset > position:
                vectors.append(self._waste[: copy.offset - position])
            begin = copy.target - first.target
            if begin > done:
                buffer[done:begin] = bytes(begin - done)
            done = begin + copy.size
            vectors.append(buffer[begin:done])
            position = copy.offset + copy.size
        if os.preadv(first.fd, vectors, first.offset) < last.offset + last.size - first.offset:
            raise InvalidInputError("a layer's file was cut short while it was read")
        if first.target % BLOCK:
            # A piece of a sparse file: the block that it begins in may hold the end of another.
            _write_all(self._fd, buffer[:done], first.target)
            return
        whole = done // BLOCK * BLOCK
        _write_all(self._direct, buffer[:whole], first.target)
        _write_all(self._fd, buffer[whole:done], first.target + whole)


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
