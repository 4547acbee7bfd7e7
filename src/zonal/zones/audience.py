"""Who listens to a workload's output as it comes: one client at the most, behind a bounded buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from zonal.zones.spec import OutputChunk

MAX_BUFFERED = 1 << 20
"""Bytes; a listener that falls so far behind holds the workload back."""


class Audience:
    """A buffer between the one who brings output and the one who takes it."""

    def __init__(self) -> None:
        self._chunks: deque[OutputChunk] = deque()
        self._size = 0
        self._gone = False
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether the listener holds the workload back."""
        return self._size > MAX_BUFFERED and not self._gone

    async def put(self, chunk: OutputChunk) -> None:
        """Returns when there is room for more, or nobody listens any more."""
        if self._gone:
            return
        self._chunks.append(chunk)
        self._size += len(chunk[1])
        self._notify()
        while self.full:
            await self._changed.wait()

    def end(self) -> None:
        """No more output will come."""
        self._ended = True
        self._notify()

    def leave(self) -> None:
        """Nobody listens any more: what is buffered and what comes is dropped."""
        self._gone = True
        self._chunks.clear()
        self._size = 0
        self._notify()

    async def chunks(self) -> AsyncIterator[OutputChunk]:
        """Everything that is put, until the end."""
        while True:
            while self._chunks:
                chunk = self._chunks.popleft()
                self._size -= len(chunk[1])
                self._notify()
                yield chunk
            if self._ended or self._gone:
                return
            await self._changed.wait()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
