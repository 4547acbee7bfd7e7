"""How much work a zone may cause by what it sends: a bucket of tokens, which fills at a rate and holds a burst.

Who is over it is not refused, only read later: its ring fills up, and it waits. Nothing of it is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Allowance:
    """Of one zone, for one kind of thing."""

    def __init__(self, rate: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        """``rate`` a second, ``burst`` at once; ``now`` in seconds."""
        self.held_seconds = 0.0
        """For how long it was held back so far."""
        self._rate = rate
        self._burst = burst
        self._now = now
        self._left = burst
        self._then = now()

    def spend(self, count: float) -> float:
        """Takes so many out, there or not; gives the seconds for which nothing more is to be read."""
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate) - count
        self._then = now
        return max(0.0, -self._left / self._rate)

    async def charge(self, count: float) -> None:
        """The same, and waits for so long; in any case others have their turn first."""
        seconds = self.spend(count)
        self.held_seconds += seconds
        await asyncio.sleep(seconds)
