"""Values as people write and read them: sizes, ages, tables."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from zonal.cli.errors import printable
from zonal.duration import DURATION, parse_duration
from zonal.errors import InvalidInputError

_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """``256M``, ``1g``, ``0.5GiB`` or plain bytes, in bytes; units are powers of 1024. Raises ``InvalidInputError``."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([bkmgt]?)(?:i?b)?", text.strip().lower(), re.ASCII)
    if not match:
        raise InvalidInputError(f"{text!r} is not a size", hint="such as 256M or 1G")
    return int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]


def show_size(size: int) -> str:
    """A size in bytes, in the unit that gives the shortest number."""
    if size < 1024:
        return f"{size} B"
    value = float(size)
    unit = ""
    for unit in ("KiB", "MiB", "GiB", "TiB"):  # noqa: B007
        value /= 1024
        if value < 1023.95:
            break
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"


def parse_time(text: str, now_ns: int | None = None) -> int:
    """A moment as docker takes it, in ns since the epoch.

    RFC 3339 (of this machine's zone where it names none), seconds since the epoch, or how long ago (``1h30m``).
    Raises ``InvalidInputError``.
    """
    wrong = InvalidInputError(
        f"{text!r} is not a time", hint="such as 2026-01-02T15:04:05Z, 1767366245.5, or 10m for ten minutes ago"
    )
    if match := re.fullmatch(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?", text, re.ASCII):
        return int(match[1]) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    if re.fullmatch(rf"(?:{DURATION})+", text, re.ASCII):
        return max(0, (now_ns or time.time_ns()) - parse_duration(text))
    match = re.fullmatch(r"([0-9T:-]+)(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})?", text, re.ASCII)
    if not match:
        raise wrong
    try:
        moment = datetime.fromisoformat(match[1] + (match[3] or "").replace("Z", "+00:00"))
        return int(moment.timestamp()) * 1_000_000_000 + int((match[2] or "").ljust(9, "0"))
    except (ValueError, OverflowError) as error:
        raise wrong from error


def show_age(then_ns: int, now_ns: int | None = None) -> str:
    """How long ago a wall-clock time (ns since the epoch) was; empty for 0."""
    if not then_ns:
        return ""
    seconds = max(0, ((now_ns or time.time_ns()) - then_ns) // 1_000_000_000)
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{_count(seconds // size, unit)} ago"
    return f"{_count(seconds, 'second')} ago"


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns with three spaces between them, a line each."""
    lines = [[printable(cell).replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def show_fields(values: Mapping[str, str]) -> str:
    """Names and values, a line each, the values below one another."""
    width = max(map(len, values))
    return "\n".join(f"{name.ljust(width)}   {printable(value)}" for name, value in values.items())


def shorten(text: str, width: int) -> str:
    """The text, with its end left out where it is longer than ``width``."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}" + ("" if number == 1 else "s")
