"""Zones that wait to be started again: each for its delay, then for its turn, since starts are work for the host."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress

from zonal.errors import NotFoundError
from zonal.images.store import ImageStore
from zonal.zones.events import EventLog
from zonal.zones.life import Life
from zonal.zones.spec import ZoneRecord, ZoneState
from zonal.zones.state import ZoneStore

log = logging.getLogger(__name__)


class Restarting:
    """See the module; a zone's record says that it waits, so the next daemon knows."""

    def __init__(
        self,
        lives: asyncio.TaskGroup,
        images: ImageStore,
        records: ZoneStore,
        events: EventLog,
        start: Callable[[ZoneRecord], Life | None],
    ) -> None:
        """``start`` begins to start a zone; it gives nothing when that has to wait, or cannot be."""
        self._lives = lives
        self._images = images
        self._records = records
        self._events = events
        self._start = start
        self._turns = asyncio.Semaphore(os.cpu_count() or 1)
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._begun = asyncio.Event()

    def put(self, record: ZoneRecord) -> None:
        """Has a zone started after its delay."""
        self.cancel(record.id)
        self._waiting[record.id] = self._lives.create_task(self._wait(record), name=f"restart of {record.name}")

    def begin(self) -> None:
        """From now on zones may be started: all that run have their volumes and ports."""
        self._begun.set()

    def cancel(self, zone_id: str) -> None:
        """It is not started; one that does not wait is left alone."""
        task = self._waiting.pop(zone_id, None)
        if task is not None:
            task.cancel()

    def leave(self) -> None:
        """Leaves them all to the next daemon."""
        for zone_id in tuple(self._waiting):
            self.cancel(zone_id)

    async def _wait(self, record: ZoneRecord) -> None:
        """Never raises, but for cancellation."""
        lease = None
        try:
            # Its image is not to be pruned in between; one that is gone is told of by the start.
            with suppress(NotFoundError):
                lease = self._images.use(record.spec.image_id, f"zone {record.name}")
            await asyncio.sleep(record.restarts.delay_ms / 1000)
            await self._begun.wait()
            async with self._turns:
                # From here on it is a zone that is being started, like others.
                del self._waiting[record.id]
                record = self._records.get(record.id)
                if record.state is not ZoneState.RESTARTING:
                    return
                zone = self._start(record)
                if zone is None:
                    return
                await asyncio.wait([zone.launched])
            if not zone.launched.cancelled() and zone.launched.exception() is None:
                self._events.emit("restart", zone.spec, restartCount=str(record.restarts.count))
        except Exception:
            log.exception("zone %s cannot be started again", record.name)
        finally:
            if lease is not None:
                lease.release()
