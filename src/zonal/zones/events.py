"""What has happened to zones: told to those who listen, and kept for those who ask later, within bounds.

The last events are in memory and in two files of JSON lines, so that a daemon knows those of the one before it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Self, cast

from zonal.zones.spec import ZoneEvent, ZoneSpec

log = logging.getLogger(__name__)

MAX_KEPT = 1024
"""Events in memory; a listener that is so far behind misses some."""
MAX_FILE = 256 << 10
"""Bytes in each of the two files."""
MAX_VALUE = 256
"""Characters of an attribute's value."""


class EventLog:
    """See the module. ``emit`` does nothing once it is closed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        self._older = folder / "events.jsonl.1"
        self._kept: deque[ZoneEvent] = deque(maxlen=MAX_KEPT)
        self._count = 0
        """Of all that were ever kept here."""
        self._changed = asyncio.Event()
        for path in (self._older, self._path):
            for event in _read(path):
                self._keep(event)
        self._file = _open(self._path)

    def emit(self, action: str, spec: ZoneSpec, **attributes: str) -> None:
        """Something has happened just now."""
        short = {name: value[:MAX_VALUE] for name, value in attributes.items()}
        event = ZoneEvent(time.time_ns(), action, spec.id, spec.name, spec.image, short)
        self._keep(event)
        self._changed.set()
        self._changed = asyncio.Event()
        try:
            self._write(event)
        except OSError as error:
            log.warning("the event %s of zone %s is not kept: %s", action, spec.name, error)

    async def read(self, *, since_ns: int = 0, until_ns: int = 0) -> AsyncIterator[ZoneEvent]:
        """Events from ``since_ns`` on (0: those to come), and then as they come, until ``until_ns`` (0: for ever)."""
        position = self._count - len(self._kept) if since_ns else self._count
        while True:
            changed = self._changed
            first = self._count - len(self._kept)
            for index in range(max(position, first), self._count):
                here = index - (self._count - len(self._kept))
                if here < 0:
                    continue  # dropped while the one before was taken
                event = self._kept[here]
                if event.time_ns >= since_ns and not 0 < until_ns < event.time_ns:
                    yield event
                position = index + 1
            position = max(position, first)
            if position < self._count:
                continue
            left = (until_ns - time.time_ns()) / 1e9 if until_ns else None
            if left is not None and left <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await changed.wait()

    def close(self) -> None:
        """Nothing is kept any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, event: ZoneEvent) -> None:
        self._kept.append(event)
        self._count += 1

    def _write(self, event: ZoneEvent) -> None:
        if self._file.tell() > MAX_FILE:
            self._file.close()
            self._path.replace(self._older)
            self._file = _open(self._path)
        # With a line's end before it as well: half a line of a killed daemon spoils no other.
        self._file.write(b"\n" + json.dumps(asdict(event), ensure_ascii=False).encode() + b"\n")


def _open(path: Path) -> BinaryIO:
    file = path.open("ab", buffering=0)
    path.chmod(0o600)
    return cast("BinaryIO", file)


def _read(path: Path) -> list[ZoneEvent]:
    events: list[ZoneEvent] = []
    with suppress(FileNotFoundError):
        for line in path.read_bytes().split(b"\n"):
            with suppress(ValueError, TypeError):
                events.append(ZoneEvent(**json.loads(line)))
    return events
