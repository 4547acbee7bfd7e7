"""What a zone is marked with, and nothing acts on: labels and exposed ports, the image's and the user's together.

What a user gives and cannot be is refused; what an image has and cannot be is left out, since it may run all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from zonal.errors import InvalidInputError

MAX_ENTRIES: Final = 256
"""Bound on each list of a zone's: labels, groups, sysctls …"""
MAX_TEXT: Final = 4096
"""Characters of one of their texts."""
_PORT: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/(tcp|udp|sctp))?", re.ASCII)


def checked_pairs(what: str, pairs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Labels or the like, in the order of their names. Raises ``InvalidInputError``."""
    if len(pairs) > MAX_ENTRIES:
        raise InvalidInputError(f"{len(pairs)} {what} are too many", hint=f"{MAX_ENTRIES} at most")
    for name, value in pairs.items():
        if not _fits(name, value):
            raise InvalidInputError(
                f"{name[:64]!r} cannot be among the {what}",
                hint=f"a name and a value of {MAX_TEXT} characters at most, without NUL",
            )
    return tuple(sorted(pairs.items()))


def checked_labels(images: Mapping[str, str], users: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """An image's labels and the user's, which come before. Raises ``InvalidInputError``."""
    usable = islice(((name, value) for name, value in images.items() if _fits(name, value)), MAX_ENTRIES)
    return tuple(sorted({**dict(usable), **dict(checked_pairs("labels", users))}.items()))


def checked_ports(images: Iterable[str], users: Iterable[str]) -> tuple[str, ...]:
    """Exposed ports, each once and with its protocol: ``80/tcp``, ``8000-8009/udp``. Raises ``InvalidInputError``."""
    found = dict.fromkeys(islice((port for text in images if (port := _port(text))), MAX_ENTRIES))
    for text in users:
        port = _port(text)
        if not port:
            raise InvalidInputError(f"{text[:64]!r} is no port that could be exposed", hint="such as 8080 or 53/udp")
        found[port] = None
    if len(found) > 2 * MAX_ENTRIES:
        raise InvalidInputError(f"{len(found)} exposed ports are too many", hint="give ranges, such as 8000-8009")
    return tuple(found)


def _fits(name: str, value: str) -> bool:
    return bool(name) and len(name) <= MAX_TEXT and len(value) <= MAX_TEXT and "\0" not in name + value


def _port(text: str) -> str:
    match = _PORT.fullmatch(text)
    if match is None:
        return ""
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        return ""
    return (f"{first}" if first == last else f"{first}-{last}") + f"/{match[3] or 'tcp'}"
