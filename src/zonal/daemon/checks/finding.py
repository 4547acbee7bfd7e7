"""What a check of the host gives: good news or bad, and for bad news what to do."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from zonal.errors import ZonalError


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """Zones run, but less well, or less safely, than they could."""
    ERROR = "error"
    """Zones, or some of what they can be asked to do, cannot run."""


@dataclass(frozen=True)
class Finding:
    """What one check has found; ``advice`` is what to do, and empty where all is well."""

    check: str
    level: Level
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Place:
    """Where to look: the root of the file system, zonald's folder, and the running kernel's release."""

    root: Path = Path("/")
    state: Path = Path("/var/lib/zonal")
    release: str = os.uname().release

    def read(self, path: str) -> str | None:
        """A file's text without white space around it; ``None`` where there is no such file."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except OSError:
            return None

    def has(self, path: str) -> bool:
        """Whether there is something."""
        return (self.root / path).exists()


Check = Callable[[Place], Iterable[Finding]]


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, advice: str) -> Finding:
    """It could be better."""
    return Finding(check, Level.WARNING, text, advice)


def error(check: str, text: str, advice: str) -> Finding:
    """It does not work like this."""
    return Finding(check, Level.ERROR, text, advice)


def guarded(check: Check, place: Place) -> list[Finding]:
    """What a check finds; one that cannot look says so."""
    name = getattr(check, "__name__", "check").replace("_", " ")
    try:
        return list(check(place))
    except ZonalError as failure:
        return [error(name, failure.message, failure.hint or "see zonald's log: journalctl -u zonald")]
    except OSError as failure:
        return [error(name, f"it cannot be looked at: {failure}", "run it as root, in Xen's host")]
