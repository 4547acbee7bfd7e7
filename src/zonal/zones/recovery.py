"""Zones after a restart of the daemon: taken over, undone where half made, or written down.

A zone is recorded before anything is made for it, and its domain carries the zone's id as its handle; so whatever a
killed daemon has left can be told apart, finished or undone by the next one.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from contextlib import AsyncExitStack, suppress

from zonal.errors import NotFoundError, ZonalError
from zonal.images.image import Image
from zonal.images.lease import Lease
from zonal.shares.process import ShareServer
from zonal.xen import domctl
from zonal.xen.domain import HOST_ID, backed_domains, destroy_domain, domain_path, remove_from_store
from zonal.xen.domctl import DomainInfo
from zonal.zones.live_workload import known_place
from zonal.zones.live_zone import LiveZone
from zonal.zones.lives import ZoneLives, read_boot_id
from zonal.zones.machine import domain_uuid
from zonal.zones.phases import PhaseClock
from zonal.zones.pool import POOL_ID
from zonal.zones.restart import NO_RESTARTS_YET, Restarts, after_end, with_daemon
from zonal.zones.spec import ExitResult, ZoneRecord, ZoneState

log = logging.getLogger(__name__)

GONE_STATUS = 255
"""Exit status of a workload whose end nobody saw: that of docker for a container lost with its host."""


class RecoveredZones(ZoneLives):
    """All zones' lives, also those that another daemon began."""

    async def take_back(self) -> None:
        """After a start: zones that run are taken over, what was half made is undone, the rest is written down."""
        domains = {info.handle: info for info in domctl.list_domains(self._host.hypervisor) if info.domain_id}
        await self._attachments.recover(
            [
                record.id
                for record in self._records.list()
                if record.state in (ZoneState.RUNNING, ZoneState.STOPPING)
                and (info := domains.get(domain_uuid(record.id).bytes)) is not None
                and not info.dying
            ]
        )
        for info in domains.values():
            if info.handle.hex().startswith(POOL_ID):
                await destroy_domain(self._host.hypervisor, self._host.store, info.domain_id)
        for record in self._records.list():
            if record.spec.zone:
                continue  # with its zone, or after all of them
            info = domains.pop(domain_uuid(record.id).bytes, None)
            try:
                await self._take_back_one(record, info)
            except ZonalError as error:
                log.error("zone %s cannot be taken back: %s", record.name, error)
        for record in self._records.list():
            if record.spec.zone and record.id not in self._live:
                await ShareServer(self._zone_folder(record.id)).stop()  # it holds pages of the zone
                self._write_down(record)
        await self._remove_stale_directories()
        self._restarting.begin()

    async def leave(self) -> None:
        """Lets go of all zones without touching them."""
        self._maintenance.leave()
        await self.pool.leave()
        self._restarting.leave()
        for zone in self._live.values():
            zone.leaving = True
        for task in self._tasks.values():
            task.cancel()

    async def _take_back_one(self, record: ZoneRecord, info: DomainInfo | None) -> None:
        if info is None or info.dying or not record.state.alive or record.state is ZoneState.CREATING:
            await ShareServer(self._zone_folder(record.id)).stop()  # it holds pages of the zone
            if info is not None:
                await destroy_domain(self._host.hypervisor, self._host.store, info.domain_id)
            self._write_down(record)
            return
        zone = self._zone(record.spec, PhaseClock(time.monotonic_ns()))
        domain_id = zone.domain_id = info.domain_id
        zone.adopt_devices(domain_id)
        if info.paused:
            zone.met.clear()
            self._records.update(record.id, state=ZoneState.PAUSED)
        port = await self._host.store.read_int(f"{domain_path(domain_id)}/console/port", 1, 1 << 20)
        epoch = os.urandom(8).hex()
        lease = None if record.spec.houses else self._images.use(record.spec.image_id, f"zone {record.name}")
        for each in self._sharing(record.id):
            # Known before the zone's agent is met: where their streams go on is said to it at once.
            if each.state.alive and each.first_stream:
                self._take_back_workload(zone, each)

        async def take_over(stack: AsyncExitStack) -> None:
            if lease is not None:
                stack.callback(lease.release)
            await zone.take_over(stack, domain_id, port, epoch, record.attached)
            log.info("zone %s taken over, domain %d", record.name, domain_id)

        self._begin(zone, take_over)

    def _take_back_workload(self, zone: LiveZone, record: ZoneRecord) -> None:
        """One in a zone that runs; what was half started is undone."""
        clock = PhaseClock(time.monotonic_ns())
        life = self._workload(zone, record.spec, clock, known_place(zone, record))
        life.again = record.state is ZoneState.CREATING and record.started_ns > 0
        lease: Lease[Image] | None = None
        with suppress(NotFoundError):
            lease = self._images.use(record.spec.image_id, f"zone {record.name}")

        async def take_over(stack: AsyncExitStack) -> None:
            if lease is not None:
                stack.callback(lease.release)
            await life.take_over(stack, record)

        self._begin(life, take_over)

    def _write_down(self, record: ZoneRecord) -> None:
        """What became of a zone that has no domain any more."""
        if not record.state.alive:
            self._resume_restart(record)
        elif record.state is ZoneState.CREATING and record.started_ns:
            # It was about to be started again: what it was before stays.
            self._lost(record, "zonald ended while the zone was started", ran_ns=0)
        elif record.state is ZoneState.CREATING:
            # The client that asked for it has seen its call fail: nothing is to be left.
            self._forget(record.id)
        elif record.boot_id == read_boot_id():
            self._lost(record, "its domain was gone when zonald started", ran_ns=time.time_ns() - record.started_ns)
        else:
            due = NO_RESTARTS_YET if with_daemon(record.spec.restart, record.restarts) else None
            self._note_end(record, ExitResult(GONE_STATUS, "the host was restarted"), crashed=True, due=due)

    def _lost(self, record: ZoneRecord, reason: str, *, ran_ns: int) -> None:
        due = after_end(record.spec.restart, record.restarts, status=GONE_STATUS, ran_ns=ran_ns, crashed=True)
        self._note_end(record, ExitResult(GONE_STATUS, reason), crashed=True, due=due)

    def _resume_restart(self, record: ZoneRecord) -> None:
        """Of a zone that rests, or waited when the daemon before was gone."""
        if record.state is ZoneState.CREATED:
            return
        if record.state is ZoneState.RESTARTING:
            self._restarting.put(record)
        elif with_daemon(record.spec.restart, record.restarts):
            crashed = record.state is ZoneState.CRASHED
            due = Restarts(crashed=crashed)
            self._restarting.put(self._records.update(record.id, state=ZoneState.RESTARTING, restarts=due))

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
