"""The user's terminal: raw mode that is always undone, and its size."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress

DETACH_KEYS = b"\x10\x11"
"""Ctrl-P, Ctrl-Q, as docker has them."""


@contextmanager
def raw_mode(descriptor: int) -> Generator[None]:
    """Passes every key on as it is within the block (termios(3), ``cfmakeraw``)."""
    # Only here, since it is needed by few commands and not there on every system.
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSADRAIN)
    try:
        yield
    finally:
        # The terminal itself may be gone by now.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal at stdout, stderr or stdin; zeros where none of them is one."""
    for descriptor in (1, 2, 0):
        with suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return size.lines, size.columns
    return 0, 0


class DetachKeys:
    """Finds the detach keys in what is typed, however it is cut into pieces."""

    def __init__(self) -> None:
        self._held = b""
        self.detached = False

    def filter(self, data: bytes) -> bytes:
        """What is to be passed on; sets ``detached`` once the keys were typed, and gives out nothing after them."""
        if self.detached:
            return b""
        data = self._held + data
        self._held = b""
        found = data.find(DETACH_KEYS)
        if found >= 0:
            self.detached = True
            return data[:found]
        if data.endswith(DETACH_KEYS[:1]):
            self._held = DETACH_KEYS[:1]
            return data[:-1]
        return data
