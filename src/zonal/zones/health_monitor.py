"""Asks after a workload's health while it runs: a probe, its result into the record, and again after a while."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Protocol

from zonal.errors import ZonalError
from zonal.images.healthcheck import HealthCheck
from zonal.zones.events import EventLog
from zonal.zones.health import FAILED, MAX_OUTPUT, Health, ProbeResult, timeout_ns
from zonal.zones.spec import ExitResult, OutputChunk, ZoneSpec
from zonal.zones.state import ZoneStore

log = logging.getLogger(__name__)

KILL_TIMEOUT = 10.0
"""Seconds that a probe may take to be gone once it was killed."""


class ProbeProcess(Protocol):
    """A process of a zone's container; see ``zonal.zones.execs.ExecProcess``."""

    def output(self) -> AsyncIterator[OutputChunk]:
        """All of it, to the end."""
        ...

    async def wait(self) -> ExitResult:
        """Its end. Raises ``ZonalError`` when the zone was lost first."""
        ...

    async def kill_all(self) -> None:
        """Kills it and what it has started."""
        ...


class Probed(Protocol):
    """A zone that runs; see ``zonal.zones.life.Life``."""

    spec: ZoneSpec
    going: asyncio.Event
    """Cleared while it is paused."""
    pauses: int
    """How often it was paused."""

    @property
    def ending(self) -> bool:
        """Whether its workload has ended."""
        ...

    async def probe(self, command: tuple[str, ...]) -> ProbeProcess:
        """Starts a process in its container. Raises ``ZonalError``."""
        ...


class HealthMonitor:
    """Of one zone that runs. What its zone's agent says is the zone's word only."""

    def __init__(self, zone: Probed, check: HealthCheck, records: ZoneStore, events: EventLog) -> None:
        self._zone = zone
        self._check = check
        self._records = records
        self._events = events
        self._probe: _Probe | None = None

    async def run(self) -> None:
        """Goes on until it is cancelled; never raises."""
        try:
            while True:
                record = self._records.get(self._zone.spec.id)
                wait_ns = (record.health or Health()).next_ns(self._check, time.time_ns(), started_ns=record.started_ns)
                await asyncio.sleep(wait_ns / 1e9)
                await self._zone.going.wait()
                result = await self._ask()
                if not self._zone.ending:
                    self._take(result)
        except asyncio.CancelledError:
            raise
        except ZonalError as error:
            log.warning("zone %s: nobody asks after its health any more: %s", self._zone.spec.name, error)
        except Exception:
            log.exception("zone %s: nobody asks after its health any more", self._zone.spec.name)
        finally:
            if self._probe is not None:
                self._probe.task.cancel()

    async def _ask(self) -> ProbeResult:
        start_ns = time.time_ns()
        if self._probe is not None and not self._probe.task.done():
            return ProbeResult(start_ns, start_ns, FAILED, "the probe before this one could not be ended")
        probe = self._probe = _Probe(self._zone, self._check.command)
        limit_ns = timeout_ns(self._check)
        if await self._done_within(probe.task, limit_ns / 1e9):
            return ProbeResult(start_ns, time.time_ns(), probe.task.result(), probe.output)
        end_ns = time.time_ns()
        await probe.end()
        text = f"Health check exceeded timeout ({limit_ns / 1e9:g}s)"
        output = f"{text}: {probe.output}" if probe.output else text
        return ProbeResult(start_ns, end_ns, FAILED, output)

    async def _done_within(self, task: asyncio.Task[int], seconds: float) -> bool:
        """Whether it is done after so long; a zone that was paused meanwhile has all of that once more."""
        while True:
            pauses = self._zone.pauses
            await asyncio.wait([task], timeout=seconds)
            if task.done():
                return True
            if pauses == self._zone.pauses and self._zone.going.is_set():
                return False
            await self._zone.going.wait()

    def _take(self, result: ProbeResult) -> None:
        record = self._records.get(self._zone.spec.id)
        before = record.health or Health()
        health = before.after(self._check, result, started_ns=record.started_ns)
        self._records.update(record.id, health=health)
        if health.status is not before.status:
            self._events.emit(f"health_status: {health.status}", record.spec)


class _Probe:
    """One probe under way."""

    def __init__(self, zone: Probed, command: tuple[str, ...]) -> None:
        self._zone = zone
        self._command = command
        self._said = bytearray()
        self._process: ProbeProcess | None = None
        self._unwanted = False
        self.task = asyncio.ensure_future(self._run())
        """Its exit status; ``FAILED`` when it could not be started, and the output then says why."""

    @property
    def output(self) -> str:
        """What it has written, or as much as is kept."""
        return self._said.decode(errors="replace")

    async def end(self) -> None:
        """Has it killed, and waits for its end for a while."""
        self._unwanted = True
        await self._kill()
        await asyncio.wait([self.task], timeout=KILL_TIMEOUT)

    async def _run(self) -> int:
        try:
            process = self._process = await self._zone.probe(self._command)
            if self._unwanted:
                await self._kill()
            async for _, data in process.output():
                self._said += data[: MAX_OUTPUT - len(self._said)]
            return (await process.wait()).status
        except ZonalError as error:
            self._said += str(error).encode(errors="replace")[: MAX_OUTPUT - len(self._said)]
            return FAILED

    async def _kill(self) -> None:
        if self._process is not None:
            with suppress(ZonalError):
                await self._process.kill_all()
