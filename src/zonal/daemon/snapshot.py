"""What zones use at one moment, gathered from all that run at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from zonal.errors import ZonalError
from zonal.zones.pool_plan import PoolView
from zonal.zones.spec import HostInfo, ZoneRecord, ZoneService, ZoneState, ZoneStatistics

MAX_ZONES = 1000
"""Zones with figures of their own; of those beyond it only the number is told."""
AT_ONCE = 32
"""Zones that are asked at the same time."""


@dataclass(frozen=True)
class Snapshot:
    """Of all zones."""

    host: HostInfo
    records: Sequence[ZoneRecord]
    measured: Sequence[tuple[ZoneRecord, ZoneStatistics]]
    left_out: int
    """Zones that run and are not among those measured, for there are too many."""
    seconds: float
    """That the gathering took."""
    pool: PoolView


async def gather(zones: ZoneService, most: int = MAX_ZONES) -> Snapshot:
    """Asks all zones that run, or ``most`` of them; one that has just ended is left out."""
    begin = time.monotonic()
    records = await zones.list()
    running = [record for record in records if record.state in (ZoneState.RUNNING, ZoneState.PAUSED)]
    turn = asyncio.Semaphore(AT_ONCE)

    async def measure(record: ZoneRecord) -> tuple[ZoneRecord, ZoneStatistics] | None:
        async with turn:
            try:
                return record, await zones.statistics(record.id)
            except ZonalError:
                return None

    found = await asyncio.gather(*(measure(record) for record in running[:most]))
    return Snapshot(
        host=await zones.host(),
        records=records,
        measured=[each for each in found if each is not None],
        left_out=max(0, len(running) - most),
        seconds=time.monotonic() - begin,
        pool=zones.pool,
    )
