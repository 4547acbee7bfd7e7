"""A workload's output as the host keeps it: both streams in the order in which they came, with times, bounded on disk.

A zone has the file ``output.log`` and older ones, ``output.log.1`` the youngest of them. Each begins with how many
bytes of each stream came before it; a record is one chunk. Because the log says how far each stream was kept, a daemon
that takes a zone over knows where to go on: no byte is lost or doubled. A zone that is started again goes on in the
same files, behind a record that says so.
"""

from __future__ import annotations

import asyncio
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, Self, cast

from zonal.errors import InvalidInputError
from zonal.zones.spec import LogLimits

MAX_RECORD = 1 << 20
NAME = "output.log"

_MAGIC = b"ZONALOUT"
_HEADER = struct.Struct("<8sQQ")  # magic, bytes of stdout and of stderr before this file, since the zone's start
_RECORD = struct.Struct("<BxxxIQ")  # stream, length of the data, wall clock in ns since the epoch
_STREAMS: tuple[Literal[1], Literal[2]] = (1, 2)
_START = 0
"""In place of a stream: here the zone was started again."""


@dataclass(frozen=True)
class LogRecord:
    """One chunk of output and when it came; without data it says that the zone was started again."""

    time_ns: int
    """Wall clock, ns since the epoch."""
    stream: Literal[1, 2]
    data: bytes


@dataclass(frozen=True)
class LogPosition:
    """A place in a log: a file, a record of it, and the bytes of that to leave out."""

    inode: int
    offset: int
    skip: int


class OutputLog:
    """The log of one zone, open for appending."""

    def __init__(self, folder: Path, limits: LogLimits = LogLimits()) -> None:  # noqa: B008  (it is frozen)
        self._path = folder / NAME
        self._limits = limits
        self.offsets: dict[int, int] = {1: 0, 2: 0}
        """Bytes of each stream that the log has seen since the zone's start, those that were dropped since included."""
        self.changed = asyncio.Event()
        """Set, and replaced by another, whenever there is more, or the log is closed."""
        self.closed = False
        self._file = self._open()

    def append(self, stream: Literal[1, 2], data: bytes) -> None:
        """Keeps a chunk; it survives a kill of this process from here on."""
        most = min(MAX_RECORD, max(1, self._limits.max_size - _HEADER.size - _RECORD.size))
        for begin in range(0, len(data), most):
            part = data[begin : begin + most]
            self._write(stream, part)
            self.offsets[stream] += len(part)
        self._notify()

    def begin_again(self) -> None:
        """The zone is started anew: its streams count from 0 again."""
        if self._size > _HEADER.size or any(self.offsets.values()):
            self._write(_START, b"\n")
            self.offsets = {1: 0, 2: 0}

    def close(self) -> None:
        """Nothing comes any more; followers end."""
        if not self.closed:
            self.closed = True
            self._file.close()
            self._notify()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def _write(self, stream: int, part: bytes) -> None:
        if self._size + _RECORD.size + len(part) > self._limits.max_size and self._size > _HEADER.size:
            self._rotate()
        record = memoryview(_RECORD.pack(stream, len(part), time.time_ns()) + part)
        written = 0
        try:
            while written < len(record):
                written += self._file.write(record[written:])
        except OSError:
            # The disk is full, say: what comes later must not stand behind half a record.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(record)

    def _open(self) -> BinaryIO:
        """Opens the newest file; a record that a kill has cut short is cut off."""
        if not self._path.exists():
            # A kill between the two steps of a rotation leaves the older files alone.
            self.offsets = _end_offsets(self._older(1)) if self._older(1).exists() else self.offsets
            return self._start_file()
        self.offsets, end = _end(self._path)
        opened = self._path.open("r+b", buffering=0)
        opened.truncate(end)
        opened.seek(end)
        self._size = end
        return cast("BinaryIO", opened)

    def _start_file(self) -> BinaryIO:
        # Under another name first: a file in its place has its header, whatever happens.
        new = self._path.with_name(f"{NAME}.new")
        opened = new.open("wb", buffering=0)
        opened.write(_HEADER.pack(_MAGIC, self.offsets[1], self.offsets[2]))
        new.replace(self._path)
        self._size = _HEADER.size
        return cast("BinaryIO", opened)

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._limits.max_files - 1, 0, -1):
            path = self._older(number - 1) if number > 1 else self._path
            if path.exists():
                path.replace(self._older(number))
        self._file = self._start_file()

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{NAME}.{number}")


class LogReader:
    """Reads a log, also while it is written, across rotations: the file that it stands in stays open.

    One so slow that the file after that was dropped meanwhile goes on with the oldest that is there.
    """

    def __init__(self, folder: Path, position: LogPosition | None = None) -> None:
        """``position``: where to begin, if that file is there still; else at the beginning."""
        self._folder = folder
        self._skip = 0
        files = _files(folder)
        self._file = files[0].open("rb") if files else None
        if self._file is not None:
            _check_magic(self._file, files[0])
        if position is not None:
            for path in files:
                if path.stat().st_ino == position.inode:
                    self.close()
                    self._file = path.open("rb")
                    self._file.seek(position.offset)
                    self._skip = position.skip

    def records(self) -> Iterator[LogRecord]:
        """All that was written since the last time."""
        while self._file is not None:
            for time_ns, stream, data in _records(self._file):
                kept, self._skip = data[self._skip :], 0
                if stream == _START:
                    yield LogRecord(time_ns, 1, b"")
                elif kept:
                    yield LogRecord(time_ns, stream, kept)
            following = self._next()
            if following is None:
                return
            self._file.close()
            self._file = following

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> BinaryIO | None:
        """The file after this one; ``None`` when there is none yet."""
        assert self._file is not None
        files = _files(self._folder)
        here = os.fstat(self._file.fileno()).st_ino
        inodes = [path.stat().st_ino for path in files]
        place = inodes.index(here) + 1 if here in inodes else 0
        if place >= len(files):
            return None
        following = files[place].open("rb")
        _check_magic(following, files[place])
        return following


def find_tail(folder: Path, lines: int) -> LogPosition | None:
    """Where the last ``lines`` lines of both streams together begin, as they came; ``None``: at the beginning.

    A line that has no end yet counts as a line, as for tail(1).
    """
    total, last, end = 0, b"\n", None
    for inode, offset, data in _all(folder):
        total += data.count(b"\n")
        last, end = data, LogPosition(inode, offset, len(data))
    total += 0 if last.endswith(b"\n") else 1
    if not lines:
        return end
    skip = total - lines
    if skip <= 0:
        return None
    for inode, offset, data in _all(folder):
        here = data.count(b"\n")
        if here >= skip:
            at = -1
            for _ in range(skip):
                at = data.index(b"\n", at + 1)
            return LogPosition(inode, offset, at + 1)
        skip -= here
    return end


def read_output(folder: Path) -> Iterator[tuple[Literal[1, 2], bytes]]:
    """All output that is kept in a zone's folder, the oldest first."""
    with LogReader(folder) as reader:
        for record in reader.records():
            if record.data:
                yield record.stream, record.data


def _all(folder: Path) -> Iterator[tuple[int, int, bytes]]:
    """Of each record with output: the file's inode, its offset there, the data."""
    for path in _files(folder):
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # dropped meanwhile
        with file:
            inode = os.fstat(file.fileno()).st_ino
            _check_magic(file, path)
            offset = file.tell()
            for _, stream, data in _records(file):
                if stream != _START:
                    yield inode, offset, data
                offset += _RECORD.size + len(data)


def _files(folder: Path) -> list[Path]:
    """Those that are there, the oldest first."""
    found: list[tuple[int, Path]] = []
    for path in folder.glob(f"{NAME}*"):
        number = path.name.removeprefix(NAME).removeprefix(".") or "0"
        if number.isdecimal():
            found.append((int(number), path))
    return [path for _, path in sorted(found, reverse=True)]


def _end_offsets(path: Path) -> dict[int, int]:
    return _end(path)[0]


def _end(path: Path) -> tuple[dict[int, int], int]:
    """How far a file has kept each stream, and where its last whole record ends."""
    with path.open("rb") as file:
        first, second = _check_magic(file, path)
        offsets = {1: first, 2: second}
        end = file.tell()
        for _, stream, data in _records(file):
            if stream == _START:
                offsets = {1: 0, 2: 0}
            else:
                offsets[stream] += len(data)
            end += _RECORD.size + len(data)
    return offsets, end


def _check_magic(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Reads the header. Raises ``InvalidInputError``."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or header[:8] != _MAGIC:
        raise InvalidInputError(f"{path}: not a log of Zonal's", hint="move it away")
    _, first, second = _HEADER.unpack(header)
    return first, second


def _records(file: BinaryIO) -> Iterator[tuple[int, Literal[0, 1, 2], bytes]]:
    """Whole records from where the file stands; leaves it at the end of the last whole one."""
    while True:
        begin = file.tell()
        header = file.read(_RECORD.size)
        if len(header) == _RECORD.size:
            stream, length, when = _RECORD.unpack(header)
            data = file.read(length) if stream in (_START, *_STREAMS) and length <= MAX_RECORD else b""
            if data and len(data) == length:
                yield when, stream, data
                continue
        file.seek(begin, os.SEEK_SET)
        return
