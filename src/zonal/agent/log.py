"""The agent's log: lines in the kernel's own log, and so on the zone's console when they matter enough."""

from __future__ import annotations

import os

ERROR, WARNING, INFO = 3, 4, 6
"""Kernel log levels; a quiet kernel shows 3 and below on the console."""

_DEVICE = "/dev/kmsg"
_MAX_LINE = 900  # the kernel takes about 1000 bytes a record


def log(level: int, text: str) -> None:
    """One record a line of ``text``."""
    try:
        fd = os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:  # not in a zone: then whoever started the agent reads it
        os.write(2, f"zonal: {text}\n".encode())
        return
    try:
        for line in text.splitlines():
            os.write(fd, f"<{level}>zonal: {line}".encode()[:_MAX_LINE])
    finally:
        os.close(fd)
