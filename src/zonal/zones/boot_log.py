"""How a zone came up, told by the zone: its agent's steps, and what its kernel said, on the clock of the phases.

All of it is the zone's own word: bounded, and made fit to be shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

MAX_LINES = 1000
MAX_TEXT = 200
"""Characters of a line."""
MAX_TIME_NS = 86400 * 10**9
"""What was said after the first day tells nothing of the start."""
MAX_STEPS = 16
MAX_STEP_NAME = 40
CLOCK_BEGINS = "kernel's clock begins"
"""The step at which the zone's own clock shows zero."""

# "[    0.123456] text", as printk writes it.
_CONSOLE_LINE = re.compile(rb"^\[ *([0-9]{1,6})\.([0-9]{6})\] ?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class BootStep:
    """A moment, in ns since the request for the zone came, and what was then."""

    time_ns: int
    text: str


@dataclass(frozen=True)
class BootLog:
    """The agent's steps and the kernel's lines, each in order of time."""

    steps: tuple[BootStep, ...] = ()
    kernel: tuple[BootStep, ...] = ()
    from_console: bool = True
    """Whether the kernel's lines are those that its console has kept: a quiet kernel says little there."""


def zone_steps(named: Iterable[tuple[str, int]], zero_ns: int) -> tuple[BootStep, ...]:
    """Steps by names and times of the zone's clock, which was zero at ``zero_ns``; with that as the first."""
    steps = [BootStep(zero_ns + time_ns, text[:MAX_TEXT]) for text, time_ns in named if 0 <= time_ns <= MAX_TIME_NS]
    return BootStep(zero_ns, CLOCK_BEGINS), *sorted(steps, key=lambda step: step.time_ns)


def console_lines(data: bytes, zero_ns: int) -> tuple[BootStep, ...]:
    """The lines of a console that have a time before them."""
    lines = ((int(m[1]) * 10**9 + int(m[2]) * 1000, m[3]) for m in _CONSOLE_LINE.finditer(data))
    return _lines(((time_ns, text.decode("utf-8", "replace")) for time_ns, text in lines), zero_ns)


def kernel_lines(said: Value, zero_ns: int) -> tuple[BootStep, ...]:
    """The lines that an agent has answered to ``kernel_log``; what is no line is left out."""
    found = said.get("lines") if isinstance(said, dict) else None
    lines: list[tuple[int, str]] = []
    for item in found if isinstance(found, list) else []:
        if isinstance(item, list) and len(item) == 2:
            time_us, text = item
            if isinstance(time_us, int) and not isinstance(time_us, bool) and isinstance(text, str):
                lines.append((time_us * 1000, text))
    return _lines(lines, zero_ns)


def parse_steps(value: Value) -> tuple[tuple[str, int], ...]:
    """The steps of an agent's HELLO, by name and time of its clock; anything else counts as none."""
    found = cast("dict[object, object]", value) if isinstance(value, dict) else {}
    steps: list[tuple[str, int]] = []
    for name, time_ns in list(found.items())[:MAX_STEPS]:
        if not isinstance(name, str) or not 0 < len(name) <= MAX_STEP_NAME or not name.isprintable():
            continue
        if isinstance(time_ns, int) and not isinstance(time_ns, bool) and 0 <= time_ns <= MAX_TIME_NS:
            steps.append((name, time_ns))
    return tuple(steps)


def _lines(lines: Iterable[tuple[int, str]], zero_ns: int) -> tuple[BootStep, ...]:
    kept: list[BootStep] = []
    for time_ns, text in lines:
        if len(kept) < MAX_LINES and 0 <= time_ns <= MAX_TIME_NS and (text := _printable(text).strip()):
            kept.append(BootStep(zero_ns + time_ns, text))
    return tuple(sorted(kept, key=lambda step: step.time_ns))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])
