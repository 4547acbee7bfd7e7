"""Durations as Go writes them, and so docker: ``1h30m``, ``90s``, ``500ms``."""

from __future__ import annotations

import re
from typing import Final

from zonal.errors import InvalidInputError

DURATION: Final = r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ns|us|µs|ms|s|m|h)"
"""One of the numbers of a duration, and its unit; a regular expression."""
_UNITS: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def parse_duration(text: str) -> int:
    """In ns. Raises ``InvalidInputError``."""
    if not re.fullmatch(rf"(?:{DURATION})+", text, re.ASCII):
        raise InvalidInputError(f"{text!r} is not a duration", hint="such as 30s, 5m or 1h30m")
    parts = re.finditer(DURATION, text, re.ASCII)
    return sum(int(float(part[1]) * _UNITS[part[2]]) for part in parts)
