"""The host's session against zones that lie. What an honest agent does is in tests/unit/agent/test_streams.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zonal.agent.protocol import cbor
from zonal.agent.protocol.frames import (
    CALL,
    CREDIT,
    DATA,
    END,
    EVENT,
    HELLO,
    MAX_MESSAGE,
    MAX_PAYLOAD,
    MAX_ZONE_MESSAGE,
    MORE,
    REPLY,
    VERSION,
    FrameDecoder,
    encode_frame,
    encode_message,
    encode_offset,
    encode_reset,
)
from zonal.agent.protocol.streams import LEAST_WINDOW, WINDOW, credit_step
from zonal.errors import DeadlineError, InvalidInputError, ResourceExhaustedError
from zonal.zones.allowance import Allowance
from zonal.zones.greeting import Exit
from zonal.zones.memory_report import MemoryReport
from zonal.zones.session import MAX_CALLS, CallRefusedError, Session, SessionEndedError, open_session
from zonal.zones.session_streams import MAX_MERGED, StreamBrokenError

OUT, ERR, IN = 11, 12, 13


class Zone:
    """The zone's end of a transport: a script writes frames, and sees those of the host."""

    def __init__(self) -> None:
        self.to_host: asyncio.Queue[bytes] = asyncio.Queue()
        self.frames: asyncio.Queue[tuple[int, int, bytes]] = asyncio.Queue()
        self.closed = False
        self.has_room = True
        self._decoder = FrameDecoder(MAX_MESSAGE)

    async def read(self) -> bytes:
        return await self.to_host.get()

    async def write(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            self.frames.put_nowait(frame)

    def offer(self, data: bytes) -> bool:
        if not self.has_room:
            return False
        for frame in self._decoder.feed(data):
            self.frames.put_nowait(frame)
        return True

    def close(self) -> None:
        self.closed = True

    def send(self, *frames: bytes) -> None:
        self.to_host.put_nowait(b"".join(frames))

    async def next_call(self) -> dict[str, Any]:
        while True:
            _, kind, payload = await self.frames.get()
            if kind == CALL:
                message = cbor.decode(payload)
                assert isinstance(message, dict)
                return message

    async def next_frame(self, wanted: int) -> bytes:
        while True:
            _, kind, payload = await self.frames.get()
            if kind == wanted:
                return payload


def message_of(kind: int, fields: dict[str, Any]) -> bytes:
    return encode_message(kind, cbor.encode(fields))


def message(kind: int, **fields: Any) -> bytes:
    return message_of(kind, fields)


def hello(**changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "version": VERSION,
        "window": WINDOW,
        "kernel": "6.12",
        "resident": 1,
        "started": 1,
        "ready": 2,
        "workloads": [],
    }
    return message(HELLO, **(fields | changes))


def workload(**changes: Any) -> dict[str, Any]:
    streams = [
        {"stream": OUT, "direction": "output", "consumed": 100, "available": 150, "ended": False},
        {"stream": IN, "direction": "input", "consumed": 5, "received": 7, "ended": False},
    ]
    return {"id": "w", "container": "w", "state": "running", "streams": streams} | changes


@asynccontextmanager
async def meeting(*first: bytes, consumed: dict[int, int] | None = None) -> AsyncGenerator[tuple[Session, Zone]]:
    zone = Zone()
    zone.send(*first or (hello(),))
    async with open_session(zone, consumed=consumed, timeout=10) as session:
        yield session, zone
    assert zone.closed


async def test_a_call_is_answered() -> None:
    async with meeting() as (session, zone), asyncio.TaskGroup() as group:
        calling = group.create_task(session.call("statistics", {"a": 1}))
        call = await zone.next_call()
        assert (call["method"], call["params"]) == ("statistics", {"a": 1})
        zone.send(message(REPLY, id=call["id"], result={"b": [2]}))
        assert await calling == {"b": [2]}


async def test_credit_comes_before_a_call_after_which_the_agent_may_not_know_the_stream() -> None:
    async with meeting(hello(workloads=[workload()])) as (session, zone), asyncio.TaskGroup() as group:
        reader = session.outputs[OUT]
        step = credit_step(WINDOW)
        zone.send(*[encode_frame(OUT, DATA, bytes(MAX_PAYLOAD))] * (step // MAX_PAYLOAD))
        length = 0
        while length < step:
            length += len(await reader.read())

        async def finish() -> None:
            reader.done(length)
            await session.call("forget", {"id": "w"})

        calling = group.create_task(finish())
        kinds: list[int] = []
        while CALL not in kinds:
            kinds.append((await zone.frames.get())[1])
        assert kinds[-2:] == [CREDIT, CALL]
        zone.send(message(REPLY, id=1, result=None))
        await calling


async def test_a_refusal_has_its_code_and_a_harmless_text() -> None:
    async with meeting() as (session, zone), asyncio.TaskGroup() as group:
        calling = group.create_task(refused(session))
        call = await zone.next_call()
        zone.send(message(REPLY, id=call["id"], error={"code": "runtime", "message": "no\x1b[2J"}))
        error = await calling
        assert error.code == "runtime"
        assert "\x1b" not in str(error)


async def refused(session: Session) -> CallRefusedError:
    with pytest.raises(CallRefusedError) as caught:
        await session.call("run", {})
    return caught.value


async def test_a_call_that_is_not_answered_ends_in_time_and_may_be_answered_later() -> None:
    async with meeting() as (session, zone), asyncio.TaskGroup() as group:
        with pytest.raises(DeadlineError):
            await session.call("slow", {}, timeout=0.01)
        late = await zone.next_call()
        zone.send(message(REPLY, id=late["id"], result=None))
        calling = group.create_task(session.call("next", {}))
        call = await zone.next_call()
        zone.send(message(REPLY, id=call["id"], result=3))
        assert await calling == 3


async def test_unanswered_calls_are_bounded() -> None:
    async with meeting() as (session, _):
        for _ in range(MAX_CALLS):
            with pytest.raises(DeadlineError):
                await session.call("slow", {}, timeout=0)
        with pytest.raises(ResourceExhaustedError):
            await session.call("slow", {}, timeout=0)


async def test_what_cannot_be_sent_is_refused_before() -> None:
    async with meeting() as (session, _):
        with pytest.raises(InvalidInputError, match="bytes of parameters"):
            await session.call("run", {"x": bytes(MAX_MESSAGE)})
        with pytest.raises(InvalidInputError):
            await session.call("run", {"x": "\ud800"})


async def test_an_exit_is_told_once_and_kept() -> None:
    async with meeting() as (session, zone):
        session.expect_workload("w")
        zone.send(message(EVENT, event="exited", id="w", signal=9, oom=True))
        assert await session.wait_exited("w") == Exit(None, 9, True)
        assert (await session.wait_exited("w")).shell_status == 137


async def test_a_session_goes_on_where_the_last_one_was() -> None:
    async with meeting(hello(workloads=[workload()]), consumed={OUT: 120}) as (session, zone):
        greeting = await session.greeted(1)
        assert greeting.workloads[0].name == "w"
        answer = cbor.decode(await zone.next_frame(HELLO))
        assert answer == {"version": VERSION, "window": WINDOW, "streams": [{"stream": OUT, "consumed": 120}]}
        zone.send(encode_frame(OUT, DATA, b"x" * 30), encode_offset(OUT, END, 150))
        assert await session.outputs[OUT].read() == b"x" * 30
        await session.inputs[IN].write(b"more")
        session.inputs[IN].end()
        assert await zone.next_frame(END) == (11).to_bytes(8, "little")


async def test_workloads_that_ended_meanwhile_are_known() -> None:
    ended = workload(state="exited", status=7, oom=False, streams=[])
    async with meeting(hello(workloads=[ended])) as (session, _):
        assert (await session.wait_exited("w")).status == 7


async def test_credit_is_told_when_bytes_are_done_with() -> None:
    async with meeting() as (session, zone):
        output = session.open_output(OUT)
        zone.send(*[encode_frame(OUT, DATA, bytes(MAX_PAYLOAD))] * 8)
        for part in range(1, 5):
            for _ in range(2):
                chunk = await output.read()
                output.done(len(chunk))
            assert await zone.next_frame(CREDIT) == (2 * part * MAX_PAYLOAD).to_bytes(8, "little")


async def test_a_zone_that_sends_byte_by_byte_costs_no_more_than_another() -> None:
    async with meeting() as (session, zone):
        output = session.open_output(OUT)
        zone.send(encode_frame(OUT, DATA, b"x") * WINDOW, encode_offset(OUT, END, WINDOW))
        chunks = [chunk async for chunk in output.chunks()]
        assert sum(map(len, chunks)) == WINDOW
        assert len(chunks) < 400


async def test_input_waits_for_credit_and_ends_with_a_reset() -> None:
    async with meeting() as (session, zone), asyncio.TaskGroup() as group:
        writer = session.open_input(IN)
        await writer.write(bytes(WINDOW))
        writing = group.create_task(writer.write(b"after"))
        zone.send(encode_offset(IN, CREDIT, WINDOW // 2))
        await writing
        zone.send(encode_reset(IN, 32))
        with pytest.raises(StreamBrokenError, match="Broken pipe"):
            await writer.write(bytes(WINDOW * 2))


async def test_what_had_to_wait_for_room_goes_first() -> None:
    async with meeting() as (session, zone):
        writer = session.open_input(IN)
        zone.has_room = False
        await writer.write(b"first")
        zone.has_room = True
        await writer.write(b"second")
        assert [await zone.next_frame(DATA) for _ in range(2)] == [b"first", b"second"]
        await writer.write(b"third")
        assert await zone.next_frame(DATA) == b"third"


async def test_bulk_output_is_handed_on_together() -> None:
    async with meeting() as (session, zone):
        reader = session.open_output(OUT)
        full = [bytes([number]) * MAX_PAYLOAD for number in range(5)]
        zone.send(*(encode_frame(OUT, DATA, piece) for piece in full[:4]), encode_offset(OUT, END, 4 * MAX_PAYLOAD))
        got: list[bytes] = []
        while data := await reader.read_much():
            got.append(data)
            reader.done(len(data))
        assert b"".join(got) == b"".join(full[:4])
        assert max(map(len, got)) <= MAX_MERGED


async def test_a_zone_that_says_no_window_gets_the_least_one() -> None:
    first = message(HELLO, version=VERSION, kernel="6.12", resident=1, started=1, ready=2, workloads=[])
    async with meeting(first) as (session, zone), asyncio.TaskGroup() as group:
        writer = session.open_input(IN)
        await writer.write(bytes(LEAST_WINDOW))
        writing = group.create_task(writer.write(b"after"))
        await asyncio.sleep(0.05)
        assert not writing.done()
        zone.send(encode_offset(IN, CREDIT, 1))
        zone.send(encode_offset(IN, CREDIT, 5))
        await writing


LIES = {
    "garbage": [b"\xff" * 64],
    "an oversized frame": [(1 << 31).to_bytes(4, "little") + bytes(8)],
    "an endless message": [encode_frame(0, REPLY, bytes(MAX_PAYLOAD), MORE)] * (MAX_ZONE_MESSAGE // MAX_PAYLOAD + 1),
    "a message that is no CBOR": [encode_frame(0, EVENT, b"\xff")],
    "a CBOR bomb": [encode_frame(0, EVENT, b"\x9b\x7f" + b"\xff" * 7)],
    "deep CBOR": [encode_frame(0, EVENT, b"\x81" * 1000)],
    "a message that is no map": [encode_frame(0, EVENT, cbor.encode([1]))],
    "a second HELLO": [hello()],
    "a call of the host": [message(CALL, id=1, method="x", params={})],
    "a reply to no call": [message(REPLY, id=1, result=None)],
    "a reply without an id": [message(REPLY, result=None)],
    "a reply with an odd id": [message(REPLY, id=[1], result=None)],
    "an unknown event": [message(EVENT, event="surprise")],
    "the end of an unknown workload": [message(EVENT, event="exited", id="x", status=0, oom=False)],
    "the end of a workload twice": [message(EVENT, event="exited", id="w", status=0, oom=False)] * 2,
    "an end without a status": [message(EVENT, event="exited", id="w", oom=False)],
    "an end with an odd status": [message(EVENT, event="exited", id="w", status=256, oom=False)],
    "an end with a boolean status": [message(EVENT, event="exited", id="w", status=True, oom=False)],
    "an end with an odd signal": [message(EVENT, event="exited", id="w", signal=65, oom=False)],
    "data of an unknown stream": [encode_frame(99, DATA, b"x")],
    "data of an input stream": [encode_frame(IN, DATA, b"x")],
    "credit for an output stream": [encode_offset(OUT, CREDIT, 1)],
    "more than the window": [encode_frame(OUT, DATA, bytes(MAX_PAYLOAD))] * (WINDOW // MAX_PAYLOAD + 1),
    "an end too early": [encode_offset(OUT, END, 1)],
    "data after the end": [encode_offset(OUT, END, 0), encode_frame(OUT, DATA, b"x")],
    "credit for what was not sent": [encode_offset(IN, CREDIT, 1)],
    "credit that does not grow": [encode_offset(IN, CREDIT, 0)],
    "a reset twice": [encode_reset(IN, 32)] * 2,
    "empty data": [bytes(4) + OUT.to_bytes(4, "little") + bytes([DATA, 0, 0, 0])],
}


@pytest.mark.parametrize("lie", [pytest.param(frames, id=name) for name, frames in LIES.items()])
async def test_a_lie_ends_the_session_with_the_reason(lie: list[bytes]) -> None:
    async with meeting() as (session, zone):
        session.open_output(OUT)
        output, writer = session.open_output(ERR), session.open_input(IN)
        session.expect_workload("w")
        session.expect_workload("other")
        zone.send(*lie)
        with pytest.raises(SessionEndedError, match="broke the agent's protocol"):
            await session.wait_exited("other")
        assert session.zone_at_fault
        assert session.end_reason
        with pytest.raises(StreamBrokenError):
            await output.read()
        with pytest.raises(StreamBrokenError):
            await writer.write(b"x")
        with pytest.raises(SessionEndedError):
            await session.call("statistics", {})


GREETINGS = {
    "another version": hello(version=VERSION + 1),
    "a window that is none": hello(window="wide"),
    "a window of nothing": hello(window=0),
    "no version": message(HELLO, kernel="x"),
    "no workloads": hello(workloads=None),
    "too many workloads": hello(workloads=[workload(id=f"w{number}", streams=[]) for number in range(65)]),
    "a workload twice": hello(workloads=[workload(streams=[]), workload(streams=[])]),
    "a stream twice": hello(workloads=[workload(), workload(id="v")]),
    "an odd state": hello(workloads=[workload(state="odd")]),
    "an exited workload without a status": hello(workloads=[workload(state="exited")]),
    "an odd kernel": hello(kernel="\x1b[31m"),
    "a long kernel": hello(kernel="x" * 1000),
    "a negative time": hello(ready=-1),
    "a stream beyond its window": hello(
        workloads=[
            workload(
                streams=[{"stream": 1, "direction": "output", "consumed": 0, "available": WINDOW + 1, "ended": False}]
            )
        ]
    ),
    "stream 0": hello(
        workloads=[
            workload(streams=[{"stream": 0, "direction": "output", "consumed": 0, "available": 0, "ended": False}])
        ]
    ),
    "not HELLO": message(EVENT, event="exited", id="w", status=0, oom=False),
}


@pytest.mark.parametrize("greeting", [pytest.param(frame, id=name) for name, frame in GREETINGS.items()])
async def test_a_lie_in_the_greeting_ends_the_session(greeting: bytes) -> None:
    with pytest.raises(SessionEndedError, match="broke the agent's protocol"):
        async with meeting(greeting):
            pass


@pytest.mark.parametrize("consumed", [{OUT: 99}, {OUT: 151}, {ERR: 1}])
async def test_output_that_a_zone_has_lost_ends_the_session(consumed: dict[int, int]) -> None:
    with pytest.raises(SessionEndedError, match="stream"):
        async with meeting(hello(workloads=[workload()]), consumed=consumed):
            pass


async def test_a_zone_that_never_answers_ends_in_time() -> None:
    with pytest.raises(DeadlineError, match="did not say that it is ready"):
        async with open_session(Zone(), timeout=0.05):
            pass


async def test_the_end_of_the_channel_is_no_lie() -> None:
    async with meeting() as (session, zone):
        session.expect_workload("w")
        zone.send(b"")
        with pytest.raises(SessionEndedError, match="closed"):
            await session.wait_exited("w")
        assert not session.zone_at_fault


FRAMES = st.one_of(
    st.binary(max_size=100),
    st.builds(
        encode_frame, st.sampled_from([0, OUT, IN, 99]), st.integers(0, 10), st.binary(max_size=20), st.integers(0, 2)
    ),
    st.builds(encode_offset, st.sampled_from([OUT, IN]), st.sampled_from([CREDIT, END]), st.integers(0, 10)),
    st.builds(encode_frame, st.just(OUT), st.just(DATA), st.binary(min_size=1, max_size=20)),
    st.builds(encode_reset, st.sampled_from([OUT, IN]), st.integers(0, 200)),
    st.builds(
        message_of,
        st.sampled_from([HELLO, CALL, REPLY, EVENT]),
        st.dictionaries(
            st.sampled_from(["id", "event", "error", "result", "status", "signal", "oom", "version", "workloads"]),
            st.sampled_from([0, 1, -1, 300, "w", "exited", True, None, [], {}, b""]),
        ),
    ),
)


@settings(max_examples=150)
@given(st.lists(FRAMES, max_size=12), st.lists(st.integers(1, 50), max_size=12), st.booleans())
def test_no_sequence_of_frames_does_more_than_end_the_session(
    frames: list[bytes], sizes: list[int], greeted: bool
) -> None:
    async def play() -> None:
        zone = Zone()
        session = Session(zone)
        if greeted:
            zone.send(hello())
            session.open_output(OUT)
            await session.open_input(IN).write(b"12345")
            session.expect_workload("w")
        data = b"".join(frames)
        for size in sizes:
            if data:
                zone.send(data[:size])
                data = data[size:]
        if data:
            zone.send(data)
        zone.send(b"")
        await session.serve()  # raises for nothing that a zone does
        assert session.end_reason
        assert zone.closed

    asyncio.run(play())


async def test_what_a_zone_says_of_its_memory_is_told_to_who_asks() -> None:
    async with meeting() as (session, zone):
        zone.send(message(EVENT, event="memory", available=1, stalled=2, pressed=False))  # to nobody
        told: asyncio.Queue[MemoryReport] = asyncio.Queue()
        session.on_memory = told.put_nowait
        zone.send(message(EVENT, event="memory", available=3, stalled=4, pressed=True))
        report = await asyncio.wait_for(told.get(), 10)
        while report.available == 1:  # the first may have come only now
            report = await asyncio.wait_for(told.get(), 10)
        assert report == MemoryReport(3, 4, pressed=True)
        zone.send(message(EVENT, event="memory", available=-3, stalled=4, pressed=True))
        with pytest.raises(SessionEndedError, match="memory"):
            await session.call("statistics", {})
        assert session.zone_at_fault


async def test_a_zone_that_floods_leaves_others_their_turns_and_loses_nothing() -> None:
    async with meeting() as (session, zone):
        session.frames_allowed = Allowance(1e5, 100)
        output = session.open_output(OUT)
        count = 20_000
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(other())
        for _ in range(count // 100):
            zone.send(encode_frame(OUT, DATA, b"x") * 100)
        zone.send(encode_offset(OUT, END, count))
        received = b"".join([chunk async for chunk in output.chunks()])
        ticking.cancel()
        assert received == b"x" * count
        assert turns >= count // 100
        assert session.frames_allowed.held_seconds > 0
