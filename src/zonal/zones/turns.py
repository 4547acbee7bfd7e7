"""Who may do something at once with others, and who has to wait for a turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Turns:
    """So many at a time, first come, first served. Used within one event loop."""

    def __init__(self, count: int, patience: float) -> None:
        """``patience``: seconds after which a turn goes to the next one, whether its owner is done or not."""
        self._free = asyncio.Semaphore(count)
        self._patience = patience

    @property
    def all_taken(self) -> bool:
        """Whether the next one has to wait."""
        return self._free.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        """Waits for one, which is the block's."""
        await self._free.acquire()
        given_up = asyncio.Event()

        def give_up() -> None:
            if not given_up.is_set():
                given_up.set()
                self._free.release()

        timer = asyncio.get_running_loop().call_later(self._patience, give_up)
        try:
            yield
        finally:
            timer.cancel()
            give_up()
