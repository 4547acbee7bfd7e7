"""Writes what is decompressed and makes its digest, beside the thread that decompresses."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, Self

_BATCH: Final = 1 << 20
"""Bytes that go to the other thread at once: to tell it costs more than to digest a few."""
_BATCHES: Final = 3
"""One is filled, one worked on, and one between."""


class Output:
    """Takes pieces for the descriptor ``target``, from where it is on. A context manager too, which ends the thread."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self._free = [memoryview(bytearray(_BATCH)) for _ in range(_BATCHES)]
        self._filled = 0
        self._under_way: deque[tuple[Future[None], memoryview]] = deque()
        self._stack = ExitStack()
        self._thread = self._stack.enter_context(ThreadPoolExecutor(1, "output"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, piece: bytes) -> None:
        """Take a copy of a piece. Raises ``OSError`` when an earlier one could not be written."""
        view = memoryview(piece)
        while view:
            if not self._free:
                self._wait()
            count = min(len(view), _BATCH - self._filled)
            self._free[-1][self._filled : self._filled + count] = view[:count]
            self._filled += count
            view = view[count:]
            if self._filled == _BATCH:
                self._hand_over()

    def finish(self) -> str:
        """``sha256:…`` of all pieces, which have been written then. Raises ``OSError``."""
        if self._filled:
            self._hand_over()
        while self._under_way:
            self._wait()
        return f"sha256:{self._digest.hexdigest()}"

    def _hand_over(self) -> None:
        batch = self._free.pop()
        self._under_way.append((self._thread.submit(self._do, batch[: self._filled]), batch))
        self._filled = 0

    def _wait(self) -> None:
        done, batch = self._under_way.popleft()
        done.result()
        self._free.append(batch)

    def _do(self, batch: memoryview) -> None:
        self._digest.update(batch)
        while batch:
            batch = batch[os.write(self._target, batch) :]
