"""The life of zones with restart policies, on processes of this machine in place of domains."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.daemon.local_images import LocalImages
from zonal.errors import ResourceExhaustedError, WrongStateError, ZoneFailedError
from zonal.images.healthcheck import HealthCheck
from zonal.xen import domctl
from zonal.zones import recovery
from zonal.zones.boot_files import BootFiles
from zonal.zones.events import EventLog
from zonal.zones.health import HealthStatus
from zonal.zones.host import XenHost
from zonal.zones.life import Life
from zonal.zones.lifecycle import ZoneManager
from zonal.zones.live_zone import LiveZone
from zonal.zones.names import make_id
from zonal.zones.phases import PhaseClock
from zonal.zones.restart import RestartKind, RestartPolicy
from zonal.zones.running import AttachedZone
from zonal.zones.spec import ZoneRecord, ZoneSpec, ZoneState, ZoneUpdate
from zonal.zones.state import ZoneStore

ALWAYS = RestartPolicy(RestartKind.ALWAYS)
UNLESS = RestartPolicy(RestartKind.UNLESS_STOPPED)
ON_FAILURE = RestartPolicy(RestartKind.ON_FAILURE, 2)
PANIC = 66
"""A process that ends so stands for a kernel that has panicked."""


class LocalLife(LiveZone):
    """A zone whose workload is a process, and that has nothing else."""

    process: asyncio.subprocess.Process

    async def launch(self, stack: AsyncExitStack, boot: BootFiles, image: Path | None) -> None:
        if (self.folder.parent / "full").exists():
            raise ResourceExhaustedError("there is no memory", hint="stop a zone")
        self.process = await asyncio.create_subprocess_exec(*self.spec.command, cwd=self.folder.parent)

    async def until_end(self) -> Any:
        from zonal.zones.spec import ExitResult

        try:
            status = await self.process.wait()
        except asyncio.CancelledError:
            self.process.kill()
            raise
        if status == PANIC:
            raise ZoneFailedError("its kernel crashed")
        return ExitResult(128 - status if status < 0 else status)

    async def _send(self, number: int) -> None:
        self.process.send_signal(number)

    async def destroy(self, why: str) -> None:
        self.mark_stopped()
        self.process.kill()
        await self.gone()

    async def probe(self, command: tuple[str, ...]) -> Any:
        raise WrongStateError("nobody answers")


class LocalManager(ZoneManager):
    """All of it but Xen."""

    def _zone(self, spec: ZoneSpec, clock: PhaseClock) -> LiveZone:
        return LocalLife(
            *(self._host, self._records, spec, self._zone_folder(spec.id), clock),
            storage=self._storage,
            attachments=self._attachments,
            memory=self._memory,
            agent_timeout=1,
            lives=self._lives,
        )

    async def _launch(self, zone: Life, stack: AsyncExitStack) -> None:
        assert isinstance(zone, LiveZone)
        self._zone_folder(zone.spec.id).mkdir(exist_ok=True)
        await zone.launch(stack, cast("BootFiles", None), Path("/"))
        self._events.emit("start", zone.spec)

    async def _remove_stale_directories(self) -> None:
        pass


class Nothing:
    """Stands for what nothing is asked of."""

    def __getattr__(self, name: str) -> Any:
        return None

    async def recover(self, ids: list[str]) -> None:
        assert not ids


class Zones:
    """One daemon's zones."""

    def __init__(self, manager: LocalManager, records: ZoneStore, events: EventLog, folder: Path) -> None:
        self.manager = manager
        self.records = records
        self.events = events
        self.folder = folder

    async def run(self, script: str, policy: RestartPolicy, **values: Any) -> str:
        """Its id."""
        image = LocalImages().resolve("local:1").id
        command = ("sh", "-c", script)
        spec = ZoneSpec(make_id(), f"z{make_id()[:8]}", "local:1", image, "/", command, (), restart=policy, **values)
        zone = await self.manager.run(spec, arrived_ns=0)
        assert isinstance(zone, AttachedZone)
        return zone.id

    async def until(self, zone_id: str, holds: Callable[[ZoneRecord], bool]) -> ZoneRecord:
        async with asyncio.timeout(20):
            while not holds(self.records.get(zone_id)):  # noqa: ASYNC110  # what changes is a file
                await asyncio.sleep(0.01)
        return self.records.get(zone_id)

    def actions(self, zone_id: str) -> list[str]:
        kept = self.events._kept  # pyright: ignore[reportPrivateUsage]
        return [event.action for event in kept if event.zone_id == zone_id]


@asynccontextmanager
async def daemon(folder: Path) -> AsyncGenerator[Zones]:
    (folder / "zones").mkdir(exist_ok=True)
    with ZoneStore.open(folder / "state.sqlite") as records, EventLog(folder) as events:
        nothing = cast("Any", Nothing())
        host = cast("XenHost", nothing)
        async with asyncio.TaskGroup() as lives:
            manager = LocalManager(
                *(host, cast("Any", LocalImages()), nothing, nothing, records, nothing, folder / "zones", lives),
                agent_timeout=1,
                reserve=0,
                events=events,
            )
            await manager.take_back()
            yield Zones(manager, records, events, folder / "zones")
            await manager.leave()


@pytest.fixture(autouse=True)
def no_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_hypervisor: object) -> list[domctl.DomainInfo]:
        return []

    monkeypatch.setattr(domctl, "list_domains", none)


async def test_failures_are_undone_to_the_bound_and_then_stay(tmp_path: Path) -> None:
    async with daemon(tmp_path) as zones:
        zone = await zones.run("exit 3", ON_FAILURE)
        record = await zones.until(zone, lambda record: record.state is ZoneState.EXITED)
        assert (record.restarts.count, record.exit_status) == (2, 3)
        assert zones.actions(zone) == ["create", "start", "die", "start", "restart", "die", "start", "restart", "die"]
        assert (await zones.manager.wait(zone)).status == 3
        await zones.manager.start(zone)
        record = await zones.until(zone, lambda record: record.state is ZoneState.EXITED)
        assert record.restarts.count == 2


async def test_a_panic_is_a_failure_and_a_zone_that_rests_after_one_has_crashed(tmp_path: Path) -> None:
    async with daemon(tmp_path) as zones:
        zone = await zones.run(f"exit {PANIC}", RestartPolicy(RestartKind.ON_FAILURE, 1))
        record = await zones.until(zone, lambda record: record.state is ZoneState.CRASHED)
        assert (record.restarts.count, record.exit_status, record.reason) == (1, 125, "its kernel crashed")
        zone = await zones.run(f"exit {PANIC}", ALWAYS)
        await zones.until(zone, lambda record: record.state is ZoneState.RESTARTING)
        await zones.manager.stop(zone, 1)
        assert (await zones.manager.find(zone)).state is ZoneState.CRASHED


async def test_a_success_is_not_undone_by_on_failure(tmp_path: Path) -> None:
    async with daemon(tmp_path) as zones:
        zone = await zones.run("exit 0", ON_FAILURE)
        record = await zones.until(zone, lambda record: record.state is ZoneState.EXITED)
        assert record.restarts.count == 0


@pytest.mark.parametrize("policy", [ALWAYS, UNLESS, RestartPolicy(RestartKind.ON_FAILURE)], ids=str)
async def test_who_stops_a_zone_by_hand_is_obeyed(tmp_path: Path, policy: RestartPolicy) -> None:
    async with daemon(tmp_path) as zones:
        for number in (0, signal.SIGKILL, signal.SIGINT):
            zone = await zones.run("trap 'exit 5' TERM INT; while :; do sleep 0.02; done", policy)
            await asyncio.sleep(0.1)
            await (zones.manager.kill(zone, number) if number else zones.manager.stop(zone, 5))
            await zones.until(zone, lambda record: record.state is ZoneState.EXITED)
            await asyncio.sleep(0.3)
            record = await zones.manager.find(zone)
            assert (record.state, record.restarts.count) == (ZoneState.EXITED, 0)


async def test_other_signals_leave_the_policy_as_it_is(tmp_path: Path) -> None:
    async with daemon(tmp_path) as zones:
        zone = await zones.run("trap 'exit 5' HUP; while :; do sleep 0.02; done", ALWAYS)
        await asyncio.sleep(0.1)
        await zones.manager.kill(zone, signal.SIGHUP)
        await zones.until(zone, lambda record: record.restarts.count == 1 and record.state is ZoneState.RUNNING)
        await zones.manager.remove(zone, force=True)
        assert zones.records.list() == []


async def test_a_zone_that_waits_can_be_stopped_started_updated_and_removed(tmp_path: Path) -> None:
    async with daemon(tmp_path) as zones:

        async def waiting() -> str:
            zone = await zones.run("test -e stay || exit 3; exec sleep 1000", ALWAYS)
            # From the third on, a delay is of 400 ms and more.
            await zones.until(zone, lambda record: record.state is ZoneState.RESTARTING and record.restarts.count >= 3)
            return zone

        zone = await waiting()
        with pytest.raises(WrongStateError, match="is restarting"):
            await zones.manager.remove(zone, force=False)
        with pytest.raises(WrongStateError, match="is restarting"):
            await zones.manager.kill(zone, signal.SIGUSR1)
        assert (await zones.manager.wait(zone)).status == 3
        await zones.manager.remove(zone, force=True)
        await zones.manager.stop(await waiting(), 1)
        await zones.manager.kill(await waiting(), signal.SIGKILL)
        change = ZoneUpdate(restart=RestartPolicy())
        assert (await zones.manager.update(await waiting(), change)).state is ZoneState.EXITED
        await asyncio.sleep(0.6)
        assert {record.state for record in zones.records.list()} == {ZoneState.EXITED}
        zone = await waiting()
        (zones.folder / "stay").touch()
        await zones.manager.start(zone)
        record = await zones.manager.find(zone)
        assert (record.state, record.restarts.count) == (ZoneState.RUNNING, 0)
        await zones.manager.remove(zone, force=True)


async def test_a_start_that_fails_is_tried_again(tmp_path: Path) -> None:
    async with daemon(tmp_path) as zones:
        zone = await zones.run("test -e stay || exit 3; exec sleep 1000", ALWAYS)
        (zones.folder / "full").touch()
        record = await zones.until(zone, lambda record: record.restarts.count == 3)
        assert record.reason.startswith("there is no memory") or record.state is ZoneState.CREATING
        (zones.folder / "stay").touch()
        (zones.folder / "full").unlink()
        await zones.until(zone, lambda record: record.state is ZoneState.RUNNING)
        # One that somebody tries to start is not.
        await zones.manager.stop(zone, 5)
        (zones.folder / "full").touch()
        with pytest.raises(ResourceExhaustedError):
            await zones.manager.start(zone)
        await asyncio.sleep(0.3)
        assert (await zones.manager.find(zone)).state is ZoneState.EXITED


async def test_the_next_daemon_goes_on_with_what_was_due(tmp_path: Path) -> None:
    async with daemon(tmp_path) as zones:
        waits = await zones.run("exit 3", ON_FAILURE)
        await zones.until(waits, lambda record: record.state is ZoneState.RESTARTING and record.restarts.count == 2)
    async with daemon(tmp_path) as zones:
        record = await zones.until(waits, lambda record: record.state is ZoneState.EXITED)
        assert (record.restarts.count, record.exit_status) == (2, 3)


@pytest.mark.parametrize("rebooted", [False, True])
async def test_what_is_lost_with_the_daemon(tmp_path: Path, rebooted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = (RestartPolicy(), ON_FAILURE, ALWAYS, UNLESS)
    async with daemon(tmp_path) as zones:
        runs = [await zones.run("exec sleep 1000", policy) for policy in policies]
        stopped = [await zones.run("exec sleep 1000", policy) for policy in policies]
        for zone in stopped:
            await zones.manager.kill(zone, signal.SIGKILL)
            await zones.until(zone, lambda record: record.state is ZoneState.EXITED)
    if rebooted:
        monkeypatch.setattr(recovery, "read_boot_id", lambda: "another")
    async with daemon(tmp_path) as zones:
        lost = zones.records.get(runs[0])
        reason = "the host was restarted" if rebooted else "its domain was gone when zonald started"
        assert (lost.state, lost.exit_status, lost.reason) == (ZoneState.CRASHED, 255, reason)
        # After a boot nothing has failed: on-failure is for workloads that do.
        if rebooted:
            assert zones.records.get(runs[1]).state is ZoneState.CRASHED
        else:
            await zones.until(runs[1], lambda record: record.state is ZoneState.RUNNING)
        for zone in (runs[2], runs[3], stopped[2]):
            await zones.until(zone, lambda record: record.state is ZoneState.RUNNING)
        assert [zones.records.get(stopped[place]).state for place in (0, 1, 3)] == [ZoneState.EXITED] * 3


async def test_health_begins_anew_with_each_start_and_ends_with_the_zone(tmp_path: Path) -> None:
    check = HealthCheck(("CMD", "true"), interval_ns=10**8, retries=1)
    async with daemon(tmp_path) as zones:
        zone = await zones.run("exec sleep 1000", UNLESS, health=check)
        health = zones.records.get(zone).health
        assert health
        assert health.status is HealthStatus.STARTING
        record = await zones.until(zone, lambda record: bool(record.health and record.health.results))
        assert record.health
        assert record.health.results[0].output == "nobody answers"
        await zones.manager.restart(zone, 5)
        health = zones.records.get(zone).health
        assert health
        assert health.status is HealthStatus.STARTING
        await zones.manager.stop(zone, 5)
        health = zones.records.get(zone).health
        assert health
        assert health.status is HealthStatus.UNHEALTHY
