"""The user's terminal: raw mode that is always undone, and its size."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager, suppress

import click

from zonal.errors import InvalidInputError

DETACH_KEYS = b"\x10\x11"
"""Ctrl-P, Ctrl-Q, as docker has them."""

detach_keys_option = click.option(
    "--detach-keys",
    default="ctrl-p,ctrl-q",
    metavar="KEYS",
    help="What is typed to leave it running; ctrl-p,ctrl-q by default.",
)


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

    def __init__(self, keys: bytes = DETACH_KEYS) -> None:
        """No ``keys`` are never found."""
        self._keys = keys
        self._held: bytes = b""
        self.detached = False

    def filter(self, data: bytes) -> bytes:
        """What is to be passed on; sets ``detached`` once the keys were typed, and gives out nothing after them."""
        if self.detached:
            return b""
        data = self._held + data
        self._held = b""
        if not self._keys:
            return data
        found = data.find(self._keys)
        if found >= 0:
            self.detached = True
            return data[:found]
        # What may be their beginning waits for what is typed next.
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length]
        return data


def parse_detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` as what a terminal sends; empty for none. Raises ``InvalidInputError``."""
    keys = b""
    for name in text.split(",") if text else []:
        control = re.fullmatch(r"ctrl-([a-zA-Z@\[\\\]^_])", name)
        if control:
            keys += bytes((ord(control[1].upper()) & 0x1F,))
        elif len(name) == 1 and name.isascii() and name.isprintable():
            keys += name.encode()
        else:
            raise InvalidInputError(
                f"{name!r} in --detach-keys {text!r} is no key",
                hint="a character, or ctrl- with a letter or one of @ [ \\ ] ^ _, such as ctrl-p,ctrl-q",
            )
    return keys
