"""Copies content from layers' tars to its places in another file, in large pieces."""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from zonal.errors import InvalidInputError

_BLOCK: Final = 4096
"""What direct I/O wants all places to be multiples of."""
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
    """Bytes of an open file and their place in another."""

    fd: int
    offset: int
    size: int
    target: int
    alone: bool = True
    """Whether nothing else is in the block that it ends in."""


class Copier:
    """Copies ranges of files to their places in ``target``, neighbours together and a few batches at a time.

    A batch is read by one call, each file's bytes to their place in a buffer and what is between them in the tar to
    where nobody looks; and it is written by another, past the page cache where the file system can, which is then
    spared a second copy, and is not filled with what zones may never read. Also a context manager, which waits for
    what is under way.
    """

    def __init__(self, target: Path, fd: int) -> None:
        """``fd`` is ``target``, open for reading and writing."""
        self._fd = fd
        self._on_step: Callable[[], None] = lambda: None
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

    def copy(self, copies: Iterable[Copy], on_step: Callable[[], None] = lambda: None) -> None:
        """Copy ranges, given by ascending targets; what lies between them in their blocks becomes zeros.

        ``on_step`` is called every few MiB and may raise to give up, after which no more may be copied.

        Raises:
            InvalidInputError: a file is shorter than it was.
        """
        self._on_step = on_step
        for copy in copies:
            offset = 0
            while copy.size - offset > _BATCH:
                self._flush()
                self._add(Copy(copy.fd, copy.offset + offset, _BATCH, copy.target + offset))
                offset += _BATCH
            self._add(Copy(copy.fd, copy.offset + offset, copy.size - offset, copy.target + offset, copy.alone))
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
                or copy.target - last.target - last.size >= _BLOCK
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
        if first.target % _BLOCK:
            # A piece of a sparse file: the block that it begins in may hold the end of another.
            write_all(self._fd, buffer[:done], first.target)
            return
        whole = done // _BLOCK * _BLOCK
        if done > whole and last.alone:
            whole += _BLOCK
            buffer[done:whole] = bytes(whole - done)
        write_all(self._direct, buffer[:whole], first.target)
        write_all(self._fd, buffer[whole:done], first.target + whole)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of it at an offset."""
    while data:
        count = os.pwrite(fd, data, offset)
        data, offset = data[count:], offset + count
