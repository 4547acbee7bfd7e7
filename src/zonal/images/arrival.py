"""A blob that is on its way into a file, for who wants to read it meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final, TypeVar

_T = TypeVar("_T")

_LOOK_SECONDS: Final = 0.5
"""How often who waits looks whether he is still wanted."""


class Arrival:
    """How far a blob has come. One thread writes, one reads; it belongs to the event loop that it is made in."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.verified: asyncio.Future[None] = loop.create_future()
        """Done when all of it is there and has the digest that it should have."""
        self.stored: asyncio.Future[None] = loop.create_future()
        """Done when the store has it, for good."""
        self._condition = threading.Condition()
        self._there = 0
        self._wanted = 0
        self._ended = False

    def add(self, count: int) -> None:
        """So many bytes more are in the file."""
        with self._condition:
            self._there += count
            if self._there >= self._wanted:
                self._condition.notify_all()

    def end(self) -> None:
        """No more will come."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def wait(self, size: int, on_step: Callable[[], None]) -> None:
        """Until ``size`` bytes are there, or all that will come. ``on_step`` is called now and then, and may raise."""
        with self._condition:
            self._wanted = size
            while self._there < size and not self._ended:
                self._condition.wait(_LOOK_SECONDS)
                on_step()

    def fail(self, error: BaseException) -> None:
        """Nothing will come of it."""
        for future in (self.verified, self.stored):
            fail(future, error)
        self.end()


def settle(future: asyncio.Future[_T], result: _T) -> None:
    """End a future, unless who waited for it was cancelled, and it was with him."""
    if not future.done():
        future.set_result(result)


def fail(future: asyncio.Future[_T], error: BaseException) -> None:
    """The same with an error, which nobody has to take note of."""
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    elif not future.done():
        future.set_exception(error)
        future.exception()
