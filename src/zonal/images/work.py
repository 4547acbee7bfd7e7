"""Work that would hold up the event loop, in threads that can be told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_T = TypeVar("_T")

_THREADS: Final = ThreadPoolExecutor(64, "images")
"""Apart from the event loop's own, which are few: a slow registry holds up six of these for each pull, and nobody else.

They begin in the order that they are asked for, so who reads what another one fetches does not keep it from beginning.
"""


class StoppedError(Exception):
    """The task that wanted the work was cancelled; nobody waits for the outcome."""


class Stop:
    """What a thread asks now and then whether it is still wanted."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the thread to give up."""
        self._event.set()

    def check(self) -> None:
        """Give up if asked to.

        Raises:
            StoppedError: it was.
        """
        if self._event.is_set():
            raise StoppedError


async def in_thread(function: Callable[[Stop], _T]) -> _T:
    """Run ``function`` in a thread. A caller that is cancelled first waits for its end, to free what it uses."""
    stop = Stop()
    thread = asyncio.get_running_loop().run_in_executor(_THREADS, function, stop)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        stop.set()
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([thread])
        if not thread.cancelled():
            thread.exception()  # Taken note of: the cancellation is what counts.
        raise
