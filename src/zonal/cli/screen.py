"""A screen that is drawn again and again: the terminal's alternate one, with keys, and put back however it ends.

Escape sequences: ECMA-48, and xterm's control sequences (DECSET 1049, 25).
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import NoReturn

from zonal.cli.terminal import raw_mode

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
BOLD, REVERSE, PLAIN = "\x1b[1m", "\x1b[7m", "\x1b[m"

INTERRUPT = "\x03"
UP, DOWN, PAGE_UP, PAGE_DOWN = "up", "down", "page up", "page down"
_NAMED = {b"\x1b[A": UP, b"\x1bOA": UP, b"\x1b[B": DOWN, b"\x1bOB": DOWN, b"\x1b[5~": PAGE_UP, b"\x1b[6~": PAGE_DOWN}
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class Screen:
    """Draws lines, and waits for keys; made by ``open_screen``."""

    def __init__(self, keyboard: int, output: int, resized: int) -> None:
        self._keyboard = keyboard
        self._output = output
        self._resized = resized

    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        try:
            size = os.get_terminal_size(self._output)
        except OSError:
            return 24, 80
        return max(2, size.lines), max(20, size.columns)

    def draw(self, lines: list[str]) -> None:
        """Shows lines, which are no wider than the screen but for sequences of ours, instead of what was there."""
        rows, _ = self.size()
        text = "\r\n".join(f"{line}{_CLEAR_LINE}" for line in lines[:rows])
        _write(self._output, f"{_HOME}{text}{_CLEAR_BELOW}")

    def wait(self, seconds: float) -> list[str] | None:
        """The keys that are pressed within that time; ``None`` when the size has changed, or there is no keyboard."""
        deadline = time.monotonic() + seconds
        ready, _, _ = select.select([self._keyboard, self._resized], [], [], max(0.0, deadline - time.monotonic()))
        if self._resized in ready:
            os.read(self._resized, 4096)
            return None
        if self._keyboard not in ready:
            return []
        data = os.read(self._keyboard, 4096)
        if not data:
            raise EOFError("the terminal is gone")
        return parse_keys(data)


def parse_keys(data: bytes) -> list[str]:
    """What was typed: characters, and names of keys that send more than one."""
    keys: list[str] = []
    while data:
        named = next((sequence for sequence in _NAMED if data.startswith(sequence)), None)
        if named is not None:
            keys.append(_NAMED[named])
            data = data[len(named) :]
            continue
        if data.startswith((b"\x1b[", b"\x1bO")):
            end = next((at for at in range(2, len(data)) if 0x40 <= data[at] <= 0x7E), len(data) - 1)
            data = data[end + 1 :]  # a key that nobody asked for
            continue
        keys.append(chr(data[0]))
        data = data[1:]
    return keys


@contextmanager
def open_screen(keyboard: int = 0, output: int = 1) -> Generator[Screen]:
    """Takes the terminal within the block, and gives it back as it was: after errors and signals too."""
    with ExitStack() as stack:
        # Signals first: one that comes while the terminal is changed must find its way back.
        for number in _ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, _end))
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stack.callback(os.close, read)
        stack.callback(os.close, write)

        def resized(_number: int, _frame: FrameType | None) -> None:
            with suppress(BlockingIOError):
                os.write(write, b"w")

        stack.callback(signal.signal, signal.SIGWINCH, signal.signal(signal.SIGWINCH, resized))
        stack.enter_context(raw_mode(keyboard))
        stack.callback(_leave, output)
        _write(output, _ENTER)
        yield Screen(keyboard, output, read)


class _Ended(SystemExit):
    """By a signal."""


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)  # a second one must not come in between while the terminal is put back
    raise _Ended(128 + number)


def _leave(output: int) -> None:
    with suppress(OSError):  # the terminal itself may be gone
        _write(output, _LEAVE)


def _write(descriptor: int, text: str) -> None:
    rest = text.encode("utf-8", "replace")
    while rest:
        rest = rest[os.write(descriptor, rest) :]
