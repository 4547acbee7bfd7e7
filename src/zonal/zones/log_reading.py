"""A workload's output as it is asked for: its last lines, those of a stretch of time, with times before them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from zonal.zones.output_log import LogReader, LogRecord, OutputLog, find_tail
from zonal.zones.spec import LogQuery, OutputChunk


async def stream_log(folder: Path, query: LogQuery, live: OutputLog | None) -> AsyncIterator[OutputChunk]:
    """What ``query`` wants of the log in a zone's folder; ``live`` is the log while the zone runs.

    As docker has it, ``tail`` counts before times are looked at. Following ends when the log is closed, or at
    ``until_ns``.
    """
    start = None if query.tail is None else await asyncio.to_thread(find_tail, folder, query.tail)
    picker = LinePicker(query)
    with LogReader(folder, start) as reader:
        while True:
            # Looked at before reading: what is written from here on is waited for, or read already.
            changed, closed = (live.changed, live.closed) if live is not None else (None, True)
            over = bool(query.until_ns) and time.time_ns() >= query.until_ns
            for record in reader.records():
                data = picker.pick(record)
                if data:
                    yield record.stream, data
            if changed is None or closed or over or not query.follow:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(_left(query)):
                    await changed.wait()


@dataclass
class _Line:
    """Where a stream stands."""

    begins: bool = True
    wanted: bool = True


class LinePicker:
    """Leaves out the lines that began at other times, and puts the time before each that is wanted.

    A line belongs to the time of its first byte, however it was cut into pieces.
    """

    def __init__(self, query: LogQuery) -> None:
        self._query = query
        self._lines = {1: _Line(), 2: _Line()}

    def pick(self, record: LogRecord) -> bytes:
        """What is wanted of a record."""
        query, data = self._query, record.data
        if not data:
            self._lines = {1: _Line(), 2: _Line()}
            return b""
        if not (query.timestamps or query.since_ns or query.until_ns):
            return data
        line = self._lines[record.stream]
        head = b"" if line.begins else data[: data.find(b"\n") + 1] or data
        rest = data[len(head) :]
        line.begins = data.endswith(b"\n")
        picked = head if line.wanted else b""
        if rest:
            line.wanted = record.time_ns >= query.since_ns and not 0 < query.until_ns < record.time_ns
            picked += self._with_times(record.time_ns, rest) if line.wanted else b""
        return picked

    def _with_times(self, time_ns: int, lines: bytes) -> bytes:
        if not self._query.timestamps:
            return lines
        prefix = time_text(time_ns).encode() + b" "
        return prefix + lines[:-1].replace(b"\n", b"\n" + prefix) + lines[-1:]


def time_text(time_ns: int) -> str:
    """RFC 3339 with nanoseconds, in UTC: docker's form."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


def _left(query: LogQuery) -> float | None:
    return max(0.0, (query.until_ns - time.time_ns()) / 1e9) if query.until_ns else None
