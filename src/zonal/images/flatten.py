"""Make one tar stream of an image's layers, without ever unpacking one.

Bytes are copied from the layers' files by the kernel (sendfile), neighbouring ranges as one; where a header is plain
and its name unchanged, the header goes along with its content. Only the rest is written anew. A single layer with
nothing to resolve is therefore copied in a few large pieces.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from zonal.errors import InvalidInputError
from zonal.images import tarformat as tar
from zonal.images import tarwriter
from zonal.images.limits import DEFAULT, PATH_MAX, Limits
from zonal.images.tarformat import BLOCK, Member, Source, padded, refuse
from zonal.images.tarreader import read_members
from zonal.images.tree import Directory, File, Tree

_STEP: Final = 4 << 20
"""Bytes handed to the kernel at once, so that a stop is noticed soon."""
_ZEROS: Final = bytes(256 << 10)


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes of an open file; a descriptor of -1 stands for zeros."""

    fd: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Flattened:
    """A tar stream not yet written, as pieces of the layers' files with new headers between them."""

    pieces: list[Range | bytes]
    size: int
    """Bytes of the whole stream."""
    files: int
    """Members of the stream."""


def flatten(layers: Sequence[Source], limits: Limits = DEFAULT, *, need_end: bool = False) -> Flattened:
    """Resolve ``layers``, the lowest first, to one tree and describe it as a tar stream.

    The layers' descriptors must stay open until the stream has been written.

    Raises:
        InvalidInputError: a layer is corrupt, has members that an image cannot have, or a limit is passed.
    """
    if len(layers) > limits.layers:
        raise InvalidInputError(f"the image has {len(layers)} layers, more than {limits.layers}")
    tree = Tree(limits)
    for layer in layers:
        tree.apply(read_members(layer, limits, need_end=need_end), layer.label)
    return _Emitter(layers, limits).emit(tree)


def write(flattened: Flattened, target: int, *, on_step: Callable[[], None] = lambda: None) -> None:
    """Write the whole stream to a descriptor: a file, or a pipe (which must be blocking).

    ``on_step`` is called every few MiB and may raise to give up.

    Raises:
        BrokenPipeError: the reader went away.
        OSError: the target cannot be written.
    """
    for piece in flattened.pieces:
        on_step()
        if isinstance(piece, bytes):
            view = memoryview(piece)
            while view:
                view = view[os.write(target, view) :]
        elif piece.fd < 0:
            left = piece.size
            while left:
                left -= os.write(target, _ZEROS[: min(left, len(_ZEROS))])
        else:
            offset, end = piece.offset, piece.offset + piece.size
            while offset < end:
                count = os.sendfile(target, piece.fd, offset, min(_STEP, end - offset))
                if count == 0:
                    raise InvalidInputError("a layer's file was cut short while it was read")
                offset += count
                on_step()


def chunks(flattened: Flattened) -> Iterator[bytes]:
    """The whole stream in pieces of at most a few MiB, for those that read it in Python."""
    for piece in flattened.pieces:
        if isinstance(piece, bytes):
            yield piece
            continue
        for offset in range(piece.offset, piece.offset + piece.size, _STEP):
            size = min(_STEP, piece.offset + piece.size - offset)
            yield bytes(size) if piece.fd < 0 else os.pread(piece.fd, size, offset)


class _Emitter:
    def __init__(self, layers: Sequence[Source], limits: Limits) -> None:
        self._layers = layers
        self._limits = limits
        self._pieces: list[Range | bytes] = []
        self._fresh = bytearray()  # headers not yet a piece
        self._open: tuple[int, int, int] | None = None  # fd, begin and end of a range not yet a piece
        self._size = 0
        self._files = 0

    def emit(self, tree: Tree) -> Flattened:
        self._directory(tree.root, b"")
        self._write(tarwriter.END)
        self._close_range()
        self._close_fresh()
        return Flattened(self._pieces, self._size, self._files)

    def _directory(self, directory: Directory, path: bytes) -> None:
        member = directory.member
        if member is None:
            newest = max((c.member.mtime for c in directory.children.values() if c.member), default=0)
            self._member(tarwriter.directory(newest), directory.source, path)
        else:
            self._member(member, directory.source, path)
        prefix = path + b"/" if path else b""
        for name, child in directory.children.items():
            if isinstance(child, Directory):
                self._directory(child, prefix + name)
            elif child.path is None:
                child.path = prefix + name
                self._member(child.member, child.source, child.path)
            else:
                self._hard_link(child, prefix + name)

    def _hard_link(self, file: File, path: bytes) -> None:
        assert file.path is not None
        self._files += 1
        self._check(path, file.source)
        self._write(tarwriter.hard_link(path, file.path))

    def _member(self, member: Member, source: int, path: bytes) -> None:
        self._files += 1
        self._check(path, source)
        layer = self._layers[source]
        verbatim = member.verbatim and _same_name(member, path)
        begin = member.start
        if not verbatim:
            self._write(tarwriter.header(member, path or b"."))
            begin = member.data
        if member.sparse is not None:
            self._sparse(layer, member, member.sparse)
        elif verbatim or member.size:
            # A layer's last member may lack its padding.
            self._copy(layer.fd, begin, min(member.end, layer.offset + layer.size))
            self._zeros(max(0, member.end - layer.offset - layer.size))

    def _sparse(self, layer: Source, member: Member, pieces: list[tuple[int, int]]) -> None:
        position, stored = 0, member.data
        for offset, length in pieces:
            self._zeros(offset - position)
            self._copy(layer.fd, stored, stored + length)
            stored += length
            position = offset + length
        self._zeros(padded(member.size) - position)

    def _check(self, path: bytes, source: int) -> None:
        if len(path) > PATH_MAX:
            raise refuse(self._layers[source].label, path, "its path is too long or too deep")
        if self._size > self._limits.total_bytes + self._limits.entries * 4 * BLOCK:
            raise InvalidInputError(f"the image's tree is larger than {self._limits.total_bytes} bytes")

    def _write(self, data: bytes) -> None:
        self._close_range()
        self._fresh += data
        self._size += len(data)

    def _copy(self, fd: int, begin: int, end: int) -> None:
        if begin >= end:
            return
        self._size += end - begin
        if self._open is not None and self._open[0] == fd and self._open[2] == begin:
            self._open = (fd, self._open[1], end)
            return
        self._close_range()
        self._close_fresh()
        self._open = (fd, begin, end)

    def _zeros(self, size: int) -> None:
        if size <= 0:
            return
        if size <= BLOCK:
            self._write(bytes(size))
            return
        self._close_range()
        self._close_fresh()
        self._pieces.append(Range(-1, 0, size))
        self._size += size

    def _close_range(self) -> None:
        if self._open is not None:
            fd, begin, end = self._open
            self._pieces.append(Range(fd, begin, end - begin))
            self._open = None

    def _close_fresh(self) -> None:
        if self._fresh:
            self._pieces.append(bytes(self._fresh))
            self._fresh.clear()


def _same_name(member: Member, path: bytes) -> bool:
    """Whether the header's own name is ``path``, in one of the spellings that every reader takes alike."""
    name = member.name
    if member.kind == tar.DIRECTORY and name.endswith(b"/"):
        name = name[:-1]
    if not path:
        return name == b"."
    return name == path or (name.startswith(b"./") and name[2:] == path)
