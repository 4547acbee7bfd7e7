"""The life of a client's connection: read, pinged, worked with, and parted from in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from zonal.cri.streaming.link import Link, Timeouts

log = logging.getLogger(__name__)


class Attended(Protocol):
    """A connection that is read in one task, while others work with it."""

    active: float
    """``time.monotonic()`` of when something was last done, as opposed to pings of ours."""

    @property
    def link(self) -> Link:
        """What it goes over."""
        ...

    async def read_all(self) -> None:
        """Handles what comes until the client has gone. May raise ``ConnectionError``."""
        ...

    async def ping(self) -> None:
        """Makes the client answer. May raise ``ConnectionError``."""
        ...

    async def finish(self) -> None:
        """Tells the client that there is no more to come, and drops what it still sends."""
        ...


async def attend(connection: Attended, work: Coroutine[Any, Any, None], timeouts: Timeouts) -> None:
    """Does ``work`` as long as the client is there, then parts from it.

    ``work`` is cancelled when the client goes; a ``ConnectionError`` of its means that it has.
    """
    parted: float | None = None
    gone = asyncio.Event()

    async def reading() -> None:
        with contextlib.suppress(ConnectionError):
            await connection.read_all()
        gone.set()

    async def working() -> None:
        nonlocal parted
        try:
            await work
            await connection.finish()
            parted = time.monotonic()
        except ConnectionError:
            gone.set()

    async def ticking() -> None:
        while not await _tick(connection, parted, timeouts):
            pass
        gone.set()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each()) for each in (reading, working, ticking)]
            await gone.wait()  # a reader that waits for room sees nothing of a client that went
            for task in tasks:
                task.cancel()
    finally:
        work.close()  # it may not have begun
        connection.link.abort()


async def _tick(connection: Attended, parted: float | None, timeouts: Timeouts) -> bool:
    """Waits until a ping is due; says whether the client has gone or may go."""
    await asyncio.sleep(timeouts.ping)
    now = time.monotonic()
    if now - connection.active > timeouts.idle:
        log.info("a streaming client did nothing for %g s and is hung up on", timeouts.idle)
        return True
    if parted is not None:
        # Not before: a socket that is closed with bytes unread takes back what has not arrived yet.
        return now - parted > timeouts.linger and not connection.link.unsent()
    try:
        async with asyncio.timeout(timeouts.ping):
            await connection.ping()
    except TimeoutError:
        pass  # the client reads nothing: that alone is no reason
    except ConnectionError:
        return True
    return False
