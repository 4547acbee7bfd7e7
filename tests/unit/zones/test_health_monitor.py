"""Probes as processes of this machine, in place of those in a zone."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.unit.zones.test_state import record
from zonal.errors import CommandNotFoundError
from zonal.images.healthcheck import HealthCheck
from zonal.zones.events import EventLog
from zonal.zones.health import MAX_OUTPUT, Health, HealthStatus
from zonal.zones.health_monitor import HealthMonitor
from zonal.zones.spec import ExitResult, OutputChunk, ZoneState
from zonal.zones.state import ZoneStore

MS = 10**6


class LocalProbe:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def output(self) -> AsyncIterator[OutputChunk]:
        assert self._process.stdout
        while data := await self._process.stdout.read(1000):
            yield 1, data

    async def wait(self) -> ExitResult:
        status = await self._process.wait()
        return ExitResult(128 - status if status < 0 else status)

    async def kill_all(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class LocalProbed:
    """A zone of which only the record is there."""

    def __init__(self) -> None:
        self.spec = record().spec
        self.going = asyncio.Event()
        self.going.set()
        self.pauses = 0
        self.ending = False
        self.begun = 0
        self._changed = asyncio.Event()

    async def has_begun(self, number: int) -> None:
        while self.begun < number:
            self._changed.clear()
            await self._changed.wait()

    async def probe(self, command: tuple[str, ...]) -> LocalProbe:
        self.begun += 1
        self._changed.set()
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
            )
        except FileNotFoundError as error:
            raise CommandNotFoundError(f"{command[0]!r} is not in the image") from error
        return LocalProbe(process)


class Asked:
    """A monitor at work, and what it has come to."""

    def __init__(self, zone: LocalProbed, store: ZoneStore, events: EventLog) -> None:
        self.zone = zone
        self._store = store
        self._events = events

    @property
    def health(self) -> Health:
        found = self._store.get(self.zone.spec.id).health
        assert found
        return found

    async def until(self, holds: Callable[[Health], bool]) -> Health:
        async with asyncio.timeout(30):
            while not holds(self.health):  # noqa: ASYNC110  # what changes is a file
                await asyncio.sleep(0.02)
        return self.health


@asynccontextmanager
async def asked(folder: Path, check: HealthCheck) -> AsyncGenerator[Asked]:
    with ZoneStore.open(folder / "state.sqlite") as store, EventLog(folder) as events:
        store.add(record())
        store.update("a" * 64, state=ZoneState.RUNNING, health=Health())
        zone = LocalProbed()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(HealthMonitor(zone, check, store, events).run())
            yield Asked(zone, store, events)
            task.cancel()


def shell(line: str, *, timeout_ns: int = 0, retries: int = 0) -> HealthCheck:
    return HealthCheck(("CMD-SHELL", line), interval_ns=100 * MS, timeout_ns=timeout_ns, retries=retries)


def actions(folder: Path) -> list[str]:
    lines = (folder / "events.jsonl").read_text().split('"action": "')[1:]
    return [line.partition('"')[0] for line in lines]


async def test_a_workload_becomes_healthy_unhealthy_and_healthy_again(tmp_path: Path) -> None:
    well = tmp_path / "well"
    well.touch()
    async with asked(tmp_path, shell(f"echo asked; test -e {well}", retries=2)) as monitor:
        health = await monitor.until(lambda health: health.status is HealthStatus.HEALTHY)
        assert (health.results[0].exit_status, health.results[0].output) == (0, "asked\n")
        assert health.results[0].start_ns <= health.results[0].end_ns
        well.unlink()
        health = await monitor.until(lambda health: health.status is HealthStatus.UNHEALTHY)
        assert health.failing_streak == 2
        well.touch()
        await monitor.until(lambda health: health.status is HealthStatus.HEALTHY)
        assert len((await monitor.until(lambda health: len(health.results) == 5)).results) == 5
    told = [f"health_status: {status}" for status in ("healthy", "unhealthy", "healthy")]
    assert actions(tmp_path) == told


async def test_output_is_bounded_and_need_not_be_text(tmp_path: Path) -> None:
    async with asked(tmp_path, shell("head -c 1000000 /dev/zero | tr '\\0' '\\377'")) as monitor:
        health = await monitor.until(lambda health: bool(health.results))
    assert health.results[0].output == "\N{REPLACEMENT CHARACTER}" * MAX_OUTPUT


async def test_a_probe_that_takes_too_long_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    line = f"echo so far; sleep 1000 & echo $! > {tmp_path}/child; wait"
    async with asked(tmp_path, shell(line, timeout_ns=300 * MS, retries=1)) as monitor:
        health = await monitor.until(lambda health: bool(health.results))
        assert health.status is HealthStatus.UNHEALTHY
        assert health.results[0].exit_status == -1
        assert health.results[0].output == "Health check exceeded timeout (0.3s): so far\n"
        child = (tmp_path / "child").read_text().strip()
        state = Path(f"/proc/{child}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"


async def test_a_command_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    async with asked(tmp_path, HealthCheck(("CMD", "/no/such"), interval_ns=100 * MS)) as monitor:
        health = await monitor.until(lambda health: bool(health.results))
    assert (health.results[0].exit_status, health.results[0].output) == (-1, "'/no/such' is not in the image")


async def test_nobody_asks_a_zone_that_is_paused_and_its_time_stands_still(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    line = f"while ! test -e {go_on}; do sleep 0.05; done"
    async with asked(tmp_path, shell(line, timeout_ns=500 * MS, retries=1)) as monitor:
        await monitor.zone.has_begun(1)
        monitor.zone.going.clear()
        monitor.zone.pauses += 1
        await asyncio.sleep(1)
        assert monitor.health.results == ()
        go_on.touch()
        await asyncio.sleep(0.2)
        monitor.zone.going.set()
        health = await monitor.until(lambda health: bool(health.results))
        assert health.status is HealthStatus.HEALTHY
        monitor.zone.going.clear()
        await asyncio.sleep(0.3)
        begun = monitor.zone.begun
        await asyncio.sleep(0.5)
        assert monitor.zone.begun == begun


async def test_what_comes_after_the_workloads_end_says_nothing(tmp_path: Path) -> None:
    async with asked(tmp_path, shell("exit 1", retries=1)) as monitor:
        monitor.zone.ending = True
        await monitor.zone.has_begun(2)
        assert monitor.health == Health()


async def test_another_daemon_goes_on_where_one_has_left(tmp_path: Path) -> None:
    check = shell("exit 1", retries=1000)
    async with asked(tmp_path, check) as monitor:
        before = await monitor.until(lambda health: health.failing_streak >= 2)
    with ZoneStore.open(tmp_path / "state.sqlite") as store, EventLog(tmp_path) as events:
        kept = store.get("a" * 64).health
        assert kept
        assert kept.failing_streak >= before.failing_streak
        zone = LocalProbed()
        task = asyncio.ensure_future(HealthMonitor(zone, check, store, events).run())
        await Asked(zone, store, events).until(lambda health: health.failing_streak > kept.failing_streak)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
