"""A workload's output as the host keeps it: both streams in the order in which they came, bounded on disk.

One zone has two files at the most, ``output.log`` and the older ``output.log.1``, of ``MAX_FILE`` bytes each. A file
begins with how many bytes of each stream came before it; a record is one chunk. Because the log says how far each
stream was kept, a daemon that takes a zone over knows where to go on: no byte is lost or doubled.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, Self, cast

from zonal.errors import InvalidInputError
from zonal.zones.spec import OutputChunk

MAX_FILE = 32 << 20
"""Bytes in one of the two files; the older is dropped when the newer is full."""
MAX_RECORD = 1 << 20

_MAGIC = b"ZONALOUT"
_HEADER = struct.Struct("<8sQQ")  # magic, bytes of stdout and of stderr before this file
_RECORD = struct.Struct("<BxxxIQ")  # stream, length of the data, wall clock in ns since the epoch
_STREAMS: tuple[Literal[1], Literal[2]] = (1, 2)


class OutputLog:
    """The log of one zone, open for appending."""

    def __init__(self, folder: Path, *, max_file: int = MAX_FILE) -> None:
        self._path = folder / "output.log"
        self._older = folder / "output.log.1"
        self._max_file = max_file
        self.offsets: dict[int, int] = {1: 0, 2: 0}
        """Bytes of each stream that the log has seen, those that were dropped since included."""
        self._changed = asyncio.Event()
        self._file = self._open()
        self._closed = False

    def append(self, stream: Literal[1, 2], data: bytes) -> None:
        """Keeps a chunk; it survives a kill of this process from here on."""
        for begin in range(0, len(data), MAX_RECORD):
            part = data[begin : begin + MAX_RECORD]
            if self._size + _RECORD.size + len(part) > self._max_file and self._size > _HEADER.size:
                self._rotate()
            record = _RECORD.pack(stream, len(part), time.time_ns()) + part
            self._file.write(record)
            self._size += len(record)
            self.offsets[stream] += len(part)
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Nothing comes any more; followers end."""
        if not self._closed:
            self._closed = True
            self._file.close()
            self._changed.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def follow(self, tail: int | None = None) -> AsyncIterator[OutputChunk]:
        """What is kept, or its last ``tail`` lines, and then what comes, until the log is closed.

        A follower so slow that both files were replaced meanwhile goes on with the oldest that is there.
        """
        inode, position = 0, _HEADER.size
        if tail is not None:
            kept = list(read_output(self._path.parent, tail=tail))
            inode, position = self._path.stat().st_ino, self._size
            for chunk in kept:
                yield chunk
        while True:
            changed, closed = self._changed, self._closed
            with self._file_at(inode) as file:
                now = os.fstat(file.fileno()).st_ino
                file.seek(position if now == inode else _HEADER.size)
                for _, stream, data in _records(file):
                    yield stream, data
                inode, position = now, file.tell()
            if self._path.stat().st_ino != inode:
                inode = self._path.stat().st_ino
                position = _HEADER.size
            elif closed:
                return
            elif self._size == position:
                await changed.wait()

    def _file_at(self, inode: int) -> BinaryIO:
        """The file with this inode, or else the oldest."""
        for path in (self._path, self._older):
            if path.exists() and path.stat().st_ino == inode:
                return path.open("rb")
        return (self._older if self._older.exists() else self._path).open("rb")

    def _open(self) -> BinaryIO:
        """Opens the newest file; a record that a kill has cut short is cut off."""
        if not self._path.exists():
            return self._start_file()
        with self._path.open("rb") as file:
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size or header[:8] != _MAGIC:
                raise InvalidInputError(f"{self._path}: not a log of Zonal's", hint="move it away")
            _, self.offsets[1], self.offsets[2] = _HEADER.unpack(header)
            end = _HEADER.size
            for _, stream, data in _records(file):
                self.offsets[stream] += len(data)
                end += _RECORD.size + len(data)
        opened = self._path.open("r+b", buffering=0)
        opened.truncate(end)
        opened.seek(end)
        self._size = end
        return cast("BinaryIO", opened)

    def _start_file(self) -> BinaryIO:
        opened = self._path.open("xb", buffering=0)
        opened.write(_HEADER.pack(_MAGIC, self.offsets[1], self.offsets[2]))
        self._size = _HEADER.size
        return cast("BinaryIO", opened)

    def _rotate(self) -> None:
        self._file.close()
        self._path.replace(self._older)
        self._file = self._start_file()


def read_output(folder: Path, *, tail: int | None = None) -> Iterator[OutputChunk]:
    """The output kept in a zone's folder, oldest first; with ``tail`` only the last so many lines of each stream
    together, as they came.
    """
    chunks = _kept(folder)
    if tail is None:
        yield from chunks
        return
    kept = list(chunks)
    wanted = tail
    result: list[OutputChunk] = []
    # A line that has no end yet counts as a line, as for tail(1).
    at_end = True
    for stream, data in reversed(kept):
        if wanted <= 0:
            break
        body = data[:-1] if at_end and data.endswith(b"\n") else data
        at_end = False
        position = len(body)
        while wanted > 0:
            found = body.rfind(b"\n", 0, position)
            if found < 0:
                position = -1
                break
            wanted -= 1
            position = found
        result.append((stream, data if position < 0 or wanted > 0 else data[position + 1 :]))
    yield from reversed(result)


def _kept(folder: Path) -> Iterator[OutputChunk]:
    for path in (folder / "output.log.1", folder / "output.log"):
        try:
            with path.open("rb") as file:
                if file.read(_HEADER.size)[:8] != _MAGIC:
                    raise InvalidInputError(f"{path}: not a log of Zonal's", hint="move it away")
                for _, stream, data in _records(file):
                    yield stream, data
        except FileNotFoundError:
            continue


def _records(file: BinaryIO) -> Iterator[tuple[int, Literal[1, 2], bytes]]:
    """Whole records from where the file stands; leaves it at the end of the last whole one."""
    while True:
        begin = file.tell()
        header = file.read(_RECORD.size)
        if len(header) == _RECORD.size:
            stream, length, when = _RECORD.unpack(header)
            data = file.read(length) if stream in _STREAMS and length <= MAX_RECORD else b""
            if data and len(data) == length:
                yield when, stream, data
                continue
        file.seek(begin, os.SEEK_SET)
        return
