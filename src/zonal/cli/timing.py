"""``--timing``: where the time of a run went, from the start of the command to its end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zonal.cli.attach import Outcome

command_process: int | str = "self"
"""The process that was started for the command; not our own when the command server runs it."""


@dataclass(frozen=True)
class Span:
    """A stretch of time, in ns since the command began."""

    name: str
    begin_ns: int
    end_ns: int


class Stopwatch:
    """The client's own part of a run; times in ns of the monotonic clock."""

    def __init__(self) -> None:
        self.begin_ns = process_begin_ns()
        self._spans: list[Span] = []
        self._last_ns = self.begin_ns

    def lap(self, name: str) -> None:
        """Names the time since the last lap."""
        now = time.monotonic_ns()
        self._spans.append(Span(name, self._last_ns - self.begin_ns, now - self.begin_ns))
        self._last_ns = now

    def spans(self, outcome: Outcome, total_ns: int) -> list[Span]:
        """All of the run: the client's laps, then zonald's phases, put where the request was sent."""
        offset = outcome.requested_ns - self.begin_ns
        phases = [Span(p.name, p.begin_ns + offset, p.end_ns + offset) for p in outcome.phases]
        end = [Span("end", outcome.exited_ns - self.begin_ns, total_ns)] if outcome.exited_ns else []
        return [*self._spans, *phases, *end]


def process_begin_ns() -> int:
    """When the command began, in ns of the monotonic clock, to 10 ms (proc(5), ``/proc/pid/stat``, starttime)."""
    now = time.monotonic_ns()
    try:
        after_name = Path(f"/proc/{command_process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(after_name[19])
    except (OSError, IndexError, ValueError):
        return now
    began_ns = ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return now - max(0, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - began_ns)


def table(spans: list[Span], total_ns: int) -> str:
    """For people: name, begin and length in seconds."""
    width = max((len(span.name) for span in spans), default=5)
    return "\n".join(
        (
            f"{'phase'.ljust(width)}   begin s   length s",
            *_lines(spans, width),
            f"{'total'.ljust(width)}   {'':7}   {total_ns / 1e9:8.3f}",
        )
    )


def as_json(spans: list[Span], total_ns: int, outcome: Outcome) -> str:
    """For programs: one object on one line."""
    return json.dumps(
        {
            "zone_id": outcome.zone_id,
            "name": outcome.name,
            "status": outcome.status,
            "total_ns": total_ns,
            "phases": [{"name": s.name, "begin_ns": s.begin_ns, "end_ns": s.end_ns} for s in spans],
        }
    )


def _lines(spans: list[Span], width: int) -> Iterator[str]:
    for span in spans:
        yield f"{span.name.ljust(width)}   {span.begin_ns / 1e9:7.3f}   {(span.end_ns - span.begin_ns) / 1e9:8.3f}"
