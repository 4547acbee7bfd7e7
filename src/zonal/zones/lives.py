"""How zones come to be and end: launched, lived to the end by one task each, written down, and forgotten."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from zonal.errors import ZonalError, ZoneFailedError
from zonal.images.store import ImageStore
from zonal.network.attachments import Attachments
from zonal.volumes.filesystem import FilesystemTemplates
from zonal.volumes.store import VolumeStore
from zonal.xen.console_log import find_panic, quote_console
from zonal.xen.virt import Virt
from zonal.zones.boot_files import BootFiles
from zonal.zones.calm import Calm
from zonal.zones.events import EventLog
from zonal.zones.health import Health, HealthStatus
from zonal.zones.health_monitor import HealthMonitor
from zonal.zones.host import XenHost
from zonal.zones.host_memory import OVERHEAD, HostMemory
from zonal.zones.life import STATUS_REFUSED, Life
from zonal.zones.live_workload import LiveWorkload, Place, check_room, take_place
from zonal.zones.live_zone import LiveZone
from zonal.zones.live_zones import LiveZones, read_console
from zonal.zones.maintenance import Maintenance, open_maintenance
from zonal.zones.mounts import MountKind
from zonal.zones.passthrough import wants_devices
from zonal.zones.phases import PhaseClock
from zonal.zones.pool import Pool, WarmMachine
from zonal.zones.programs import ContainerFiles
from zonal.zones.restart import NO_RESTART, NO_RESTARTS_YET, Restarts, after_end
from zonal.zones.restarting import Restarting
from zonal.zones.shares import DRIVERS as SHARE_DRIVERS
from zonal.zones.sources import BootSource
from zonal.zones.spec import ExitResult, ZoneRecord, ZoneSpec, ZoneState
from zonal.zones.state import ZoneStore
from zonal.zones.storage import StorageSources
from zonal.zones.turns import Turns
from zonal.zones.workload import OUT_OF_MEMORY

log = logging.getLogger(__name__)

CALM_SECONDS = 1.0
"""After a launch: a pod's zone is followed by its containers, and one pod by others. The pool is filled after that."""
BOOT_PATIENCE = 60.0
"""Seconds after which a zone that still boots is not what keeps others from it: its kernel may hang."""
_PANIC_WITHIN = 64 << 10
"""Bytes at the console's end in which a panic is looked for."""


class ZoneLives(LiveZones):
    """All zones' lives; the verbs on them are ``zonal.zones.lifecycle``'s."""

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
        boots: int = 8,
    ) -> None:
        """``boots``: how many zones boot at once."""
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
        self._turns = Turns(boots, BOOT_PATIENCE)
        self._calm = Calm(CALM_SECONDS)
        self.pool = Pool(
            *(host, self._memory, boot, folder.parent / "warm", lives), agent_timeout=agent_timeout, calm=self._calm
        )
        self._maintenance = Maintenance(self._files_at_rest, lives)
        self._restarting = Restarting(lives, images, records, events, self._restart)

    def _start_again(self, record: ZoneRecord, *, by_policy: bool = False) -> Life:
        """Begins to start what has ended, or waits for its restart. Raises ``WrongStateError``, as ``_make`` does."""
        zone = self._make(record.spec, PhaseClock(time.monotonic_ns()))
        self._restarting.cancel(record.id)
        zone.again = True
        zone.by_policy = by_policy
        restarts = record.restarts if by_policy else NO_RESTARTS_YET
        changes = {"state": ZoneState.CREATING, "reason": "", "exit_status": 0, "phases": (), "restarts": restarts}
        self._records.update(record.id, **changes, health=None, boot_id=read_boot_id())

        async def launch(stack: AsyncExitStack) -> None:
            await self._maintenance.close(record.id)  # it has the scratch disk
            await self._launch(zone, stack)

        self._begin(zone, launch)
        return zone

    def _restart(self, record: ZoneRecord) -> Life | None:
        """The same by its policy; ``None`` when it has to wait once more, or until the zone that it shares runs."""
        if record.spec.zone and not self._runs(record.spec.zone):
            return None
        try:
            return self._start_again(record, by_policy=True)
        except ZonalError as error:
            due = after_end(record.spec.restart, record.restarts, status=error.exit_status, ran_ns=0)
            self._note_end(record, ExitResult(error.exit_status, str(error)), crashed=False, due=due)
            return None

    def _runs(self, zone_id: str) -> bool:
        life = self._live.get(zone_id)
        return life is not None and life.launched.done() and not life.ending

    def _wake_workloads(self, zone_id: str) -> None:
        """A zone runs: what was to be started again in it, and had to wait for that, is."""
        for record in self._sharing(zone_id):
            if record.state is ZoneState.RESTARTING:
                restarts = replace(record.restarts, delay_ms=0)
                self._restarting.put(self._records.update(record.id, restarts=restarts))

    def _make(self, spec: ZoneSpec, clock: PhaseClock) -> Life:
        """A life to be. Raises ``WrongStateError`` when the zone that it is to share does not run."""
        if not spec.zone:
            return self._zone(spec, clock)
        zone = check_room(self._live.get(spec.zone), spec)
        return self._workload(zone, spec, clock, take_place(zone, spec))

    def _workload(self, zone: LiveZone, spec: ZoneSpec, clock: PhaseClock, place: Place) -> LiveWorkload:
        return LiveWorkload(
            *(self._host, self._records, spec, self._zone_folder(spec.id), clock),
            zone=zone,
            place=place,
            storage=self._storage,
            lives=self._lives,
        )

    def _note_launched(self, _launched: asyncio.Future[None]) -> None:
        if all(life.launched.done() for life in self._live.values()):
            self._calm.begin()

    def _sharing(self, zone_id: str) -> list[ZoneRecord]:
        """The workloads in a zone, also those that have ended."""
        return self._records.sharing(zone_id)

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

    def _begin(self, zone: Life, prepare: Callable[[AsyncExitStack], Awaitable[None]]) -> asyncio.Task[None]:
        self._live[zone.spec.id] = zone
        self._calm.end()
        zone.launched.add_done_callback(self._note_launched)
        task = self._lives.create_task(self._live_to_the_end(zone, prepare), name=f"zone {zone.spec.name}")
        self._tasks[zone.spec.id] = task
        return task

    async def _live_to_the_end(self, zone: Life, prepare: Callable[[AsyncExitStack], Awaitable[None]]) -> None:
        """The whole life of a zone; never raises, but for cancellation."""
        failure: BaseException | None = None
        result: ExitResult | None = None
        try:
            async with AsyncExitStack() as stack:
                await prepare(stack)
                state = ZoneState.RUNNING if zone.going.is_set() else ZoneState.PAUSED
                self._records.update(zone.spec.id, state=state, **self._begun(zone))
                zone.launched.set_result(None)
                if isinstance(zone, LiveZone):
                    self._wake_workloads(zone.spec.id)
                async with self._health_asked(zone):
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

    @staticmethod
    def _begun(zone: Life) -> dict[str, Any]:
        """What its record is to say from its start on; of one that was taken over it is known already."""
        if zone.taken_over:
            return {}
        health = Health() if zone.spec.health else None
        return {"started_ns": time.time_ns(), "phases": zone.clock.all(), "health": health}

    @asynccontextmanager
    async def _health_asked(self, zone: Life) -> AsyncGenerator[None]:
        """Within the block its health is asked after, if that is wanted."""
        check = zone.spec.health
        if check is None:
            yield
            return
        monitor = HealthMonitor(zone, check, self._records, self._events)
        asking = self._lives.create_task(monitor.run(), name=f"health of {zone.spec.name}")
        try:
            yield
        finally:
            asking.cancel()
            await asyncio.wait([asking])

    def _conclude(self, zone: Life, result: ExitResult | None, failure: BaseException | None) -> None:
        """Writes down how a zone ended and tells those who wait; everything it held is gone by now."""
        if zone.leaving:
            zone.ended.cancel()
            zone.launched.cancel()
            return
        if isinstance(failure, ZoneFailedError) and isinstance(zone, LiveZone):
            failure = self._with_console(zone, failure)
        if not zone.launched.done() and not zone.taken_over:
            if zone.again:
                status = failure.exit_status if isinstance(failure, ZonalError) else STATUS_REFUSED
                with suppress(ZonalError):
                    record = self._records.get(zone.spec.id)
                    end = ExitResult(status, str(failure or "it could not be started"), zone.clock.all())
                    policy = record.spec.restart if zone.by_policy else NO_RESTART
                    due = after_end(policy, record.restarts, status=status, ran_ns=0)
                    self._note_end(record, end, crashed=False, due=due)
            else:
                self._forget(zone.spec.id)
                self._remove_anonymous(zone.spec)
            _settle(zone.launched, failure or RuntimeError("the launch ended without a word"))
            zone.ended.cancel()
            return
        zone.workload.audiences.end()
        if result is not None and failure is not None:
            log.error("zone %s: not all that it held could be given back: %r", zone.spec.name, failure)
        if result is None:
            reason = str(failure) or "zonald failed; its log says how"
            end = ExitResult(STATUS_REFUSED, reason, zone.clock.all())
        else:
            end = ExitResult(result.status, result.reason, zone.clock.all())
        crashed = result is None
        with suppress(ZonalError):
            record = self._records.get(zone.spec.id)
            ran_ns = time.time_ns() - record.started_ns
            due = after_end(record.spec.restart, record.restarts, status=end.status, ran_ns=ran_ns, crashed=crashed)
            self._note_end(record, end, crashed=crashed, due=due)
        if not zone.kept and result is not None:
            self._forget(zone.spec.id)
            self._remove_anonymous(zone.spec)
        if not zone.launched.done():
            _settle(zone.launched, failure or RuntimeError("it was lost without a word"))
        if result is None and failure is not None:
            _settle(zone.ended, failure)
        else:
            zone.ended.set_result(end)

    async def _launch(self, zone: Life, stack: AsyncExitStack) -> None:
        spec = zone.spec
        image: Path | None = None
        with zone.clock.phase("prepare"):
            if not spec.houses:
                lease = self._images.use(spec.image_id, f"zone {spec.name}")
                stack.callback(lease.release)
                image = lease.held.erofs
            boot: BootFiles | None = None
            if isinstance(zone, LiveZone):
                # Who shares a zone may want a directory of the host in it later.
                shares = spec.houses or any(mount.kind is MountKind.BIND for mount in spec.mounts)
                virt = spec.virt or (Virt.PV if spec.pci else "")
                drivers = (*(SHARE_DRIVERS if shares else ()), *wants_devices(spec.pci))
                boot = await self._boot.boot_files(spec.kernel, drivers, virt, await self._modaliases(spec))
        if isinstance(zone, LiveZone) and boot is not None:
            await self._boot_or_take(zone, stack, boot, image)
        elif isinstance(zone, LiveWorkload) and image is not None:
            await zone.launch(stack, image)
        self._events.emit("start", zone.spec)

    async def _boot_or_take(self, zone: LiveZone, stack: AsyncExitStack, boot: BootFiles, image: Path | None) -> None:
        """By a machine of the pool, if one fits; its console goes on where a zone has none yet."""
        warm = None if zone.again or zone.spec.pci else await self._take(zone.spec, boot)
        if warm is not None:
            stack.push_async_callback(warm.stack.aclose)  # as long as it is not the zone's
            await zone.launch_warm(stack, warm, image)
            return
        waited = zone.clock.now() if self._turns.all_taken else None
        async with self._turns.turn():
            if waited is not None:
                zone.clock.add("wait", waited, zone.clock.now())
            await self.pool.give_way(zone.spec.resources.memory + OVERHEAD)
            await zone.launch(stack, boot, image)

    async def _modaliases(self, spec: ZoneSpec) -> tuple[str, ...]:
        """Of its devices, which its kernel is to have drivers for. Raises what keeps it from having them."""
        if not spec.pci or self._host.devices is None:
            return ()
        return await asyncio.to_thread(self._host.devices.modaliases, spec.pci)

    async def _take(self, spec: ZoneSpec, boot: BootFiles) -> WarmMachine | None:
        if self.pool.warm and not spec.kernel:
            # Its kernel may be one that can do more.
            boot = await self.pool.boot_files(spec.virt)
        return self.pool.take(boot, spec.resources)

    def _with_console(self, zone: LiveZone, failure: ZoneFailedError) -> ZoneFailedError:
        console = read_console(zone.folder)
        if len(console) > zone.machine.console_begin:  # else it was cut meanwhile
            console = console[zone.machine.console_begin :]
        if panic := find_panic(console[-_PANIC_WITHIN:]):
            failure.message = f"{failure.message}: {panic}"
        if tail := quote_console(console[-4096:]):
            failure.message = f"{failure.message}\nthe end of its console:\n{tail}"
        return failure

    def _note_end(self, record: ZoneRecord, end: ExitResult, *, crashed: bool, due: Restarts | None = None) -> None:
        """Writes an end down, and has the restart wait that is ``due``, if any."""
        if end.reason == OUT_OF_MEMORY:
            self._events.emit("oom", record.spec)
        why = {"reason": end.reason.partition("\n")[0]} if end.reason else {}
        self._events.emit("die", record.spec, exitCode=str(end.status), **why)
        if crashed:
            log.warning("zone %s crashed: %s", record.name, end.reason.partition("\n")[0])
        rest = ZoneState.CRASHED if crashed else ZoneState.EXITED
        ended = self._records.update(
            record.id,
            state=ZoneState.RESTARTING if due else rest,
            restarts=due or record.restarts,
            health=replace(record.health, status=HealthStatus.UNHEALTHY) if record.health else None,
            exit_status=end.status,
            reason=end.reason,
            finished_ns=time.time_ns(),
            domain_id=0,
            addresses=(),
            ports=(),
            phases=end.phases or record.phases,
        )
        if due:
            self._restarting.put(ended)

    def _rest(self, record: ZoneRecord) -> bool:
        """Whether it waited for its restart: it does so no more, since somebody wants it to rest."""
        if record.state is not ZoneState.RESTARTING:
            return False
        self._restarting.cancel(record.id)
        state = ZoneState.CRASHED if record.restarts.crashed else ZoneState.EXITED
        self._records.update(record.id, state=state, restarts=replace(record.restarts, by_hand=True))
        return True

    def _forget(self, zone_id: str) -> None:
        """Of a zone that goes, also the workloads that were in it; who still lives follows at its own end."""
        for record in self._sharing(zone_id):
            life = self._live.get(record.id)
            if life is not None:
                life.kept = False
            else:
                self._restarting.cancel(record.id)
                self._forget(record.id)
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

    @asynccontextmanager
    async def _files_at_rest(self, record: ZoneRecord) -> AsyncGenerator[ContainerFiles]:
        """Those of a zone that has ended, by a zone of their own."""
        spec = record.spec
        boot = await self._boot.boot_files(spec.kernel, virt=spec.virt)
        folder = self._zone_folder(record.id)
        with self._images.use(spec.image_id, f"zone {spec.name}") as lease:
            timeout = self._agent_timeout
            image = lease.held.erofs
            async with open_maintenance(self._host, self._memory, boot, spec, folder, image, timeout) as files:
                yield files


def _settle(future: asyncio.Future[None] | asyncio.Future[ExitResult], failure: BaseException) -> None:
    if isinstance(failure, asyncio.CancelledError):
        future.cancel()
        return
    future.set_exception(failure)
    future.exception()  # nobody may be waiting, and that is no fault


def read_boot_id() -> str:
    """Of the host, another with each of its boots."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
