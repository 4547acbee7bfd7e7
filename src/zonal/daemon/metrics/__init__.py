"""Figures for Prometheus: ``serving_metrics`` gives them out over HTTP. Imported only where they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from zonal.daemon.metrics.exposition import Exposition
from zonal.daemon.metrics.history import History
from zonal.daemon.metrics.http import serving_http

if TYPE_CHECKING:
    from pathlib import Path

    from zonal.daemon.control import Services
    from zonal.daemon.metrics_address import MetricsAddress

__all__ = ["serving_metrics"]


@asynccontextmanager
async def serving_metrics(services: Services, address: MetricsAddress, state: Path) -> AsyncGenerator[None]:
    """Serves them within the block; ``state`` is the folder whose disk is told of.

    Raises ``UnavailableError`` when it cannot listen there.
    """
    history = History(services.zones)
    exposition = Exposition(services, history, state)
    listening = asyncio.ensure_future(history.listen())
    try:
        async with serving_http(address, exposition.give):
            yield
    finally:
        listening.cancel()
        await asyncio.wait([listening])
        if not listening.cancelled():
            listening.result()  # raises a fault of ours
