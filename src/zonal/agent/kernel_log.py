"""What the zone's kernel has said since its start, out of its own log (Linux, Documentation/ABI/testing/dev-kmsg)."""

from __future__ import annotations

import os

DEVICE = "/dev/kmsg"
MAX_LINES = 600
MAX_BYTES = 40 << 10
"""Of all lines; the answer must fit into one message."""
MAX_LINE = 160
_RECORD = 8192


def read_lines(device: str = DEVICE) -> list[tuple[int, str]]:
    """The oldest lines that it still has: microseconds since its start, and the text."""
    lines: list[tuple[int, str]] = []
    left = MAX_BYTES
    fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while left > 0 and len(lines) < MAX_LINES:
            try:
                record = os.read(fd, _RECORD)
            except BlockingIOError:
                break
            except BrokenPipeError:  # what was next has just been written over
                continue
            if not record:
                break
            # "level,number,microseconds,flags;text", and lines with details that begin with a space
            head, _, rest = record.partition(b";")
            fields = head.split(b",")
            if len(fields) < 3 or not fields[2].isdigit():
                continue
            text = rest.partition(b"\n")[0].decode("utf-8", "replace")[:MAX_LINE]
            lines.append((int(fields[2]), text))
            left -= len(text.encode()) + 16
    finally:
        os.close(fd)
    return lines
