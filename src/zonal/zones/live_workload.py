"""A workload in a zone that others share: put into it, watched until its end, and taken out, while the zone goes on.

It has a root, a scratch disk, mounts, a control group and a log of its own. Network, hostname and IPC are the zone's;
processes see each other only where that is asked for. Its disks are plugged into the domain that runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zonal.errors import InvalidInputError, ResourceExhaustedError, WrongStateError, ZonalError, ZoneFailedError
from zonal.xen.devices.vbd import Disk, plan_vbd, vbd
from zonal.xen.devices.xenbus import detach
from zonal.zones.figures import parse_figures
from zonal.zones.host import XenHost
from zonal.zones.life import CALL_TIMEOUT, KILL_TIMEOUT, STATUS_KILLED, Life
from zonal.zones.live_zone import LiveZone
from zonal.zones.mounts import SHARED_DISKS
from zonal.zones.oci_linux import is_of_container
from zonal.zones.phases import PhaseClock
from zonal.zones.resources import Resources
from zonal.zones.runtime_options import Limits
from zonal.zones.session import SessionEndedError
from zonal.zones.spec import SHORT_ID, ExitResult, ZoneRecord, ZoneSpec, ZoneState, ZoneStatistics
from zonal.zones.state import ZoneStore
from zonal.zones.storage import CONNECT_TIMEOUT, StorageSources, ZoneStorage
from zonal.zones.workload import SIGKILL, Workload
from zonal.zones.workload_limits import CPU_PERIOD_US

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

log = logging.getLogger(__name__)

_FIRST_STREAM, _MOST = 4, 64


@dataclass(frozen=True)
class Place:
    """What it has of its zone's: names of its disks (empty for none), and the number of its first stream."""

    image_disk: str
    scratch_disk: str
    first_stream: int

    @property
    def names(self) -> tuple[str, ...]:
        """As the zone's allotments know them."""
        disks = (self.image_disk, self.scratch_disk)
        return (*(name for name in disks if name), f"streams-{self.first_stream}")


def take_place(zone: LiveZone, spec: ZoneSpec) -> Place:
    """For a workload to be. Raises ``ResourceExhaustedError`` when the zone has as many as it can have."""
    image = zone.allotments.take(SHARED_DISKS)
    scratch = zone.allotments.take(SHARED_DISKS) if spec.storage_bytes else ""
    streams = zone.allotments.take(f"streams-{_FIRST_STREAM + 3 * number}" for number in range(_MOST))
    if image is None or scratch is None or streams is None:
        for name in filter(None, (image, scratch, streams)):
            zone.allotments.give_back(name)
        raise ResourceExhaustedError(f"zone {zone.spec.name} has no room for another workload", hint="use another zone")
    return Place(image, scratch, int(streams.removeprefix("streams-")))


def known_place(zone: LiveZone, record: ZoneRecord) -> Place:
    """Of a workload that an earlier daemon has put there."""
    image, scratch = record.disks
    place = Place(image, scratch, record.first_stream)
    for name in place.names:
        zone.allotments.claim(name)
    return place


class LiveWorkload(Life):
    """See the module."""

    def __init__(
        self,
        host: XenHost,
        records: ZoneStore,
        spec: ZoneSpec,
        folder: Path,
        clock: PhaseClock,
        *,
        zone: LiveZone,
        place: Place,
        storage: StorageSources,
        lives: asyncio.TaskGroup,
    ) -> None:
        """``zone`` is the one that it shares; ``place`` is given back at its end."""
        disks = ZoneStorage(
            *(host, storage, records, spec, folder, zone.allotments),
            scratch_disk=place.scratch_disk,
            disks=SHARED_DISKS,
        )
        workload = Workload(spec.id[:SHORT_ID], place.first_stream)
        super().__init__(*(host, records, spec, folder, clock), workload=workload, storage=disks, lives=lives)
        self.zone = zone
        self.logs_open = asyncio.Event()
        """Set when it is known how much of its output is safe, or will never be."""
        self._known_end: ExitResult | None = None
        """Of one that ended under an earlier daemon."""
        self._place = place
        zone.workloads[spec.id] = self

    async def launch(self, stack: AsyncExitStack, image: Path) -> None:
        """From nothing to a started workload. Raises ``ZonalError``; the stack undoes what was done."""
        spec, clock = self.spec, self.clock
        self._begin(stack)
        own = [name for name, _ in spec.runtime.sysctls if not is_of_container(name, spec.runtime.namespaces)]
        if own:
            raise InvalidInputError(
                f"{own[0]} belongs to the zone, which others share", hint="set it where the zone is made"
            )
        zone_session = self.zone.running_session()
        self.domain_id = self.zone.domain_id
        with clock.phase("disks"):
            self.workload.open_log(stack, self.folder, spec).begin_again()
            self._records.update(
                spec.id,
                domain_id=self.domain_id,
                kernel_release=self._records.get(self.zone.spec.id).kernel_release,
                disks=(self._place.image_disk, self._place.scratch_disk),
                first_stream=self._place.first_stream,
            )
            loop = stack.enter_context(self._host.loops.acquire(image))
            disk = Disk(self._place.image_disk, loop.path, loop.device)
            plans = [partial(plan_vbd, disk=disk), *await self._storage.open_at_launch(stack)]
            stack.push_async_callback(self._unplug)
            await self._plug(plans, (self._place.image_disk,))
        self._session = zone_session
        with clock.phase("container"):
            stack.push_async_callback(self._clear_away)
            await self._prepare(zone_session, self._place.image_disk)
            await self._start_workload(zone_session)

    async def take_over(self, stack: AsyncExitStack, record: ZoneRecord) -> None:
        """From one that another daemon has left in the zone to the same state as after ``launch``.

        Raises ``ZoneFailedError`` when the zone cannot be taken over, or has never started it.
        """
        self.taken_over = record.started_ns > 0 and not self.again
        self._begin(stack)
        self.workload.open_log(stack, self.folder, self.spec)
        self._storage.take_over(stack, record.attached)
        self.logs_open.set()
        await asyncio.wait([self.zone.launched])
        if self.zone.launched.cancelled() or self.zone.launched.exception() is not None:
            raise ZoneFailedError(f"its zone {self.zone.spec.name} could not be taken over")
        self.domain_id = self.zone.domain_id
        session = self._session = self.zone.running_session()
        stack.push_async_callback(self._unplug)
        stack.push_async_callback(self._clear_away)
        if not self.taken_over:
            raise ZoneFailedError("zonald ended while it was started")
        if record.finished_ns > record.started_ns:
            self._known_end = ExitResult(record.exit_status, record.reason)
        elif self.workload.name not in {each.name for each in self.zone.found}:
            raise ZoneFailedError(f"zone {self.zone.spec.name} knows nothing of it any more")
        if self._known_end is None:
            self.workload.take_over(session, self.spec)
        if record.state is ZoneState.PAUSED:
            self.going.clear()
        self.execs.take_over(session, self.zone.found)
        self._leave_execs(stack)

    async def until_end(self) -> ExitResult:
        """See ``Life``. When its zone ends, so does it."""
        assert self._session is not None
        begin = self.clock.now()
        end = self._known_end
        try:
            if end is None:
                end = await self.workload.carry(self._session)
        except* SessionEndedError:
            pass
        self.clock.add("run", begin, self.clock.now())
        if end is None:
            return await self._end_of_zone()
        # Once the agent has forgotten it, nobody but this record knows.
        self._records.update(self.spec.id, exit_status=end.status, reason=end.reason, finished_ns=time.time_ns())
        return ExitResult(end.status, self.doom or end.reason)

    async def stop(self, number: int, timeout: float) -> None:
        """See ``Life``; one that stands still would not hear of it."""
        if not self.going.is_set():
            await self.unpause()
        await super().stop(number, timeout)

    async def pause(self) -> None:
        """See ``Life``: its control group is frozen."""
        await self.workload.hold(self.running_session(), held=True)
        self.going.clear()
        self.pauses += 1

    async def unpause(self) -> None:
        """See ``Life``."""
        await self.workload.hold(self.running_session(), held=False)
        self.going.set()

    async def destroy(self, why: str) -> None:
        """See ``Life``. A zone that does not do it is beyond help, and is destroyed."""
        self.mark_stopped()
        self.doom = self.doom or why
        with suppress(ZonalError):
            await self.workload.signal(self.running_session(), SIGKILL)
            await asyncio.wait([self.ended], timeout=KILL_TIMEOUT)
        if not self.ended.done():
            log.warning("zone %s does not end its workload %s", self.zone.spec.name, self.spec.name)
            await self.zone.destroy(f"it did not end its workload {self.spec.name}")
        await self.gone()

    async def statistics(self, *, ask: bool) -> ZoneStatistics:
        """See ``Life``: what the zone says of its control group."""
        said: object = {}
        now_ns = time.monotonic_ns()
        if ask:
            wanted: dict[str, Value] = {"container": self.workload.name, "figures": True}
            said = await self.running_session().call("statistics", wanted, CALL_TIMEOUT)
        zone = await self.zone.statistics(ask=False)
        limits = self.spec.runtime.limits

        def number(name: str, most: int) -> int:
            value = said.get(name) if isinstance(said, Mapping) else None
            return min(max(value, 0), most) if isinstance(value, int) else 0

        return ZoneStatistics(
            time_ns=now_ns,
            cpu_time_ns=number("cpu_ns", zone.cpu_time_ns),
            memory_bytes=number("memory", zone.memory_held_bytes),
            memory_limit_bytes=limits.memory_bytes or zone.memory_limit_bytes,
            memory_held_bytes=number("memory", zone.memory_held_bytes),
            cpus=zone.cpus,
            processes=number("processes", 1 << 22),
            figures=parse_figures(said.get("figures")) if isinstance(said, Mapping) else None,
        )

    async def change_resources(self, wanted: Resources) -> None:
        """See ``Life``: it has none of its own."""
        raise WrongStateError(f"{self.spec.name} has a part of zone {self.zone.spec.name}, and no machine of its own")

    async def change_limits(self, limits: Limits) -> None:
        """Bounds its control group. Raises ``ZonalError``."""
        period = limits.cpu_period_us or CPU_PERIOD_US
        params: dict[str, Value] = {"id": self.workload.name, "memory": limits.memory_bytes}
        params |= {"quota": limits.cpu_quota_us, "period": period, "shares": limits.cpu_shares}
        await self.running_session().call("limit", params, CALL_TIMEOUT)
        self.spec = replace(self.spec, runtime=replace(self.spec.runtime, limits=limits))

    def _begin(self, stack: AsyncExitStack) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.callback(self._leave_zone)

    def _leave_zone(self) -> None:
        self.logs_open.set()
        if not self.leaving:
            self.zone.workloads.pop(self.spec.id, None)
            for name in self._place.names:
                self.zone.allotments.give_back(name)

    async def _clear_away(self) -> None:
        """Ends it in the zone, if it has not ended, and has the agent forget it and let go of its disks."""
        if self.leaving:
            return
        session, name = self._session, self.workload.name
        if session is None or session.end_reason is not None:
            return
        with self.clock.phase("storage"):
            with suppress(ZonalError, TimeoutError):
                await self.workload.signal(session, SIGKILL)  # also of one that stands still
                async with asyncio.timeout(KILL_TIMEOUT):
                    await session.wait_exited(name)
            await self.execs.finish()
            try:
                await self._storage.vacate(session, self.domain_id, runs=True)
                with suppress(ZonalError):
                    await self.workload.forget(session)
                await session.call("remove_root", {"id": name}, CALL_TIMEOUT)
            except ZonalError as error:
                log.info("zone %s: %s has left something there: %s", self.zone.spec.name, self.spec.name, error)

    async def _unplug(self) -> None:
        """Takes its disks out of the domain; of one that is gone, waits until nobody has them."""
        if self.leaving:
            return
        session = self._session
        if session is None or session.end_reason is not None:
            await self.close_before_domain()
            await self.zone.machine.gone.wait()
            return
        devices = [vbd(self.domain_id, Disk(name, Path(), 0)) for name in self._disk_names]
        try:
            await detach(self._host.store, devices, timeout=CONNECT_TIMEOUT, zone_runs=True)
        except ZonalError as error:
            log.warning("zone %s keeps disks of %s: %s", self.zone.spec.name, self.spec.name, error)
        await self.close_before_domain()

    @property
    def _disk_names(self) -> tuple[str, ...]:
        return tuple(name for name in (self._place.image_disk, self._place.scratch_disk) if name)

    @property
    def disk_names(self) -> tuple[str, ...]:
        """Of all disks that the zone has for it."""
        return (*self._disk_names, *(each.disk for each in self._storage.mounted if each.disk))

    async def _end_of_zone(self) -> ExitResult:
        """Why its zone has ended. Raises ``ZoneFailedError`` when nobody wanted that."""
        zone = self.zone
        await zone.gone()
        if zone.ended.cancelled():
            raise ZoneFailedError(f"its zone {zone.spec.name} was lost")
        failure = zone.ended.exception()
        if failure is not None:
            raise ZoneFailedError(f"its zone failed: {str(failure).partition(chr(10))[0]}")
        return ExitResult(STATUS_KILLED, f"its zone {zone.spec.name} has ended")


def check_room(zone: Life | None, spec: ZoneSpec) -> LiveZone:
    """The zone that a workload is to be put into. Raises ``WrongStateError`` when it does not run."""
    runs = isinstance(zone, LiveZone) and zone.launched.done() and not zone.launched.cancelled()
    if not isinstance(zone, LiveZone) or not runs or zone.launched.exception() is not None or zone.ending:
        raise WrongStateError(
            f"the zone that {spec.name} is to share does not run", hint="start it first: zonal start ZONE"
        )
    return zone
