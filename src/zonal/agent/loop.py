"""The agent's only loop: file descriptors by epoll, timers, one thread. (asyncio takes a second to import here.)"""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
URGENT = select.EPOLLPRI
_MOST_EVENTS = 64


class Loop:
    """Calls handlers when descriptors are ready or timers are due; exceptions leave ``run``."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._watched: dict[int, int] = {}
        self._timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self._soon: list[Callable[[], None]] = []
        self._next_timer = 0
        self._running = False

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Calls ``handler(events)`` while any of ``events``, an error or a hang-up is there; replaces an earlier watch.

        With no events, errors and hang-ups would still be told for ever: such a descriptor is unwatched instead.
        """
        if not events:
            self.unwatch(fd)
        elif fd in self._handlers:
            self._handlers[fd] = handler
            if self._watched[fd] != events:  # most often it is the same, and a system call is dear
                self._epoll.modify(fd, events)
                self._watched[fd] = events
        else:
            self._epoll.register(fd, events)
            self._handlers[fd] = handler
            self._watched[fd] = events

    def unwatch(self, fd: int) -> None:
        """Ends the watch of ``fd``, if there is one; to be called before it is closed."""
        if self._handlers.pop(fd, None):
            del self._watched[fd]
            self._epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], None]) -> int:
        """Calls ``callback`` once, later; the number is for ``cancel``."""
        self._next_timer += 1
        self._timers[self._next_timer] = (time.monotonic() + seconds, callback)
        return self._next_timer

    def cancel(self, timer: int) -> None:
        """Forgets a timer, due or not."""
        self._timers.pop(timer, None)

    def soon(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` once, after the handlers that are ready now."""
        self._soon.append(callback)

    def stop(self) -> None:
        """Lets ``run`` return after the handler that is running."""
        self._running = False

    def run(self) -> None:
        """Until ``stop``."""
        self._running = True
        while self._running:
            self.step()

    def step(self) -> None:
        """Waits for what comes next, and handles it."""
        # A handler may unwatch a descriptor that is ready in the same round, and another may even get its number:
        # the second is harmless, since every descriptor is non-blocking.
        for fd, events in self._epoll.poll(self._timeout(), _MOST_EVENTS):
            handler = self._handlers.get(fd)
            if handler:
                handler(events)
        now = time.monotonic()
        for timer, (due, callback) in list(self._timers.items()):
            if due <= now and self._timers.pop(timer, None):
                callback()
        soon, self._soon = self._soon, []
        for callback in soon:
            callback()

    def _timeout(self) -> float | None:
        if self._soon:
            return 0
        if not self._timers:
            return None
        return max(0.0, min(due for due, _ in self._timers.values()) - time.monotonic())
