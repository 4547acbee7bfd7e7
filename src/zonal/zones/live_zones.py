"""The zones of this host that run, and what can be asked of one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from zonal.errors import WrongStateError, ZonalError
from zonal.xen.domain import domain_path
from zonal.zones.boot_log import BootLog, console_lines
from zonal.zones.events import EventLog
from zonal.zones.execs import ExecProcess
from zonal.zones.host import XenHost
from zonal.zones.life import Life
from zonal.zones.live_workload import LiveWorkload
from zonal.zones.live_zone import LiveZone
from zonal.zones.log_reading import stream_log
from zonal.zones.machine import CONSOLE_LOG
from zonal.zones.mounts import Mount
from zonal.zones.names import check_name
from zonal.zones.paths import ProcessInfo
from zonal.zones.resources import ResourceChange
from zonal.zones.runtime_options import Limits
from zonal.zones.spec import (
    ExecSpec,
    ExitResult,
    LogQuery,
    OutputChunk,
    ZoneEvent,
    ZoneRecord,
    ZoneSpec,
    ZoneState,
    ZoneStatistics,
)
from zonal.zones.state import ZoneStore
from zonal.zones.workload import SIGKILL
from zonal.zones.workload_limits import limits_of


class LiveZones:
    """Fulfils a part of ``zonal.zones.spec.ZoneService``; who makes zones and ends them puts them into ``_live``."""

    def __init__(self, host: XenHost, records: ZoneStore, folder: Path, events: EventLog) -> None:
        self._host = host
        self._records = records
        self._folder = folder
        self._events = events
        self._live: dict[str, Life] = {}

    async def exec(self, ref: str, spec: ExecSpec) -> ExecProcess:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        process = await self._unpaused(record).exec(spec)
        self._events.emit("exec_start", record.spec, execID=process.id, command=" ".join(spec.command))
        process.ended.add_done_callback(lambda ended: self._tell_exec_end(record.spec, process.id, ended))
        return process

    def events(self, *, since_ns: int, until_ns: int) -> AsyncIterator[ZoneEvent]:
        """See ``ZoneService``."""
        return self._events.read(since_ns=since_ns, until_ns=until_ns)

    async def kill(self, ref: str, signal: int, exec_id: str = "") -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        if record.state is ZoneState.PAUSED and signal in (SIGKILL, record.spec.stop_signal):
            await self.unpause(record.id)
        zone = self._unpaused(self._records.get(record.id))
        await (zone.execs.find(exec_id) if exec_id else zone).signal(signal)
        if not exec_id:
            self._events.emit("kill", record.spec, signal=str(signal))

    async def pause(self, ref: str) -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        zone = self._unpaused(record)
        if record.state is not ZoneState.RUNNING:
            raise WrongStateError(f"zone {record.name} is {record.state}", hint="only one that runs can be paused")
        await zone.pause()
        self._records.update(record.id, state=ZoneState.PAUSED)
        self._events.emit("pause", record.spec)

    async def unpause(self, ref: str) -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        zone = self._live.get(record.id)
        if zone is None or record.state is not ZoneState.PAUSED:
            raise WrongStateError(f"zone {record.name} is {record.state}, not paused")
        self._records.update(record.id, state=ZoneState.RUNNING)
        await zone.unpause()
        self._events.emit("unpause", record.spec)
        # One that was paused when this daemon came is met only now.
        await asyncio.wait([zone.launched])

    async def rename(self, ref: str, name: str) -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        check_name(name)
        renamed = self._records.rename(record.id, name)
        self._events.emit("rename", renamed.spec, oldName=record.name)
        zone = self._live.get(record.id)
        if zone is not None:
            zone.rename(name)
            if zone.domain_id and isinstance(zone, LiveZone):
                await self._host.store.write(f"{domain_path(zone.domain_id)}/name", name)

    async def _change_resources(self, record: ZoneRecord, change: ResourceChange) -> None:
        """At once if it runs, and for its next start."""
        if record.spec.zone:
            await self._change_limits(record, limits_of(change, record.spec.runtime.limits))
            return
        wanted = change.of(record.spec.resources)
        if record.state.alive:
            await self._unpaused(record).change_resources(wanted)
        self._records.change_spec(record.id, resources=wanted)

    async def _change_limits(self, record: ZoneRecord, limits: Limits) -> None:
        """Of a workload in a shared zone: what its control group may have."""
        runtime = record.spec.runtime
        if record.state.alive:
            life = self._unpaused(record)
            if isinstance(life, LiveWorkload):
                await life.change_limits(limits)
        self._records.change_spec(record.id, runtime=replace(runtime, limits=limits))

    async def statistics(self, ref: str) -> ZoneStatistics:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        zone = self._live.get(record.id)
        if zone is None or not zone.domain_id:
            raise self._not_running(record)
        return await zone.statistics(ask=record.state is not ZoneState.PAUSED)

    async def boot_log(self, ref: str) -> BootLog:
        """See ``ZoneService``."""
        record = self._of_zone(self._records.find(ref))
        zone = self._live.get(record.id)
        # An older daemon's zone has no steps; its kernel began when its domain did, near enough.
        begins = [phase.begin_ns for phase in record.phases if phase.name == "kernel"]
        zero_ns = record.boot_steps[0].time_ns if record.boot_steps else next(iter(begins), 0)
        if isinstance(zone, LiveZone) and zone.launched.done() and record.state is ZoneState.RUNNING:
            with suppress(ZonalError):
                return BootLog(record.boot_steps, await zone.kernel_log(zero_ns), from_console=False)
        return BootLog(record.boot_steps, console_lines(read_console(self._zone_folder(record.id)), zero_ns))

    async def processes(self, ref: str) -> Sequence[ProcessInfo]:
        """See ``ZoneService``."""
        return await self._unpaused(self._records.find(ref)).files().processes()

    async def mount(self, ref: str, mount: Mount) -> None:
        """See ``ZoneService``."""
        await self._unpaused(self._records.find(ref)).mount(mount)

    async def unmount(self, ref: str, target: str) -> None:
        """See ``ZoneService``."""
        await self._unpaused(self._records.find(ref)).unmount(target)

    async def logs(self, ref: str, query: LogQuery) -> AsyncIterator[OutputChunk]:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        zone = self._live.get(record.id)
        async for chunk in stream_log(self._zone_folder(record.id), query, zone.workload.log if zone else None):
            yield chunk

    async def console(self, ref: str, *, follow: bool) -> AsyncIterator[bytes]:
        """See ``ZoneService``."""
        record = self._of_zone(self._records.find(ref))
        zone = self._live.get(record.id)
        if follow and isinstance(zone, LiveZone) and zone.machine.console_log is not None:
            async for data in zone.machine.console_log.follow():
                yield data
            return
        yield read_console(self._zone_folder(record.id))

    def _tell_exec_end(self, spec: ZoneSpec, exec_id: str, ended: asyncio.Future[ExitResult]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            self._events.emit("exec_die", spec, execID=exec_id, exitCode=str(ended.result().status))

    def _of_zone(self, record: ZoneRecord) -> ZoneRecord:
        """Of a workload in a shared zone: that zone's."""
        return self._records.get(record.spec.zone) if record.spec.zone else record

    def _check_zone_goes(self, record: ZoneRecord) -> None:
        """Of a workload in a shared zone: nothing can be done with it while that stands still."""
        if record.spec.zone and record.state.alive:
            zone = self._of_zone(record)
            if zone.state is ZoneState.PAUSED:
                raise WrongStateError(
                    f"zone {zone.name}, which {record.name} is in, is paused", hint=f"zonal unpause {zone.name}"
                )

    def _running(self, record: ZoneRecord) -> Life:
        zone = self._live.get(record.id)
        if zone is None or not zone.launched.done():
            raise self._not_running(record)
        return zone

    def _unpaused(self, record: ZoneRecord) -> Life:
        if record.spec.zone and (zone := self._of_zone(record)).state is ZoneState.PAUSED:
            record = zone
        if record.state is ZoneState.PAUSED:
            raise WrongStateError(
                f"zone {record.name} is paused, and answers nothing", hint=f"zonal unpause {record.name}"
            )
        return self._running(record)

    def _not_running(self, record: ZoneRecord) -> WrongStateError:
        return WrongStateError(
            f"zone {record.name} is {record.state}, it does not run", hint="zonal zone ls shows those that do"
        )

    def _zone_folder(self, zone_id: str) -> Path:
        return self._folder / zone_id


def read_console(folder: Path) -> bytes:
    """What is kept of a zone's console."""
    try:
        return (folder / CONSOLE_LOG).read_bytes()
    except FileNotFoundError:
        return b""
