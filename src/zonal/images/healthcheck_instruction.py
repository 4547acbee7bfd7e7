"""``HEALTHCHECK`` as a Dockerfile has it, for an image's settings.

HEALTHCHECK [--interval=30s] [--timeout=30s] [--start-period=0s] [--start-interval=5s] [--retries=3] CMD …
HEALTHCHECK NONE
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, cast

from zonal.duration import parse_duration
from zonal.errors import InvalidInputError
from zonal.images.healthcheck import COMMAND, NONE, SHELL_COMMAND

_LEAST_NS: Final = 10**6
"""``MinimumDuration`` of docker's ``container.HealthConfig``; 0 is for the default."""
_MOST: Final = (1 << 63) - 1
_OPTION: Final = re.compile(r"--([a-z-]+)=(\"[^\"]*\"|'[^']*'|\S+)(?:\s+|$)")
_TIMES: Final = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}
_RETRIES: Final = "retries"


def parse_instruction(text: str) -> dict[str, Any]:
    """What stands behind the word, as ``Healthcheck`` of an image's configuration. Raises ``ValueError``."""
    options, rest = _options(text)
    kind, _, command = rest.partition(" ")
    command = command.strip()
    if kind.upper() == NONE:
        if command or options:
            raise ValueError("NONE stands alone")
        return {"Test": [NONE]}
    if kind.upper() != COMMAND:
        raise ValueError(f"{COMMAND} or {NONE} is wanted behind its options")
    return {"Test": _test(command), **options}


def _options(text: str) -> tuple[dict[str, int], str]:
    """Those at the beginning, and what is behind them."""
    found: dict[str, int] = {}
    while match := _OPTION.match(text):
        name, value = match[1], match[2].strip("\"'")
        if name in _TIMES:
            key, number = _TIMES[name], _time(name, value)
        elif name == _RETRIES and re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            key, number = "Retries", int(value)
        elif name == _RETRIES:
            raise ValueError(f"--{_RETRIES}={value}: a number that is not negative is wanted")
        else:
            raise ValueError(f"there is no option --{name}")
        if key in found:
            raise ValueError(f"--{name} is there twice")
        found[key] = number
        text = text[match.end() :]
    if text.startswith("--"):
        raise ValueError(f"{text.split()[0]} is no option with a value: --NAME=VALUE is wanted")
    return {key: number for key, number in found.items() if number}, text


def _time(name: str, value: str) -> int:
    try:
        nanoseconds = 0 if value == "0" else parse_duration(value)
    except InvalidInputError as error:
        raise ValueError(f"--{name}: {error.message}") from error
    if nanoseconds and not _LEAST_NS <= nanoseconds <= _MOST:
        raise ValueError(f"--{name}={value}: 1ms or more is wanted, or 0 for the default")
    return nanoseconds


def _test(command: str) -> list[str]:
    if not command:
        raise ValueError(f"there is nothing behind {COMMAND}")
    if not command.startswith("["):
        return [SHELL_COMMAND, command]
    words = json.loads(command)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in cast("list[object]", words)):
        raise ValueError("an array of strings is wanted")
    if not words:
        raise ValueError(f"there is nothing behind {COMMAND}")
    return [COMMAND, *cast("list[str]", words)]
