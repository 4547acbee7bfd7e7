"""A zone's console: the ring in which its kernel writes what it has to say, taken down by the host.

Layout: ``io/console.h``, ``struct xencons_interface``. The page is the zone's own memory: its counters are checked at
every look, and what is read is bytes to be kept, never to be believed.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from zonal.errors import WrongStateError
from zonal.xen.console_log import ConsoleLog
from zonal.xen.events import EventChannel, EventChannelClosedError
from zonal.xen.ring import RingReader, RingWriter

INPUT_SIZE = 1024
OUTPUT_OFFSET = 1024
OUTPUT_SIZE = 2048
COUNTERS_OFFSET = 3072
IN_CONS, IN_PROD, OUT_CONS, OUT_PROD = range(4)

_RATE = 512 << 10
_BURST = 1 << 20
"""Bytes a second, and at once, that a zone may write; it then waits, as it would for a slow serial line."""


class ConsoleClosedError(WrongStateError):
    """The zone, or its console, is no longer there."""


class Console:
    """The host's end of a zone's console. A context manager.

    :param page: the mapped page, of 4096 bytes; it must stay mapped until :meth:`close`
    :param event: the host's end of the console's event channel; closed by its owner, after this
    :param log: gets all output
    :param name: what errors call the zone

    Raises :class:`RingCorruptError` if the counters are impossible from the start.
    """

    def __init__(self, page: memoryview, event: EventChannel, log: ConsoleLog, *, name: str) -> None:
        self.log = log
        self._event = event
        self._closed = False
        self._sending = asyncio.Lock()
        with ExitStack() as stack:
            counters = page[COUNTERS_OFFSET : COUNTERS_OFFSET + 16].cast("I")
            stack.callback(counters.release)
            output = page[OUTPUT_OFFSET : OUTPUT_OFFSET + OUTPUT_SIZE]
            stack.callback(output.release)
            typed = page[:INPUT_SIZE]
            stack.callback(typed.release)
            self._output = RingReader(
                output, counters, prod=OUT_PROD, cons=OUT_CONS, name=f"of the console of {name}, output"
            )
            self._input = RingWriter(
                typed, counters, prod=IN_PROD, cons=IN_CONS, name=f"of the console of {name}, input"
            )
            self._views = stack.pop_all()

    async def run(self) -> None:
        """Takes the output down until the console is closed; raises :class:`RingCorruptError`."""
        loop = asyncio.get_running_loop()
        allowance, then = float(_BURST), loop.time()
        while not self._closed:
            seen = self._event.count
            count = self.drain()
            if not count:
                try:
                    await self._event.wait(seen)
                except EventChannelClosedError:
                    return
                continue
            now = loop.time()
            allowance, then = min(_BURST, allowance + (now - then) * _RATE) - count, now
            # A turn for others in any case, since a zone can write as fast as it is read.
            await asyncio.sleep(max(0.0, -allowance / _RATE))

    def drain(self) -> int:
        """Takes down what is in the ring, at most 2048 bytes, and returns how many; raises :class:`RingCorruptError`.

        For the last words of a zone that has died, call it before the page is unmapped.
        """
        data = self._output.read(OUTPUT_SIZE)
        if len(data) >= OUTPUT_SIZE // 2:
            # Only a zone that found the ring full waits for room. The bytes that fill a ring are read in one look or
            # in two, and one of the two finds half a ring or more; below that the zone is spared the interrupt.
            self._event.notify()
        if data:
            self.log.append(data)
        return len(data)

    async def send(self, data: bytes) -> None:
        """Types ``data``, waiting for room; raises :class:`ConsoleClosedError` and :class:`RingCorruptError`."""
        rest = memoryview(data)
        async with self._sending:
            while rest:
                if self._closed:
                    raise ConsoleClosedError("the console is closed")
                seen = self._event.count
                written = self._input.write(rest)
                rest = rest[written:]
                if written:
                    self._event.notify()
                else:
                    try:
                        await self._event.wait(seen)
                    except EventChannelClosedError:
                        raise ConsoleClosedError("the console is closed") from None

    def close(self) -> None:
        """Lets go of the page and ends every wait; the log stays open. May be called again."""
        if not self._closed:
            self._closed = True
            self._views.close()
            self._event.wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
