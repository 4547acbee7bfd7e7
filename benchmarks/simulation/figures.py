"""What is measured of a simulated zonald, at growing numbers of zones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.simulation.zonald import Zonald
from zonal.daemon.metrics.exposition import FRESH

T = TypeVar("T")

STARTS = 10
ROUNDS = 5
QUIET_SECONDS, IDLE_SECONDS = 1.0, 5.0
MIB = 1 << 20


@dataclass(frozen=True)
class Point:
    """With ``zones`` alive; times are medians."""

    zones: int
    start_ms: float
    """Of the next zone, from the call until its workload has been started."""
    end_ms: float
    """Of one of them, by force."""
    list_ms: float
    scrape_ms: float
    """Of the figures for Prometheus, which has every zone's agent asked."""
    resident_mib: float
    """zonald's memory, without the pages of zones that it has mapped."""
    descriptors: int
    mappings: int
    records_kib: float
    """The zones' records, with SQLite's log."""
    idle_ms: float
    """Processor time in a second in which nothing is asked for."""
    answers_s: float
    """From a start of zonald until it answers again, once it was killed."""
    taken_back_s: float
    """The same, until it has met every zone's agent."""


def measure(
    zonald: Zonald, marks: Sequence[int], tell: Callable[[Point], None], *, idle_seconds: float = IDLE_SECONDS
) -> list[Point]:
    """Starts zones one after another, and stops to measure when there are as many as one of ``marks``."""
    points: list[Point] = []
    alive = 0
    for mark in marks:
        while alive < mark:
            zonald.run()
            alive += 1
        points.append(_at(zonald, mark, idle_seconds))
        tell(points[-1])
    return points


def _at(zonald: Zonald, zones: int, idle_seconds: float) -> Point:
    starts: list[float] = []
    ends: list[float] = []
    for _ in range(STARTS):
        seconds, zone = timed(zonald.run)
        starts.append(seconds)
        ends.append(timed(lambda zone=zone: zonald.remove(zone))[0])
    lists = [timed(zonald.list) for _ in range(ROUNDS)]
    found = {len(listed) for _, listed in lists}
    if found != {zones}:
        raise RuntimeError(f"{zones} zones were started, and zonald lists {found}")
    scrapes: list[float] = []
    for _ in range(ROUNDS):
        time.sleep(1.1 * FRESH)  # else it gives out again what it has
        scrapes.append(timed(zonald.scrape)[0])
    time.sleep(QUIET_SECONDS)
    before = zonald.cpu_seconds()
    time.sleep(idle_seconds)
    idle = (zonald.cpu_seconds() - before) / idle_seconds
    resident, descriptors, mappings = zonald.resident_bytes(), zonald.descriptors(), zonald.mappings()
    records = zonald.records_bytes()
    answers, taken_back = zonald.again(zones)
    return Point(
        zones=zones,
        start_ms=round(1000 * statistics.median(starts), 1),
        end_ms=round(1000 * statistics.median(ends), 1),
        list_ms=round(1000 * statistics.median(seconds for seconds, _ in lists), 1),
        scrape_ms=round(1000 * statistics.median(scrapes), 1),
        resident_mib=round(resident / MIB, 1),
        descriptors=descriptors,
        mappings=mappings,
        records_kib=round(records / 1024),
        idle_ms=round(1000 * idle, 1),
        answers_s=round(answers, 2),
        taken_back_s=round(taken_back, 2),
    )


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds, and what came of it."""
    begin = time.monotonic()
    value = work()
    return time.monotonic() - begin, value
