"""A workload's output on its way into the log: held back, but never lost for it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.unit.zones.test_session import OUT, hello, meeting, message, workload
from zonal.agent.protocol.frames import DATA, END, EVENT, MAX_PAYLOAD, encode_frame, encode_offset
from zonal.zones import workload as under_test
from zonal.zones.allowance import Allowance
from zonal.zones.output_log import read_output
from zonal.zones.spec import ZoneSpec
from zonal.zones.workload import Workload

SPEC = ZoneSpec("a" * 64, "one", "i", "sha256:" + "b" * 64, "/x", ("sh",), ())
STREAMS = [{"stream": OUT, "direction": "output", "consumed": 0, "available": 0, "ended": False}]


@pytest.mark.parametrize("allowed", ["lines_allowed", "time_allowed"])
async def test_what_is_held_back_at_the_end_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    monkeypatch.setattr(under_test, "DRAIN_TIMEOUT", 0.02)
    async with AsyncExitStack() as stack:
        session, zone = await stack.enter_async_context(meeting(hello(workloads=[workload(streams=STREAMS)])))
        carried = Workload("w", OUT - 1)
        log = carried.open_log(stack, tmp_path, SPEC)
        # Some tenths of a second of waiting in all, for lines or for the time that they take.
        setattr(carried, allowed, Allowance(100.0, 1) if allowed == "lines_allowed" else Allowance(0.0005, 0))
        carried.take_over(session, SPEC)
        lines = [b"%07d\n" % number for number in range(10)]
        zone.send(*(encode_frame(OUT, DATA, line) for line in lines), encode_offset(OUT, END, 80))
        zone.send(message(EVENT, event="exited", id="w", status=3, oom=False))
        result = await carried.carry(session)
        assert result.status == 3
        assert log.offsets[1] == 80
    assert b"".join(data for _, data in read_output(tmp_path)) == b"".join(lines)


async def test_who_has_a_listener_has_all_the_time_that_it_takes(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        session, zone = await stack.enter_async_context(meeting(hello(workloads=[workload(streams=STREAMS)])))
        carried = Workload("w", OUT - 1)
        carried.open_log(stack, tmp_path, SPEC)
        carried.time_allowed = Allowance(1e-9, 0)
        carried.take_over(session, SPEC)
        listener = carried.audiences.join()
        zone.send(encode_frame(OUT, DATA, bytes(MAX_PAYLOAD)), encode_offset(OUT, END, MAX_PAYLOAD))
        zone.send(message(EVENT, event="exited", id="w", status=0, oom=False))
        await carried.carry(session)
        carried.audiences.leave(listener)
        assert carried.time_allowed.held_seconds == 0
