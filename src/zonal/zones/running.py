"""A started zone, as the one client holds it that started it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from zonal.errors import ZonalError
from zonal.zones.live_zone import LiveZone
from zonal.zones.session_streams import InputWriter, StreamBrokenError
from zonal.zones.spec import ExitResult, OutputChunk, TerminalSize, ZoneRecord
from zonal.zones.state import ZoneStore


class AttachedZone:
    """Fulfils ``zonal.zones.spec.RunningZone``."""

    def __init__(self, zone: LiveZone, records: ZoneStore) -> None:
        self._zone = zone
        self._record = records.get(zone.spec.id)
        self.stdin = Stdin(zone.stdin)

    @property
    def record(self) -> ZoneRecord:
        """As of the start."""
        return self._record

    async def output(self) -> AsyncIterator[OutputChunk]:
        """See ``RunningZone``."""
        if self._zone.audience is not None:
            async for chunk in self._zone.audience.chunks():
                yield chunk

    async def resize(self, size: TerminalSize) -> None:
        """See ``RunningZone``."""
        if not self._zone.ended.done():
            with suppress(ZonalError):
                await self._zone.resize(size)

    async def signal(self, number: int) -> None:
        """See ``RunningZone``."""
        if not self._zone.ended.done():
            with suppress(ZonalError):
                await self._zone.signal(number)

    async def wait(self) -> ExitResult:
        """See ``RunningZone``."""
        return await asyncio.shield(self._zone.ended)

    async def detach(self) -> None:
        """See ``RunningZone``."""
        if self._zone.audience is not None:
            self._zone.audience.leave()


class Stdin:
    """Fulfils ``zonal.zones.spec.StdinWriter``; without a stream everything is dropped."""

    def __init__(self, stream: InputWriter | None) -> None:
        self._stream = stream

    async def write(self, data: bytes) -> None:
        """See ``StdinWriter``."""
        if self._stream is not None:
            try:
                await self._stream.write(data)
            except StreamBrokenError:
                self._stream = None

    async def close(self) -> None:
        """See ``StdinWriter``."""
        if self._stream is not None:
            self._stream.end()
            self._stream = None
