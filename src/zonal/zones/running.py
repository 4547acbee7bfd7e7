"""A zone that runs, as one client holds it: the one that started it, or one that attached to it since."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

from zonal.errors import ZonalError
from zonal.zones.audience import Audience
from zonal.zones.session_streams import InputWriter, StreamBrokenError
from zonal.zones.spec import ExitResult, OutputChunk, TerminalSize, ZoneRecord
from zonal.zones.state import ZoneStore

if TYPE_CHECKING:
    from zonal.zones.life import Life


class AttachedZone:
    """Fulfils ``zonal.zones.spec.RunningZone``."""

    def __init__(self, zone: Life, records: ZoneStore, audience: Audience | None, *, stdin: bool = True) -> None:
        self._zone = zone
        self._record = records.get(zone.spec.id)
        self._audience = audience
        # One whose zone was started without a client is for all that come, as docker has it.
        self.stdin = Stdin(zone.workload.stdin if stdin else None, keep_open=zone.spec.terminal or zone.spec.detach)

    @property
    def id(self) -> str:
        """See ``RunningProcess``."""
        return self._record.id

    @property
    def record(self) -> ZoneRecord:
        """As of the start."""
        return self._record

    async def output(self) -> AsyncIterator[OutputChunk]:
        """See ``RunningZone``."""
        if self._audience is not None:
            async for chunk in self._audience.chunks():
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
        if self._audience is not None:
            self._zone.workload.audiences.leave(self._audience)


class Stdin:
    """Fulfils ``zonal.zones.spec.StdinWriter``; without a stream everything is dropped."""

    def __init__(self, stream: InputWriter | None, *, keep_open: bool = False) -> None:
        self._stream = stream
        self._keep_open = keep_open

    async def write(self, data: bytes) -> None:
        """See ``StdinWriter``."""
        if self._stream is not None:
            try:
                await self._stream.write(data)
            except StreamBrokenError:
                self._stream = None

    async def close(self) -> None:
        """See ``StdinWriter``."""
        if self._stream is not None and not self._keep_open:
            self._stream.end()
            self._stream = None
