"""The agent's own code in a process of its own, met by the host's session: streams, credit, and new sessions."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Generator
from dataclasses import dataclass

import pytest

from tests.unit.agent.local_agent import LocalAgent, local_agent
from zonal.agent import kernel_log
from zonal.agent.protocol.streams import WINDOW
from zonal.zones.boot_log import kernel_lines
from zonal.zones.session import CallRefusedError, SessionEndedError, open_session
from zonal.zones.session_streams import OutputReader, StreamBrokenError

WORKLOAD, OUTPUT, INPUT = "streams", 1, 2


@dataclass
class Workload:
    """The far ends of the workload's pipes, as the workload would hold them."""

    agent: LocalAgent
    stdout: int
    stdin: int


@pytest.fixture
def workload() -> Generator[Workload]:
    out_read, out_write = os.pipe()
    in_read, in_write = os.pipe()
    with local_agent("streams", descriptors=(out_read, in_write)) as agent:
        os.close(out_read)
        os.close(in_write)
        ends = Workload(agent, out_write, in_read)
        try:
            yield ends
        finally:
            for fd in (ends.stdout, ends.stdin):
                if fd >= 0:
                    os.close(fd)


async def write_all(fd: int, data: bytes) -> None:
    await asyncio.to_thread(lambda: [os.write(fd, data[at : at + 4096]) for at in range(0, len(data), 4096)])


async def read_all(fd: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (piece := await asyncio.to_thread(os.read, fd, 65536)):
        data += piece
    return bytes(data)


async def test_output_arrives_whole_and_ends(workload: Workload) -> None:
    data = random.Random(1).randbytes(3 * WINDOW + 777)
    async with open_session(await workload.agent.connect()) as session:
        writing = asyncio.create_task(write_all(workload.stdout, data))
        received = bytearray()
        async for chunk in session.outputs[OUTPUT].chunks():
            received += chunk
            if len(received) == len(data):
                await writing
                os.close(workload.stdout)
                workload.stdout = -1
        assert received == data


async def test_steps_the_kernels_log_and_what_the_channel_has_carried(workload: Workload) -> None:
    async with open_session(await workload.agent.connect()) as session:
        greeting = await session.greeted(10)
        assert greeting.steps == (("made", greeting.started_ns + 1),)
        before = session.received_bytes
        assert before > 0
        if os.access(kernel_log.DEVICE, os.R_OK):
            # As long as it may be, it fits into one message.
            lines = kernel_lines(await session.call("kernel_log", {}), 7)
            assert lines
            assert all(line.time_ns >= 7 for line in lines)
            assert session.received_bytes > before
        assert session.sent_bytes > 0
        assert session.pending_calls == 0


async def test_input_arrives_whole_and_ends(workload: Workload) -> None:
    data = random.Random(2).randbytes(3 * WINDOW + 777)
    async with open_session(await workload.agent.connect()) as session, asyncio.TaskGroup() as group:
        writer = session.inputs[INPUT]
        reading = group.create_task(read_all(workload.stdin, len(data) + 1))
        await writer.write(data)
        writer.end()
        assert await reading == data


async def test_a_new_session_takes_output_up_where_the_old_one_left_it(workload: Workload) -> None:
    data = random.Random(3).randbytes(4 * WINDOW)
    writing = asyncio.create_task(write_all(workload.stdout, data))
    received = bytearray()
    consumed: dict[int, int] = {}
    for part in range(1, 4):
        async with open_session(await workload.agent.connect(), consumed=consumed) as session:
            output = session.outputs[OUTPUT]
            while len(received) < part * WINDOW - 10_000:
                chunk = await output.read()
                received += chunk
                output.done(len(chunk))
            # One more is read and not done with: it must come again.
            lost = await output.read()
            assert lost
            consumed = {OUTPUT: output.offset}
    async with open_session(await workload.agent.connect(), consumed=consumed) as session:
        async for chunk in session.outputs[OUTPUT].chunks():
            received += chunk
            if len(received) == len(data):
                await writing
                os.close(workload.stdout)
                workload.stdout = -1
    assert received == data


async def test_a_new_session_takes_input_up_where_the_old_one_left_it(workload: Workload) -> None:
    data = random.Random(4).randbytes(WINDOW * 2)
    sent = 0
    reading = asyncio.create_task(read_all(workload.stdin, len(data)))
    while sent < len(data):
        async with open_session(await workload.agent.connect()) as session:
            greeting = await session.greeted(10)
            sent = greeting.workloads[0].inputs[0].received
            await session.inputs[INPUT].write(data[sent : sent + 50_000])
            await session.call("list", {})  # comes after the bytes: they were received
    assert await reading == data


async def test_while_no_host_is_there_the_workload_goes_on_until_the_window_is_full(workload: Workload) -> None:
    async with open_session(await workload.agent.connect()):
        pass
    writing = asyncio.create_task(write_all(workload.stdout, bytes(WINDOW)))
    await writing
    async with open_session(await workload.agent.connect()) as session:
        received = 0
        while received < WINDOW:
            received += len(await session.outputs[OUTPUT].read())
        assert received == WINDOW


async def test_a_stuck_reader_of_one_stream_holds_up_no_call_and_no_other_stream(workload: Workload) -> None:
    async with open_session(await workload.agent.connect()) as session:
        writing = asyncio.create_task(write_all(workload.stdout, bytes(WINDOW * 2)))
        await session.inputs[INPUT].write(b"x" * 70_000)
        assert await read_all(workload.stdin, 70_000) == b"x" * 70_000
        assert isinstance(await session.call("statistics", {}), dict)
        async with asyncio.TaskGroup() as group:
            group.create_task(read_until(session.outputs[OUTPUT], WINDOW * 2))
            await writing


async def read_until(output: OutputReader, count: int) -> None:
    while count > 0:
        chunk = await output.read()
        output.done(len(chunk))
        count -= len(chunk)


async def test_a_workload_that_closes_its_input_breaks_the_writer(workload: Workload) -> None:
    async with open_session(await workload.agent.connect()) as session:
        os.close(workload.stdin)
        workload.stdin = -1
        with pytest.raises(StreamBrokenError, match="Broken pipe"):
            while True:
                await session.inputs[INPUT].write(bytes(10_000))


async def test_output_that_is_given_up_breaks_the_workload(workload: Workload) -> None:
    async with open_session(await workload.agent.connect()) as session:
        output = session.outputs[OUTPUT]
        os.write(workload.stdout, b"before")
        assert await output.read() == b"before"
        output.give_up()
        assert await output.read() == b""
        with pytest.raises(BrokenPipeError):
            os.write(workload.stdout, b"after")


async def test_a_new_epoch_ends_the_old_session(workload: Workload) -> None:
    agent = workload.agent
    async with open_session(await agent.connect()) as old, open_session(await agent.connect()) as new:
        assert (await new.greeted(10)).workloads[0].name == WORKLOAD
        with pytest.raises(SessionEndedError):
            await old.wait_exited(WORKLOAD)
        assert not old.zone_at_fault


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no-such-method", {}, "unknown-method"),
        ("run", {}, "invalid"),
        ("run", {"id": "../x"}, "invalid"),
        ("run", {"id": WORKLOAD}, "exists"),
        ("run", {"id": "new", "root": "none"}, "no-such"),
        ("signal", {"id": WORKLOAD, "signal": 65}, "invalid"),
        ("signal", {"id": WORKLOAD, "signal": True}, "invalid"),
        ("signal", {"id": "none", "signal": 9}, "no-such"),
        ("forget", {"id": WORKLOAD}, "in-use"),
        ("remove_root", {"id": "none"}, "no-such"),
        ("configure", {"hostname": "x" * 65}, "invalid"),
        ("configure", {"sysctls": {"../../etc/passwd": "1"}}, "invalid"),
        ("resize", {"id": WORKLOAD, "rows": -1, "columns": 1}, "invalid"),
        ("resize", {"id": WORKLOAD, "rows": 1 << 16, "columns": 1}, "invalid"),
    ],
)
async def test_calls_that_cannot_be_are_refused_by_name(
    workload: Workload, method: str, params: dict[str, int | str], code: str
) -> None:
    async with open_session(await workload.agent.connect()) as session:
        with pytest.raises(CallRefusedError) as refusal:
            await session.call(method, dict(params))
        assert refusal.value.code == code
