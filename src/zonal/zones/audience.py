"""Who listens to a workload's output as it comes: clients, each behind a bounded buffer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from zonal.zones.session_streams import MAX_MERGED
from zonal.zones.spec import OutputChunk

MAX_BUFFERED = 1 << 20
"""Bytes; a listener that falls so far behind holds the workload back."""


class Audience:
    """A buffer between the one who brings output and one who takes it."""

    def __init__(self) -> None:
        self._chunks: deque[OutputChunk] = deque()
        self._size = 0
        self._gone = False
        self._ended = False
        self._patient = True
        self._changed = asyncio.Event()

    @property
    def full(self) -> bool:
        """Whether the listener holds the workload back."""
        return self._size > MAX_BUFFERED and not self._gone and self._patient

    async def put(self, chunk: OutputChunk) -> None:
        """Returns when there is room for more, or nobody listens any more."""
        self.add(chunk)
        await self.room()

    def add(self, chunk: OutputChunk) -> None:
        """Buffers a chunk; ``room`` is to be awaited before the next."""
        if not self._gone:
            self._chunks.append(chunk)
            self._size += len(chunk[1])
            self._notify()

    async def room(self) -> None:
        """Returns when there is room for more, or nobody listens any more."""
        while self.full:
            await self._changed.wait()

    def take_all(self) -> None:
        """From now on it holds nobody back: what comes is known to be little."""
        self._patient = False
        self._notify()

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
        """Everything that is put, until the end; what is there already of one stream comes together."""
        while True:
            while self._chunks:
                chunk = self._take()
                self._size -= len(chunk[1])
                self._notify()
                yield chunk
            if self._ended or self._gone:
                return
            await self._changed.wait()

    def _take(self) -> OutputChunk:
        stream, first = self._chunks.popleft()
        pieces, size = [first], len(first)
        while self._chunks and self._chunks[0][0] == stream and size + len(self._chunks[0][1]) <= MAX_MERGED:
            pieces.append(self._chunks.popleft()[1])
            size += len(pieces[-1])
        return stream, b"".join(pieces) if len(pieces) > 1 else first

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Audiences:
    """All that listen to one workload; the slowest of them holds it back."""

    def __init__(self) -> None:
        self._listening: set[Audience] = set()

    @property
    def full(self) -> bool:
        """Whether somebody holds the workload back."""
        return any(audience.full for audience in self._listening)

    @property
    def attended(self) -> bool:
        """Whether anybody listens."""
        return bool(self._listening)

    def join(self) -> Audience:
        """One more, who hears what comes from now on."""
        audience = Audience()
        self._listening.add(audience)
        return audience

    def leave(self, audience: Audience) -> None:
        """One less; one that has left before is fine."""
        audience.leave()
        self._listening.discard(audience)

    async def put(self, chunk: OutputChunk) -> None:
        """Returns when all that listen have room for more."""
        listening = tuple(self._listening)
        for audience in listening:
            audience.add(chunk)
        for audience in listening:
            await audience.room()

    def end(self) -> None:
        """No more output will come."""
        for audience in self._listening:
            audience.end()

    def drop(self) -> None:
        """Sends all away."""
        for audience in tuple(self._listening):
            self.leave(audience)
