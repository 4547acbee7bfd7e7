"""Whether nobody has waited for anything for a while: then is the time for what can wait."""

from __future__ import annotations

import asyncio


class Calm:
    """Begins as calm. Used within one event loop."""

    def __init__(self, seconds: float) -> None:
        """``seconds``: how long it takes from the last haste to calm."""
        self._seconds = seconds
        self._calm = asyncio.Event()
        self._calm.set()
        self._coming: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """Somebody waits."""
        self._calm.clear()
        self._stop()

    def begin(self) -> None:
        """Nobody waits any more; calm comes later, unless it is there."""
        if not self._calm.is_set():
            self._stop()
            self._coming = asyncio.get_running_loop().call_later(self._seconds, self._calm.set)

    async def wait(self) -> None:
        """Returns when there is calm."""
        await self._calm.wait()

    def _stop(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            self._coming = None
