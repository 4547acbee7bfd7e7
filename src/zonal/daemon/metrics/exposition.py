"""The figures as text, in the format that whoever asks for them wants."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from zonal.daemon.info import resident_bytes
from zonal.daemon.metrics.families import families
from zonal.daemon.metrics.history import History
from zonal.daemon.snapshot import Snapshot, gather

if TYPE_CHECKING:
    from zonal.daemon.control import Services

FRESH = 1.0
"""Seconds for which figures are given out again: however often somebody asks, zones are asked once in that time."""


class Exposition:
    """See the module."""

    def __init__(self, services: Services, history: History, state: Path) -> None:
        self._zones = services.zones
        self._history = history
        self._state = state
        self._gathering = asyncio.Lock()
        self._last: tuple[float, Snapshot] | None = None

    async def give(self, accept: str) -> tuple[str, bytes]:
        """Content type and text; ``accept`` is the header of that name."""
        async with self._gathering:
            now = time.monotonic()
            if self._last is None or now - self._last[0] > FRESH:
                self._last = time.monotonic(), await gather(self._zones)
            snapshot = self._last[1]
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collected(list(families(snapshot, self._history, self._state, resident_bytes()))))
        encode, content_type = choose_encoder(accept)
        return content_type, encode(registry)


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)
