"""What has happened to zones since zonald began, counted: events, and how long starts took."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from zonal.errors import ZonalError
from zonal.zones.spec import Phase, ZoneService

log = logging.getLogger(__name__)

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Upper bounds in seconds: from what hardware needs for a warm start to what an emulated host needs under load."""
MAX_NAMES = 32
"""Different phases, and different events, that are told apart; all others are "other"."""
OTHER = "other"


class Histogram:
    """How often a time was in which bucket, and the sum of all."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self._counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """For each bound, in Prometheus' way, how many were not above it."""
        bounds = (*(repr(bound) for bound in BUCKETS), "+Inf")
        return list(zip(bounds, accumulate(self._counts), strict=True))


class History:
    """See the module; ``listen`` in a task of its own keeps it up to date."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones
        self.events: Counter[str] = Counter()
        self.starts = Histogram()
        """From the request to the workload's start."""
        self.phases: dict[str, Histogram] = {}

    async def listen(self) -> None:
        """Counts what happens from now on, until it is cancelled."""
        async for event in self._zones.events(since_ns=0, until_ns=0):
            self.events[event.action if event.action in self.events or len(self.events) < MAX_NAMES else OTHER] += 1
            if event.action == "start":
                try:
                    record = await self._zones.find(event.zone_id)
                except ZonalError:
                    continue  # it was over that soon, and removed
                self.started(record.phases)

    def started(self, phases: Sequence[Phase]) -> None:
        """A zone's workload has been started, after these phases."""
        if not phases:
            return
        self.starts.observe(max(phase.end_ns for phase in phases) / 1e9)
        for phase in phases:
            name = phase.name if phase.name in self.phases or len(self.phases) < MAX_NAMES else OTHER
            self.phases.setdefault(name, Histogram()).observe((phase.end_ns - phase.begin_ns) / 1e9)
