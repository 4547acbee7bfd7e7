"""The host's session with the agent of one zone: calls, exits, and streams over one channel.

Whatever comes from the zone is hostile: checked, bounded, and on the first fault the session ends with the reason.
The protocol is written down in docs/protocol.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

from zonal.agent.protocol import cbor
from zonal.agent.protocol.frames import (
    CALL,
    CREDIT,
    DATA,
    END,
    EVENT,
    HELLO,
    MAX_MESSAGE,
    MAX_ZONE_MESSAGE,
    REPLY,
    RESET,
    VERSION,
    FrameDecoder,
    ProtocolError,
    decode_number,
    encode_message,
    encode_offset,
)
from zonal.agent.protocol.streams import LEAST_WINDOW, WINDOW
from zonal.errors import (
    AlreadyExistsError,
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    ZonalError,
    ZoneFailedError,
)
from zonal.xen.channel import ChannelClosedError
from zonal.zones.allowance import Allowance
from zonal.zones.greeting import Exit, Greeting, parse_exit, parse_greeting
from zonal.zones.memory_report import MemoryReport, parse_memory_report
from zonal.zones.session_streams import InputWriter, OutputReader

T = TypeVar("T")

MAX_CALLS = 64
"""Calls under way at once, those included that were given up on and may still be answered."""


FULL_FRAME = 4096
"""Bytes; frames that have so many are free, since streams are held back by their windows and readers."""
FRAME_RATE, FRAME_BURST = 5_000.0, 10_000.0
"""Frames with less in them that a zone may send, in a second and at once."""


class Transport(Protocol):
    """A byte stream to the zone, such as ``zonal.xen.channel.Channel``."""

    async def read(self) -> bytes:
        """What has come, at most one ring of it; b"" when the zone has closed its end.

        Raises ``ZonalError`` or ``OSError`` for what the zone should not have done.
        """
        ...

    async def write(self, data: bytes) -> None:
        """Returns when all of ``data`` is on its way; raises ``ChannelClosedError`` when the zone has left."""
        ...

    def offer(self, data: bytes) -> bool:
        """Writes all of ``data`` without waiting, or nothing; says which. Never raises."""
        ...

    def close(self) -> None:
        """Gives the channel up."""
        ...


class SessionEndedError(ZoneFailedError):
    """The session with the zone's agent is over; the message says why."""


class CallRefusedError(ZoneFailedError):
    """The agent refused a call; ``code`` is one of those in docs/protocol.md."""

    def __init__(self, method: str, code: str, message: str) -> None:
        super().__init__(f"the zone's agent refused {method}: {message}")
        self.method = method
        self.code = code
        self.reason = message


class Session:
    """To be served by ``serve`` in a task of its owner's; everything else may be called meanwhile."""

    def __init__(
        self,
        transport: Transport,
        *,
        consumed: Mapping[int, int] | None = None,
        may_be_gone: Mapping[int, int] | None = None,
    ) -> None:
        """``consumed``: for output streams of an earlier session, how many bytes are safe; they go on from there.

        ``may_be_gone``: likewise of those that the zone may have forgotten meanwhile.
        """
        self.outputs: dict[int, OutputReader] = {}
        """By number: those of the agent's HELLO, and those opened since."""
        self.inputs: dict[int, InputWriter] = {}
        self.end_reason: str | None = None
        """Why the session is over; None while it is not."""
        self.zone_at_fault = False
        """Whether it is over because the zone broke the protocol."""
        self.frames_allowed = Allowance(FRAME_RATE, FRAME_BURST)
        self.received_bytes = 0
        self.sent_bytes = 0
        self._transport = transport
        self._consumed = {**(consumed or {}), **(may_be_gone or {})}
        self._may_be_gone = frozenset(may_be_gone or ())
        self._decoder = FrameDecoder(MAX_ZONE_MESSAGE)
        self._frames: deque[bytes] = deque()
        self._credits: dict[int, int] = {}
        self._to_send = asyncio.Event()
        self._window = LEAST_WINDOW
        self._ended = asyncio.Event()
        self._greeting: asyncio.Future[Greeting] = asyncio.get_running_loop().create_future()
        self._calls: dict[int, asyncio.Future[cbor.Value]] = {}
        self._last_call = 0
        self._exits: dict[str, asyncio.Future[Exit]] = {}
        self.on_memory: Callable[[MemoryReport], None] | None = None
        """Is told of the zone's memory; what comes while there is nobody is dropped."""

    async def serve(self) -> None:
        """Carries the session until it ends, and closes the channel; ``end_reason`` says why.

        Nothing that the zone does makes it raise.
        """
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_all())
                await self._receive_all()
        except* (ProtocolError, cbor.CborError) as errors:
            self.zone_at_fault = True
            self._end(f"the zone broke the agent's protocol: {errors.exceptions[0]}")
        except* ChannelClosedError as errors:
            self._end(str(errors.exceptions[0]))
        except* (ZonalError, OSError) as errors:
            self.zone_at_fault = True
            self._end(f"the channel failed: {errors.exceptions[0]}")
        finally:
            self._end("the host closed the session")
            self._transport.close()

    async def until_end(self) -> None:
        """Until the session is over; ``end_reason`` says why."""
        await self._ended.wait()

    async def greeted(self, timeout: float) -> Greeting:
        """The agent's HELLO; raises ``DeadlineError`` after ``timeout`` seconds, or ``SessionEndedError``."""
        return await self._within(timeout, self._greeting, "say that it is ready")

    async def call(self, method: str, params: Mapping[str, cbor.Value], timeout: float = 60.0) -> cbor.Value:
        """Has the agent do something, and gives its answer.

        Raises ``CallRefusedError``, ``DeadlineError`` after ``timeout`` seconds (the agent may still do it),
        ``SessionEndedError``, or ``InvalidInputError`` for what the protocol cannot carry.
        """
        self._check_open()
        if len(self._calls) >= MAX_CALLS:
            raise ResourceExhaustedError(f"{MAX_CALLS} calls to the zone's agent are unanswered")
        number = self._last_call + 1
        try:
            message = cbor.encode({"id": number, "method": method, "params": dict(params)})
        except cbor.CborError as error:
            raise InvalidInputError(f"{method}: {error}") from error
        if len(message) > MAX_MESSAGE:
            raise InvalidInputError(
                f"{method}: {len(message)} bytes of parameters, at most {MAX_MESSAGE}",
                hint="shorten the arguments or the environment",
            )
        self._last_call = number
        answer: asyncio.Future[cbor.Value] = asyncio.get_running_loop().create_future()
        self._calls[number] = answer
        self._queue(encode_message(CALL, message))
        try:
            return await self._within(timeout, answer, f"answer {method}")
        except _RefusalError as refusal:
            raise CallRefusedError(method, *refusal.args) from None

    @property
    def pending_calls(self) -> int:
        """Calls without an answer, those included that were given up on."""
        return len(self._calls)

    def expect_workload(self, name: str) -> None:
        """From now on the zone may tell of the end of ``name``; to be called before it is started."""
        self._check_open()
        if name in self._exits:
            raise AlreadyExistsError(f"workload {name} is known in the zone")
        self._exits[name] = asyncio.get_running_loop().create_future()

    def forget_workload(self, name: str, streams: Iterable[int] = ()) -> None:
        """The agent knows the workload no more, or never did; its ``streams`` are closed."""
        exit_future = self._exits.pop(name, None)
        if exit_future:
            exit_future.cancel()
        for number in streams:
            for stream in (self.outputs.pop(number, None), self.inputs.pop(number, None)):
                if stream:
                    stream.on_session_end(f"workload {name} is no more")

    async def wait_exited(self, name: str) -> Exit:
        """How a workload ended, once it has; raises ``SessionEndedError`` or ``NotFoundError``."""
        future = self._exits.get(name)
        if future is None:
            raise NotFoundError(f"no workload {name} in the zone")
        return await asyncio.shield(future)

    def open_output(self, number: int) -> OutputReader:
        """Makes ready for an output stream; to be called before the workload is started that writes it."""
        self._check_new(number)
        self.outputs[number] = OutputReader(number, 0, self._window, self._queue, self._queue_credit)
        return self.outputs[number]

    def open_input(self, number: int) -> InputWriter:
        """Makes ready for an input stream; to be written only when the workload has been started that reads it."""
        self._check_new(number)
        self.inputs[number] = InputWriter(number, 0, self._window, self._queue)
        return self.inputs[number]

    async def _receive_all(self) -> None:
        while data := await self._transport.read():
            self.received_bytes += len(data)
            frames = self._decoder.feed(data)
            for stream, kind, payload in frames:
                if stream:
                    self._on_stream(stream, kind, payload)
                else:
                    self._on_message(kind, payload)
            # A zone may write as fast as it is read: others have their turn, and frames with little in them a rate.
            await self.frames_allowed.charge(max(0.0, len(frames) - len(data) / FULL_FRAME))
        raise ChannelClosedError("the zone's agent has closed its channel")

    async def _send_all(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._frames or self._credits:
                while self._credits:
                    # Before all else: a call that waits may be the one after which the agent knows the stream no more.
                    stream, offset = self._credits.popitem()
                    self._frames.appendleft(encode_offset(stream, CREDIT, offset))
                frame = self._frames.popleft()
                await self._transport.write(frame)
                self.sent_bytes += len(frame)

    def _on_message(self, kind: int, payload: bytes) -> None:
        message = cbor.decode(payload)
        if not isinstance(message, dict):
            raise ProtocolError("a message that is not a map")
        if kind == HELLO and not self._greeting.done():
            self._on_hello(parse_greeting(message))
        elif kind == REPLY:
            self._on_reply(message)
        elif kind == EVENT and message.get("event") == "exited":
            name = message.get("id")
            future = self._exits.get(name) if isinstance(name, str) else None
            if future is None or future.done():
                raise ProtocolError("the end of a workload that is not running")
            future.set_result(parse_exit(message))
        elif kind == EVENT and message.get("event") == "memory":
            report = parse_memory_report(message)
            if self.on_memory is not None:
                self.on_memory(report)
        else:
            raise ProtocolError(f"message of type {kind}, which the zone has no reason to send")

    def _on_hello(self, greeting: Greeting) -> None:
        self._window = greeting.window
        streams: list[cbor.Value] = []
        for workload in greeting.workloads:
            future: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
            self._exits[workload.name] = future
            if workload.exit:
                future.set_result(workload.exit)
            for output in workload.outputs:
                offset = self._consumed.pop(output.stream, output.consumed)
                if not output.consumed <= offset <= output.available:
                    kept = f"{output.consumed} to {output.available}"
                    raise ProtocolError(f"stream {output.stream} should go on at {offset}, the zone has {kept}")
                reader = OutputReader(output.stream, offset, self._window, self._queue, self._queue_credit)
                self.outputs[output.stream] = reader
                streams.append({"stream": output.stream, "consumed": offset})
            for state in workload.inputs:
                writer = InputWriter(state.stream, state.received, self._window, self._queue, ended=state.ended)
                writer.on_resumed(state.consumed)
                self.inputs[state.stream] = writer
        gone = sorted(number for number, offset in self._consumed.items() if offset and number not in self._may_be_gone)
        if gone:
            raise ProtocolError(f"streams {gone} are gone from the zone")
        hello = cbor.encode({"version": VERSION, "window": WINDOW, "streams": streams})
        self._frames.appendleft(encode_message(HELLO, hello))
        self._to_send.set()
        self._greeting.set_result(greeting)

    def _on_reply(self, message: dict[str, cbor.Value]) -> None:
        number, error = message.get("id"), message.get("error")
        future = self._calls.pop(number, None) if isinstance(number, int) else None
        if future is None:
            raise ProtocolError("a reply to no call")
        if future.done():
            return  # given up on
        if error is None:
            future.set_result(message.get("result"))
            return
        code, text = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
        if not isinstance(code, str) or not isinstance(text, str):
            raise ProtocolError("a refusal without code and message")
        _fail(future, _RefusalError(code, _printable(text)))

    def _on_stream(self, number: int, kind: int, payload: bytes) -> None:
        output, writer = self.outputs.get(number), self.inputs.get(number)
        if output and kind == DATA:
            output.on_data(payload)
        elif output and kind == END:
            output.on_end(decode_number(payload))
        elif writer and kind == CREDIT:
            writer.on_credit(decode_number(payload))
        elif writer and kind == RESET:
            writer.on_reset(decode_number(payload))
        else:
            raise ProtocolError(f"frame of type {kind} for stream {number}")

    def _queue(self, frame: bytes) -> None:
        if self._greeting.done():
            # At once if possible: to wake the task that sends takes longer than to send.
            if not self._frames and not self._credits and not self._ended.is_set() and self._transport.offer(frame):
                self.sent_bytes += len(frame)
                return
            self._to_send.set()
        # Bounded by the number of calls, and for streams by their windows.
        self._frames.append(frame)

    def _queue_credit(self, number: int, offset: int) -> None:
        self._credits[number] = offset
        self._to_send.set()

    async def _within(self, timeout: float, future: asyncio.Future[T], what: str) -> T:
        try:
            # Shielded: an answer that comes too late must still find its call.
            return await asyncio.wait_for(asyncio.shield(future), timeout)
        except TimeoutError:
            if future is not self._greeting:
                future.cancel()
            raise DeadlineError(
                f"the zone's agent did not {what} within {timeout:g} s",
                hint="the zone's console may say why: zonal zone console ZONE",
            ) from None

    def _check_open(self) -> None:
        if self.end_reason is not None:
            raise SessionEndedError(self.end_reason)

    def _check_new(self, number: int) -> None:
        self._check_open()
        if number in self.outputs or number in self.inputs:
            raise AlreadyExistsError(f"stream {number} is open")

    def _end(self, reason: str) -> None:
        if self.end_reason is not None:
            return
        self.end_reason = reason
        for future in (self._greeting, *self._calls.values(), *self._exits.values()):
            if not future.done():
                _fail(future, SessionEndedError(reason))
        for stream in (*self.outputs.values(), *self.inputs.values()):
            stream.on_session_end(reason)
        self._ended.set()


@asynccontextmanager
async def open_session(
    transport: Transport,
    *,
    consumed: Mapping[int, int] | None = None,
    may_be_gone: Mapping[int, int] | None = None,
    timeout: float = 30.0,
) -> AsyncGenerator[Session]:
    """Meets the agent and serves the session until the block ends; then the channel is closed.

    Raises ``SessionEndedError``, or ``DeadlineError`` when no HELLO comes within ``timeout`` seconds.
    """
    session = Session(transport, consumed=consumed, may_be_gone=may_be_gone)
    serving = asyncio.ensure_future(session.serve())
    try:
        await session.greeted(timeout)
        yield session
    finally:
        serving.cancel()
        await asyncio.wait([serving])
        if not serving.cancelled():
            serving.result()  # raises a fault of ours


class _RefusalError(Exception):
    """``args``: code and message."""


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    future.set_exception(error)
    future.exception()  # nobody may be waiting, and that is no fault


def _printable(text: str) -> str:
    """What a zone says, made safe for a terminal and a log."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)
