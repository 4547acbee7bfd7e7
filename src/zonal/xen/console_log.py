"""The file that keeps a zone's console: its beginning and its end, whatever the zone writes in between.

The beginning says how the zone booted, the end how it died. What falls out between them is replaced by one line that
says how much it was. Bytes are kept as they came, escape sequences too; :func:`quote_console` makes them fit to print.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncGenerator
from pathlib import Path

KEEP_FIRST = 64 << 10
"""Bytes from the start that are always kept."""
KEEP_LAST = 512 << 10
"""Bytes at the end that are always kept; the file grows to the first plus twice this before it is cut."""

_MARKER = b"\n[zonal: %020d bytes are left out here]\n"
_MARKER_PATTERN = re.compile(rb"\n\[zonal: (\d{20}) bytes are left out here\]\n")
_MARKER_SIZE = len(_MARKER % 0)
_CHUNK = 65536
_PANIC = b"Kernel panic - not syncing: "
"""kernel/panic.c."""


class ConsoleLog:
    """A bounded log in one file. Positions count the bytes that were ever appended, so they stay true when it is cut.

    Opening a file that exists goes on where it ends.
    """

    def __init__(self, path: Path, *, keep_first: int = KEEP_FIRST, keep_last: int = KEEP_LAST) -> None:
        self.path = path
        self._keep_first = keep_first
        self._keep_last = keep_last
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        self._left_out = 0
        self._unwritten = 0
        self._followers: set[asyncio.Event] = set()
        self._closed = False
        marker = _MARKER_PATTERN.fullmatch(os.pread(self._descriptor, _MARKER_SIZE, keep_first))
        if marker:
            self._left_out = int(marker[1])

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self._size + (self._left_out - _MARKER_SIZE if self._left_out else 0)

    def append(self, data: bytes) -> None:
        """Adds to the end. While the disk is full what comes is left out, and counted; other errors are raised."""
        try:
            if self._unwritten:
                self._write(b"\n[zonal: %d bytes were lost here, the disk was full]\n" % self._unwritten)
                self._unwritten = 0
            self._write(data)
            if self._size - self._keep_first - _MARKER_SIZE > 2 * self._keep_last:
                self._cut()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._unwritten += len(data)
        for follower in self._followers:
            follower.set()

    def read(self, position: int, limit: int = _CHUNK) -> tuple[int, bytes]:
        """At most ``limit`` bytes from ``position``, and the position after them; none at the end.

        Where something was left out, the line that says so comes in its place.
        """
        if not self._left_out:
            data = os.pread(self._descriptor, limit, position)
        elif position < self._keep_first:
            data = os.pread(self._descriptor, min(limit, self._keep_first - position), position)
        elif position < self._keep_first + self._left_out:
            return self._keep_first + self._left_out, _MARKER % self._left_out
        else:
            data = os.pread(self._descriptor, limit, position - self._left_out + _MARKER_SIZE)
        return position + len(data), data

    def tail(self, limit: int = 4096) -> bytes:
        """The last ``limit`` bytes."""
        data = os.pread(self._descriptor, limit, max(0, self._size - limit))
        return data[-limit:]

    async def follow(self, position: int = 0) -> AsyncGenerator[bytes, None]:
        """All from ``position`` on, then what comes, until the log is closed. One who is slow misses what is cut."""
        changed = asyncio.Event()
        self._followers.add(changed)
        try:
            while not self._closed:
                changed.clear()
                position, data = self.read(position)
                if data:
                    yield data
                else:
                    await changed.wait()
        finally:
            self._followers.discard(changed)

    def close(self) -> None:
        """Closes the file; whoever follows has come to the end then. May be called again."""
        if self._closed:
            return
        self._closed = True
        os.close(self._descriptor)
        for follower in self._followers:
            follower.set()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            written = os.write(self._descriptor, rest)
            self._size += written
            rest = rest[written:]

    def _cut(self) -> None:
        # Into a new file, so that one who is killed here leaves a log that is whole.
        first = os.pread(self._descriptor, self._keep_first, 0)
        last = os.pread(self._descriptor, self._keep_last, self._size - self._keep_last)
        left_out = self.end - len(first) - len(last)
        new = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            contents = first + _MARKER % left_out + last
            if os.write(descriptor, contents) != len(contents):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            new.replace(self.path)
        except BaseException:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._size = len(contents)
        self._left_out = left_out


def quote_console(data: bytes, *, lines: int = 15, width: int = 200) -> str:
    """The last lines of console output as text for a message: nothing in it can move a cursor or colour a terminal."""
    text = data.decode("utf-8", "backslashreplace").replace("\r\n", "\n").replace("\r", "\n")
    quoted: list[str] = []
    for line in text.rstrip("\n").split("\n")[-lines:]:
        printable = "".join(character if character.isprintable() else _escape(character) for character in line)
        quoted.append(printable[: width - 1] + "…" if len(printable) > width else printable)
    return "\n".join(quoted)


def find_panic(data: bytes) -> str:
    """The last line in which a kernel says why it panics, fit to print; empty when there is none.

    What follows it on the console, registers and a trace, is often longer than the end that is shown of it.
    """
    lines = [line for line in data.split(b"\n") if _PANIC in line]
    return quote_console(_PANIC + lines[-1].partition(_PANIC)[2]) if lines else ""


def _escape(character: str) -> str:
    return " " if character == "\t" else repr(character)[1:-1]
