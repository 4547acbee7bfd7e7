"""Watches: being told that a node, or anything below it, has changed."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from zonal.xen.store.connection import Connection, Request
from zonal.xen.store.errors import StoreClosedError
from zonal.xen.store.wire import MessageType, encode_path

_DISTINCT_PATHS_MAX = 64


class Watch:
    """An async context manager and iterator over the paths that changed at or below ``path``.

    A watch says *that* something changed, not what it is now: read it. It fires once as soon as it is set, so that
    "read, then wait for changes" loses nothing. Changes of the same path before they are looked at count once. Past
    64 distinct paths they become one change of the watched path itself, so a zone that writes without end costs the
    host no memory.
    """

    def __init__(self, connection: Connection, registry: dict[str, Watch], path: str, token: str) -> None:
        self.path = path
        self._connection = connection
        self._registry = registry
        self._token = token
        self._payload = encode_path(path) + token.encode() + b"\0"
        self._changed: dict[str, None] = {}
        self._wakeup = asyncio.Event()
        self._failure: StoreClosedError | None = None

    async def __aenter__(self) -> Self:
        self._registry[self._token] = self
        try:
            (reply,) = self._connection.send(0, (Request(MessageType.WATCH, self._payload, self.path),))
            await reply
        except BaseException:
            self._drop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._drop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await self.next()

    async def next(self) -> str:
        """The next path that changed; raises :class:`StoreClosedError` when the connection has ended."""
        while not self._changed:
            if self._failure is not None:
                raise self._failure
            self._wakeup.clear()
            await self._wakeup.wait()
        path = next(iter(self._changed))
        del self._changed[path]
        return path

    def notify(self, path: str) -> None:
        """Takes in one event; for the client that owns the watch."""
        if path not in self._changed and len(self._changed) >= _DISTINCT_PATHS_MAX:
            self._changed.clear()
            path = self.path
        self._changed[path] = None
        self._wakeup.set()

    def fail(self, failure: StoreClosedError) -> None:
        """Ends the watch; for the client that owns it."""
        self._failure = failure
        self._wakeup.set()

    def _drop(self) -> None:
        # Not awaited: a caller that is being cancelled must not wait, and events of an unknown token are dropped.
        if self._registry.pop(self._token, None) is not None:
            self._connection.send_and_forget(0, Request(MessageType.UNWATCH, self._payload, self.path))
