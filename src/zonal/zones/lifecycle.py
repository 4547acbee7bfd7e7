"""All zones of this host: launched, looked up, stopped, removed, and taken back after a restart of the daemon.

A zone is recorded before anything is made for it, and its domain carries the zone's id as its handle; so whatever a
killed daemon has left can be told apart, finished or undone by the next one.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

from zonal.errors import WrongStateError, ZonalError, ZoneFailedError
from zonal.images.store import ImageStore
from zonal.network.attachments import Attachments
from zonal.shares.process import ShareServer
from zonal.volumes.filesystem import FilesystemTemplates
from zonal.volumes.store import VolumeStore
from zonal.xen import domctl
from zonal.xen.console_log import quote_console
from zonal.xen.domain import HOST_ID, backed_domains, destroy_domain, domain_path, remove_from_store
from zonal.xen.domctl import DomainInfo
from zonal.zones.events import EventLog
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.live_zone import KILL_TIMEOUT, OUT_OF_MEMORY, SIGKILL, STATUS_REFUSED, BootFiles, LiveZone
from zonal.zones.live_zones import LiveZones, read_console
from zonal.zones.maintenance import Maintenance, open_maintenance
from zonal.zones.mounts import MountKind
from zonal.zones.networking import FILES
from zonal.zones.paths import Change, PathInfo
from zonal.zones.phases import PhaseClock
from zonal.zones.programs import ContainerFiles
from zonal.zones.running import AttachedZone
from zonal.zones.shares import DRIVERS as SHARE_DRIVERS
from zonal.zones.spec import ExitResult, HostInfo, ZoneRecord, ZoneSpec, ZoneState
from zonal.zones.state import ZoneStore
from zonal.zones.storage import StorageSources

log = logging.getLogger(__name__)

GONE_STATUS = 255
"""Exit status of a workload whose end nobody saw: that of docker for a container lost with its host."""


class BootSource(Protocol):
    """Where the files come from that zones boot."""

    async def boot_files(self, kernel: str, drivers: Sequence[str] = ()) -> BootFiles:
        """For a kernel by name; empty for the default, or for one with these ``drivers`` where the default lacks them.

        Raises ``NotFoundError``, ``InvalidInputError``.
        """
        ...

    def modules(self, release: str) -> Path | None:
        """The folder of a kernel's modules; ``None`` when it is not known to have any."""
        ...


class ZoneManager(LiveZones):
    """See the module; fulfils ``zonal.zones.spec.ZoneService``."""

    def __init__(
        self,
        host: XenHost,
        images: ImageStore,
        volumes: VolumeStore,
        boot: BootSource,
        records: ZoneStore,
        attachments: Attachments,
        folder: Path,
        lives: asyncio.TaskGroup,
        *,
        agent_timeout: float,
        reserve: int,
        events: EventLog,
    ) -> None:
        super().__init__(host, records, folder, events)
        self._images = images
        self._volumes = volumes
        self._storage = StorageSources(images, volumes, FilesystemTemplates(folder.parent / "scratch"), boot.modules)
        self._boot = boot
        self._attachments = attachments
        self._lives = lives
        self._agent_timeout = agent_timeout
        self._memory = HostMemory(host.hypervisor, reserve)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._maintenance = Maintenance(self._files_at_rest, lives)

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

    async def run(self, spec: ZoneSpec, *, arrived_ns: int) -> AttachedZone:
        """See ``ZoneService``."""
        clock = PhaseClock(arrived_ns)
        self._records.add(
            ZoneRecord(spec=spec, state=ZoneState.CREATING, created_ns=time.time_ns(), boot_id=_boot_id())
        )
        self._events.emit("create", spec)
        zone = self._zone(spec, clock)
        audience = None if spec.detach else zone.audiences.join()
        task = self._begin(zone, lambda stack: self._launch(zone, stack))
        try:
            await asyncio.shield(zone.launched)
        except asyncio.CancelledError:
            # Whoever asked has gone: what is half launched is undone before we go on.
            task.cancel()
            await asyncio.wait([task])
            raise
        return AttachedZone(zone, self._records, audience)

    async def attach(self, ref: str, *, stdin: bool, start: bool = False) -> AttachedZone:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        if start and not record.state.alive:
            zone = self._start_again(record)
            audience = zone.audiences.join()
            try:
                await asyncio.shield(zone.launched)
            except asyncio.CancelledError:
                zone.audiences.leave(audience)
                raise
        else:
            zone = self._running(record)
            audience = zone.audiences.join()
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

    def _start_again(self, record: ZoneRecord) -> LiveZone:
        """Begins to start a zone that has ended."""
        zone = self._zone(record.spec, PhaseClock(time.monotonic_ns()))
        zone.again = True
        self._records.update(
            record.id, state=ZoneState.CREATING, reason="", exit_status=0, phases=(), boot_id=_boot_id()
        )

        async def launch(stack: AsyncExitStack) -> None:
            await self._maintenance.close(record.id)  # it has the scratch disk
            await self._launch(zone, stack)

        self._begin(zone, launch)
        return zone

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
        zone = self._live.get(record.id)
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
        await zone.stop(record.spec.stop_signal, timeout)
        self._events.emit("stop", record.spec)
        with suppress(ZonalError):
            return self._records.get(record.id)
        return record  # it was run with --rm

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
        if record.state.alive:
            yield self._running(record).files()
        else:
            async with self._maintenance.files(record) as files:
                yield files

    @asynccontextmanager
    async def _files_at_rest(self, record: ZoneRecord) -> AsyncGenerator[ContainerFiles]:
        """Those of a zone that has ended, by a zone of their own."""
        spec = record.spec
        boot = await self._boot.boot_files(spec.kernel)
        folder = self._zone_folder(record.id)
        with self._images.use(spec.image_id, f"zone {spec.name}") as lease:
            timeout = self._agent_timeout
            image = lease.held.erofs
            async with open_maintenance(self._host, self._memory, boot, spec, folder, image, timeout) as files:
                yield files

    async def remove(self, ref: str, *, force: bool, volumes: bool = False) -> None:
        """See ``ZoneService``."""
        record = self._records.find(ref)
        zone = self._live.get(record.id)
        if zone is not None:
            if not force:
                raise WrongStateError(
                    f"zone {record.name} is {record.state}",
                    hint=f"stop it first: zonal zone stop {record.name}, or use -f",
                )
            life = self._tasks[record.id]
            if record.state is ZoneState.PAUSED and zone.launched.done():
                await self.unpause(record.id)
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

    async def take_back(self) -> None:
        """After a start: zones that run are taken over, what was half made is undone, the rest is written down."""
        domains = {info.handle: info for info in domctl.list_domains(self._host.hypervisor) if info.domain_id}
        await self._attachments.recover(
            [
                record.id
                for record in self._records.list()
                if record.state in (ZoneState.RUNNING, ZoneState.STOPPING)
                and (info := domains.get(LiveZone.domain_uuid(record.id).bytes)) is not None
                and not info.dying
            ]
        )
        for record in self._records.list():
            info = domains.pop(LiveZone.domain_uuid(record.id).bytes, None)
            try:
                await self._take_back_one(record, info)
            except ZonalError as error:
                log.error("zone %s cannot be taken back: %s", record.name, error)
        await self._remove_stale_directories()

    async def leave(self) -> None:
        """Lets go of all zones without touching them."""
        self._maintenance.leave()
        for zone in self._live.values():
            zone.leaving = True
        for task in self._tasks.values():
            task.cancel()

    async def _take_back_one(self, record: ZoneRecord, info: DomainInfo | None) -> None:
        if record.state is ZoneState.CREATING or info is None or info.dying:
            await ShareServer(self._zone_folder(record.id)).stop()  # it holds pages of the zone
        if not record.state.alive:
            if info is not None:
                await destroy_domain(self._host.hypervisor, self._host.store, info.domain_id)
            return
        if record.state is ZoneState.CREATING and record.started_ns:
            # It was about to be started again: what it was before stays.
            if info is not None:
                await destroy_domain(self._host.hypervisor, self._host.store, info.domain_id)
            self._note_end(record, ExitResult(GONE_STATUS, "zonald ended while the zone was started"), crashed=True)
            return
        if record.state is ZoneState.CREATING:
            # The client that asked for it has seen its call fail: nothing is to be left.
            if info is not None:
                await destroy_domain(self._host.hypervisor, self._host.store, info.domain_id)
            self._forget(record.id)
            return
        if info is None or info.dying:
            if info is not None:
                await destroy_domain(self._host.hypervisor, self._host.store, info.domain_id)
            same = record.boot_id == _boot_id()
            reason = "its domain was gone when zonald started" if same else "the host was restarted"
            self._note_end(record, ExitResult(GONE_STATUS, reason), crashed=True)
            return
        zone = self._zone(record.spec, PhaseClock(time.monotonic_ns()))
        domain_id = zone.domain_id = info.domain_id
        if info.paused:
            zone.met.clear()
            self._records.update(record.id, state=ZoneState.PAUSED)
        port = await self._host.store.read_int(f"{domain_path(domain_id)}/console/port", 1, 1 << 20)
        epoch = os.urandom(8).hex()
        lease = self._images.use(record.spec.image_id, f"zone {record.name}")

        async def take_over(stack: AsyncExitStack) -> None:
            stack.callback(lease.release)
            await zone.take_over(stack, domain_id, port, epoch, record.attached)
            log.info("zone %s taken over, domain %d", record.name, domain_id)

        self._begin(zone, take_over)

    def _zone(self, spec: ZoneSpec, clock: PhaseClock) -> LiveZone:
        return LiveZone(
            self._host,
            self._records,
            spec,
            self._zone_folder(spec.id),
            clock,
            storage=self._storage,
            attachments=self._attachments,
            memory=self._memory,
            agent_timeout=self._agent_timeout,
            lives=self._lives,
        )

    def _begin(self, zone: LiveZone, prepare: Callable[[AsyncExitStack], Awaitable[None]]) -> asyncio.Task[None]:
        self._live[zone.spec.id] = zone
        task = self._lives.create_task(self._live_to_the_end(zone, prepare), name=f"zone {zone.spec.name}")
        self._tasks[zone.spec.id] = task
        return task

    async def _live_to_the_end(self, zone: LiveZone, prepare: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
        """The whole life of a zone; never raises, but for cancellation."""
        failure: BaseException | None = None
        result: ExitResult | None = None
        try:
            async with AsyncExitStack() as stack:
                await prepare(stack)
                begun = {} if zone.taken_over else {"started_ns": time.time_ns(), "phases": zone.clock.all()}
                self._records.update(zone.spec.id, state=ZoneState.RUNNING, **begun)
                zone.launched.set_result(None)
                result = await zone.until_end()
        except asyncio.CancelledError as cancelled:
            failure = cancelled
        except ZonalError as error:
            failure = error
        except Exception as error:
            log.exception("zone %s: a fault of zonald's", zone.spec.name)
            failure = error
        finally:
            self._live.pop(zone.spec.id, None)
            self._tasks.pop(zone.spec.id, None)
        try:
            self._conclude(zone, result, failure)
        except Exception:
            log.exception("zone %s: its end cannot be written down", zone.spec.name)
        if isinstance(failure, asyncio.CancelledError):
            raise failure

    def _conclude(self, zone: LiveZone, result: ExitResult | None, failure: BaseException | None) -> None:
        """Writes down how a zone ended and tells those who wait; everything it held is gone by now."""
        if zone.leaving:
            zone.ended.cancel()
            zone.launched.cancel()
            return
        if isinstance(failure, ZoneFailedError):
            failure = self._with_console(zone, failure)
        if not zone.launched.done():
            if zone.again:
                status = failure.exit_status if isinstance(failure, ZonalError) else STATUS_REFUSED
                with suppress(ZonalError):
                    end = ExitResult(status, str(failure or "it could not be started"), zone.clock.all())
                    self._note_end(self._records.get(zone.spec.id), end, crashed=False)
            else:
                self._forget(zone.spec.id)
                self._remove_anonymous(zone.spec)
            _settle(zone.launched, failure or RuntimeError("the launch ended without a word"))
            zone.ended.cancel()
            return
        zone.audiences.end()
        if result is not None and failure is not None:
            log.error("zone %s: not all that it held could be given back: %r", zone.spec.name, failure)
        if result is None:
            reason = str(failure) or "zonald failed; its log says how"
            end = ExitResult(STATUS_REFUSED, reason, zone.clock.all())
        else:
            end = ExitResult(result.status, result.reason, zone.clock.all())
        with suppress(ZonalError):
            self._note_end(self._records.get(zone.spec.id), end, crashed=result is None)
        if not zone.kept and result is not None:
            self._forget(zone.spec.id)
            self._remove_anonymous(zone.spec)
        if result is None and failure is not None:
            _settle(zone.ended, failure)
        else:
            zone.ended.set_result(end)

    async def _launch(self, zone: LiveZone, stack: AsyncExitStack) -> None:
        spec = zone.spec
        with zone.clock.phase("prepare"):
            lease = self._images.use(spec.image_id, f"zone {spec.name}")
            stack.callback(lease.release)
            shares = any(mount.kind is MountKind.BIND for mount in spec.mounts)
            boot = await self._boot.boot_files(spec.kernel, SHARE_DRIVERS if shares else ())
        await zone.launch(stack, boot, lease.held.erofs)
        self._events.emit("start", zone.spec)

    def _with_console(self, zone: LiveZone, failure: ZoneFailedError) -> ZoneFailedError:
        tail = quote_console(read_console(zone.folder)[-4096:])
        if not tail:
            return failure
        failure.message = f"{failure.message}\nthe end of its console:\n{tail}"
        return failure

    def _note_end(self, record: ZoneRecord, end: ExitResult, *, crashed: bool) -> None:
        if end.reason == OUT_OF_MEMORY:
            self._events.emit("oom", record.spec)
        self._events.emit("die", record.spec, exitCode=str(end.status))
        self._records.update(
            record.id,
            state=ZoneState.CRASHED if crashed else ZoneState.EXITED,
            exit_status=end.status,
            reason=end.reason,
            finished_ns=time.time_ns(),
            domain_id=0,
            addresses=(),
            ports=(),
            phases=end.phases or record.phases,
        )

    def _forget(self, zone_id: str) -> None:
        with suppress(ZonalError):
            self._events.emit("destroy", self._records.get(zone_id).spec)
        self._records.remove(zone_id)
        shutil.rmtree(self._zone_folder(zone_id), ignore_errors=True)

    def _remove_anonymous(self, spec: ZoneSpec) -> None:
        """Volumes that were made for the zone alone."""
        for mount in spec.mounts:
            if mount.anonymous:
                try:
                    self._volumes.remove(mount.source)
                except ZonalError as error:
                    log.info("zone %s: its volume stays: %s", spec.name, error)

    async def _remove_stale_directories(self) -> None:
        """Directories in the store of zones whose domain is gone: what a kill between two steps can leave."""
        store = self._host.store
        # In this order: a domain that comes meanwhile is then alive.
        named = {
            int(name)
            for name in await store.list("/local/domain")
            if name.isdecimal() and await store.exists(f"/local/domain/{name}/zonal")
        }
        named |= await backed_domains(store)
        alive = {info.domain_id for info in domctl.list_domains(self._host.hypervisor) if not info.dying}
        for domain_id in named - alive - {HOST_ID}:
            await remove_from_store(store, domain_id)
        kept = {record.id for record in self._records.list()}
        for path in self._folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)


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
            )
            await manager.take_back()
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


def _settle(future: asyncio.Future[None] | asyncio.Future[ExitResult], failure: BaseException) -> None:
    if isinstance(failure, asyncio.CancelledError):
        future.cancel()
        return
    future.set_exception(failure)
    future.exception()  # nobody may be waiting, and that is no fault


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
