"""All zones of this host: launched, looked up, stopped, started again, removed."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from zonal.errors import WrongStateError, ZonalError, ZoneFailedError
from zonal.images.store import ImageStore
from zonal.network.attachments import Attachments
from zonal.volumes.store import VolumeStore
from zonal.xen import domctl
from zonal.zones.events import EventLog
from zonal.zones.host import XenHost
from zonal.zones.life import KILL_TIMEOUT
from zonal.zones.live_workload import check_room
from zonal.zones.lives import read_boot_id
from zonal.zones.networking import FILES
from zonal.zones.paths import Change, PathInfo
from zonal.zones.phases import PhaseClock
from zonal.zones.pool_file import load_plan, save_plan
from zonal.zones.pool_plan import PoolPlan, check_plan
from zonal.zones.programs import ContainerFiles
from zonal.zones.recovery import RecoveredZones
from zonal.zones.restart import RestartKind, check_restart, stops
from zonal.zones.running import AttachedZone
from zonal.zones.sources import BootSource
from zonal.zones.spec import ExitResult, HostInfo, ZoneRecord, ZoneSpec, ZoneState, ZoneUpdate
from zonal.zones.state import ZoneStore
from zonal.zones.workload import SIGKILL

BOOTS_A_CPU = 2
"""Zones that boot at once, for each of the machine's processors: they also wait for disks and networks."""


class ZoneManager(RecoveredZones):
    """Fulfils ``zonal.zones.spec.ZoneService``."""

    async def host(self) -> HostInfo:
        """See ``ZoneService``."""
        hypervisor = self._host.hypervisor
        physical = domctl.physical_info(hypervisor)
        return HostInfo(
            xen_version=domctl.xen_version(hypervisor),
            xen_capabilities=domctl.xen_capabilities(hypervisor),
            cpus=physical.cpus,
            memory_bytes=physical.total_bytes,
            free_bytes=self._memory.room(),
        )

    async def set_pool(self, plan: PoolPlan) -> None:
        """See ``ZoneService``."""
        save_plan(self._pool_file, check_plan(plan))
        await self.pool.begin(plan)

    async def begin_pool(self) -> None:
        """As it was last wanted."""
        await self.pool.begin(load_plan(self._pool_file))

    @property
    def _pool_file(self) -> Path:
        return self._folder.parent / "pool.json"

    async def run(self, spec: ZoneSpec, *, arrived_ns: int) -> AttachedZone:
        """See ``ZoneService``."""
        clock = PhaseClock(arrived_ns)
        if spec.zone:
            check_room(self._live.get(spec.zone), spec)
        self._add(spec, ZoneState.CREATING)
        try:
            zone = self._make(spec, clock)
        except ZonalError:
            self._forget(spec.id)
            raise
        audience = None if spec.detach else zone.workload.audiences.join()
        task = self._begin(zone, lambda stack: self._launch(zone, stack))
        try:
            await asyncio.shield(zone.launched)
        except asyncio.CancelledError:
            # Whoever asked has gone: what is half launched is undone before we go on.
            task.cancel()
            await asyncio.wait([task])
            raise
        return AttachedZone(zone, self._records, audience)

    async def create(self, spec: ZoneSpec) -> ZoneRecord:
        """See ``ZoneService``."""
        self._add(spec, ZoneState.CREATED)
        return self._records.get(spec.id)

    def _add(self, spec: ZoneSpec, state: ZoneState) -> None:
        self._records.add(ZoneRecord(spec=spec, state=state, created_ns=time.time_ns(), boot_id=read_boot_id()))
        self._events.emit("create", spec)

    async def attach(self, ref: str, *, stdin: bool, start: bool = False) -> AttachedZone:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        if start and not record.state.alive:
            zone = self._start_again(record)
            audience = zone.workload.audiences.join()
            try:
                await asyncio.shield(zone.launched)
            except asyncio.CancelledError:
                zone.workload.audiences.leave(audience)
                raise
        else:
            zone = self._running(record)
            audience = zone.workload.audiences.join()
        return AttachedZone(zone, self._records, audience, stdin=stdin)

    async def start(self, ref: str) -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        if record.state.alive:
            self._running(record)
        else:
            await asyncio.shield(self._start_again(record).launched)

    async def restart(self, ref: str, timeout: float) -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        zone = self._live.get(record.id)
        if zone is not None:
            before, zone.kept = zone.kept, True
            try:
                await self.stop(record.id, timeout)
            except BaseException:
                zone.kept = before
                raise
        await self.start(record.id)
        self._events.emit("restart", record.spec)

    async def rename(self, ref: str, name: str) -> None:
        """See ``ZoneService``."""
        before = self._records.find(ref).name
        await super().rename(ref, name)
        for lease in (*self._images.leases, *self._volumes.leases):
            if lease.user == f"zone {before}":
                lease.user = f"zone {name}"
        if self._host.devices is not None:
            self._host.devices.rename(before, name)

    async def list(self) -> builtins.list[ZoneRecord]:
        """See ``ZoneService``."""
        return self._records.list()

    async def disk_usage(self, ref: str) -> int:
        """See ``ZoneService``."""
        folder = self._zone_folder(self._records.find(ref).id)
        return sum(path.stat().st_blocks * 512 for path in folder.iterdir()) if folder.is_dir() else 0

    async def find(self, ref: str) -> ZoneRecord:
        """See ``ZoneService``."""
        return self._records.find(ref)

    async def stop(self, ref: str, timeout: float) -> ZoneRecord:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        self._check_zone_goes(record)
        zone = self._live.get(record.id)
        if self._rest(record):
            self._events.emit("stop", record.spec)
            return self._records.get(record.id)
        if zone is not None and zone.again and not zone.launched.done():
            # Its policy may start it over and over: whoever wants it to stop is not to have to hit the right moment.
            zone.mark_stopped()
            await asyncio.wait([zone.launched])
            record, zone = self._records.get(record.id), self._live.get(record.id)
        if zone is None or record.state is ZoneState.CREATING:
            if record.state.alive:
                raise WrongStateError(f"zone {record.name} is {record.state}", hint="try again when it runs")
            return record
        if record.state is ZoneState.PAUSED:
            await self.unpause(record.id)
        if not zone.launched.done():  # this daemon has only just found it
            await asyncio.wait([zone.launched])
        if self._live.get(record.id) is not zone:
            return self._records.get(record.id)
        self._records.update(record.id, state=ZoneState.STOPPING)
        zone.mark_stopped()
        await zone.stop(record.spec.stop_signal, timeout)
        self._events.emit("stop", record.spec)
        with suppress(ZonalError):
            return self._records.get(record.id)
        return record  # it was run with --rm

    async def kill(self, ref: str, signal: int, exec_id: str = "") -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        if not exec_id and stops(signal, record.spec.stop_signal) and self._rest(record):
            self._events.emit("kill", record.spec, signal=str(signal))
        else:
            await super().kill(record.id, signal, exec_id)

    async def update(self, ref: str, change: ZoneUpdate) -> ZoneRecord:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        told: dict[str, str] = {}
        if change.restart is not None:
            check_restart(change.restart, remove=record.spec.remove)
            told["restart"] = str(change.restart)
        if change.resources is not None:
            await self._change_resources(record, change.resources)
        if change.limits is not None:
            await self._change_limits(record, change.limits)
        if change.restart is not None:
            self._records.change_spec(record.id, restart=change.restart)
            if change.restart.kind is RestartKind.NO:
                self._rest(self._records.get(record.id))
        self._events.emit("update", record.spec, **told)
        return self._records.get(record.id)

    async def wait(self, ref: str) -> ExitResult:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        zone = self._live.get(record.id)
        if zone is not None:
            with suppress(ZoneFailedError):
                return await asyncio.shield(zone.ended)
            record = self._records.get(record.id)
        return ExitResult(record.exit_status, record.reason, record.phases)

    async def read_files(self, ref: str, path: str, *, follow: bool) -> AsyncIterator[bytes]:
        """See ``ZoneService``."""
        async with self._files(self._records.find(ref)) as files:
            async for chunk in files.read(path, follow=follow):
                yield chunk

    async def write_files(self, ref: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """See ``ZoneService``."""
        async with self._files(self._records.find(ref)) as files:
            await files.write(path, chunks)

    async def stat_path(self, ref: str, path: str) -> PathInfo:
        """See ``ZoneService``."""
        async with self._files(self._records.find(ref)) as files:
            return await files.stat(path)

    async def changes(self, ref: str) -> builtins.list[Change]:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        ours = _made_for_mounts(record)
        async with self._files(record) as files:
            return _without(await files.changes(), ours)

    async def layer(self, ref: str, *, pause: bool) -> AsyncIterator[bytes]:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        async with self._files(record) as files:
            async for chunk in files.layer(_made_for_mounts(record), pause=pause):
                yield chunk

    @asynccontextmanager
    async def _files(self, record: ZoneRecord) -> AsyncGenerator[ContainerFiles]:
        if record.spec.houses:
            raise WrongStateError(f"zone {record.name} has no files: it has no workload of its own")
        if record.state.alive:
            yield self._running(record).files()
        else:
            async with self._maintenance.files(record) as files:
                yield files

    async def remove(self, ref: str, *, force: bool, volumes: bool = False) -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        self._check_zone_goes(record)
        zone = self._live.get(record.id)
        if (zone is not None or record.state is ZoneState.RESTARTING) and not force:
            raise WrongStateError(
                f"zone {record.name} is {record.state}",
                hint=f"stop it first: zonal zone stop {record.name}, or use -f",
            )
        sharing = self._sharing(record.id)
        self._rest(record)
        if zone is not None and record.state is ZoneState.PAUSED and zone.launched.done():
            await self.unpause(record.id)
        for each in sharing:
            with suppress(ZonalError):
                await self.remove(each.id, force=True, volumes=volumes)
        if zone is not None:
            zone.mark_stopped()
            life = self._tasks[record.id]
            if not zone.launched.done():
                life.cancel()
            elif not zone.ended.done():
                if zone.outlived:
                    # What it wrote to volumes is to be on them.
                    await zone.stop(SIGKILL, KILL_TIMEOUT)
                else:
                    await zone.destroy("removed")
            await asyncio.wait([life])
        await self._maintenance.close(record.id)
        self._forget(record.id)
        if volumes:
            self._remove_anonymous(record.spec)


@asynccontextmanager
async def open_zones(
    host: XenHost,
    images: ImageStore,
    volumes: VolumeStore,
    boot: BootSource,
    attachments: Attachments,
    state: Path,
    *,
    agent_timeout: float,
    reserve: int,
) -> AsyncGenerator[ZoneManager]:
    """All zones of this host, for as long as the block lasts; zones that run then go on without us.

    ``state``: the daemon's folder; ``agent_timeout``: seconds until a new zone's agent has to answer; ``reserve``:
    bytes of memory that zones do not get.
    """
    folder = state / "zones"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ZoneStore.open(state / "state.sqlite") as records, EventLog(state) as events:
        async with asyncio.TaskGroup() as lives:
            manager = ZoneManager(
                *(host, images, volumes, boot, records, attachments, folder, lives),
                agent_timeout=agent_timeout,
                reserve=reserve,
                events=events,
                # More at once than there are processors for make each other late: beyond the time that an agent has.
                boots=BOOTS_A_CPU * domctl.physical_info(host.hypervisor).cpus,
            )
            await manager.take_back()
            await manager.begin_pool()
            try:
                yield manager
            finally:
                await manager.leave()


def _made_for_mounts(record: ZoneRecord) -> set[str]:
    """What crun has made for its mounts, which is nobody's change."""
    ours = {f"/etc/{name}" for name in FILES}
    return {"/dev", *ours, *(mount.target for mount in record.spec.mounts), *(a.mount.target for a in record.attached)}


def _without(changes: builtins.list[Change], ours: set[str]) -> builtins.list[Change]:
    """The changes but for ``ours``, and but for a folder that has changed by nothing else than those."""
    kept = [change for change in changes if change.path not in ours]
    made = {change.path.rpartition("/")[0] for change in changes if change.path in ours}
    alone = {folder for folder in made if not any(each.path.startswith(f"{folder}/") for each in kept)}
    return [change for change in kept if change.path not in alone or change.kind != "C"]
