"""Events: told as they come, kept within bounds, and known to the next daemon."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.unit.zones.test_state import record
from zonal.zones.events import MAX_FILE, MAX_KEPT, EventLog
from zonal.zones.spec import ZoneEvent

SPEC = record().spec


async def read(log: EventLog, since_ns: int = 1) -> list[ZoneEvent]:
    return [event async for event in log.read(since_ns=since_ns, until_ns=time.time_ns())]


async def test_the_next_daemon_knows_them_and_half_a_line_spoils_no_other(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.emit("create", SPEC)
        log.emit("die", SPEC, exitCode="3")
        before = await read(log)
    assert [(event.action, dict(event.attributes)) for event in before] == [("create", {}), ("die", {"exitCode": "3"})]
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"time_ns": 5, "act')
    with EventLog(tmp_path) as log:
        assert await read(log) == before
        log.emit("start", SPEC)
    with EventLog(tmp_path) as log:
        assert [event.action for event in await read(log)] == ["create", "die", "start"]
        assert await read(log, since_ns=time.time_ns()) == []


async def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        for number in range(3 * MAX_KEPT):
            log.emit("exec_start", SPEC, command="x" * 10_000, number=str(number))
        kept = await read(log)
    assert [event.attributes["number"] for event in kept] == [str(n) for n in range(2 * MAX_KEPT, 3 * MAX_KEPT)]
    files = list(tmp_path.iterdir())
    assert len(files) == 2
    assert all(path.stat().st_size < MAX_FILE + 4096 for path in files)


async def test_listeners_get_what_comes_and_slow_ones_the_newest(tmp_path: Path) -> None:
    with EventLog(tmp_path) as log:
        log.emit("before", SPEC)
        listening = log.read()

        async def first() -> ZoneEvent:
            return await anext(listening)

        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(first())
            await asyncio.sleep(0)
            log.emit("now", SPEC)
        assert waiting.result().action == "now"
        for number in range(MAX_KEPT + 10):
            log.emit(str(number), SPEC)
        assert (await anext(listening)).action == "10"
        async with asyncio.timeout(10):
            assert [event async for event in log.read(until_ns=time.time_ns() + 50_000_000)] == []
