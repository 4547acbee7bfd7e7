"""The further processes of one zone's container (``zonal exec``): started, carried, and cleared away.

Each lives in a task of its own, so that it goes on when its client hangs up. Its output then goes nowhere, as docker
has it; what a process of an earlier daemon writes goes the same way.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zonal.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    WrongStateError,
    ZonalError,
    ZoneFailedError,
)
from zonal.zones.audience import Audience
from zonal.zones.greeting import Exit, WorkloadState
from zonal.zones.oci_spec import exec_process
from zonal.zones.running import Stdin
from zonal.zones.session import CallRefusedError, Session
from zonal.zones.session_streams import InputWriter, OutputReader, StreamBrokenError
from zonal.zones.spec import ExecSpec, ExitResult, OutputChunk, TerminalSize, ZoneSpec

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

log = logging.getLogger(__name__)

CALL_TIMEOUT = 60.0
SIGKILL = 9
EXEC, PROBE = "exec", "probe"
"""Kinds of them, which their names begin with: those of users, and those that ask after a workload's health."""
DRAIN_TIMEOUT = 2.0
"""Seconds without output after a process's end, after which what still holds its output open is cut off."""
END_TIMEOUT = 1.0
"""Seconds in which a container's end must be told of that a further process failed over."""
FINISH_TIMEOUT = 20.0
"""Seconds that the zone has to tell of the ends of all processes, once its container has ended."""
FORGET_TIMEOUT = 3600.0
"""Seconds: the agent may stand still meanwhile, since its zone is paused."""
_FIRST_STREAM = 1000
_STREAMS = 1 << 30
_REFUSALS: dict[str, type[ZonalError]] = {
    "not-found": CommandNotFoundError,
    "not-executable": CommandNotExecutableError,
    "no-user": InvalidInputError,
    "limit": ResourceExhaustedError,
    "no-such": WrongStateError,
}


@dataclass(frozen=True)
class _Numbers:
    """Of the streams on the channel; 0 is none."""

    stdin: int
    stdout: int
    stderr: int


class ExecProcess:
    """One of them; fulfils ``zonal.zones.spec.RunningProcess``."""

    def __init__(self, session: Session, name: str, outputs: Iterable[tuple[Literal[1, 2], OutputReader]]) -> None:
        self.name = name
        """The agent's name for it."""
        self.audience = Audience()
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: asyncio.Future[ExitResult] = asyncio.get_running_loop().create_future()
        self.stdin = Stdin(None)
        self.writer: InputWriter | None = None
        self.abandoned = False
        self.outputs = tuple(outputs)
        self._session = session

    @property
    def id(self) -> str:
        """See ``RunningProcess``."""
        return self.name.removeprefix("exec-")

    async def output(self) -> AsyncIterator[OutputChunk]:
        """See ``RunningProcess``."""
        async for chunk in self.audience.chunks():
            yield chunk

    async def resize(self, size: TerminalSize) -> None:
        """See ``RunningProcess``."""
        await self._call("resize", {"id": self.name, "rows": size.rows, "columns": size.columns})

    async def signal(self, number: int) -> None:
        """See ``RunningProcess``."""
        await self._call("signal", {"id": self.name, "signal": number})

    async def wait(self) -> ExitResult:
        """See ``RunningProcess``."""
        return await asyncio.shield(self.ended)

    async def kill_all(self) -> None:
        """Kills it and what it has started, but for what is in a session of its own (setsid(2))."""
        await self._call("signal", {"id": self.name, "signal": SIGKILL, "session": True})

    async def detach(self) -> None:
        """See ``RunningProcess``."""
        self.audience.leave()

    def abandon(self) -> None:
        """Whoever wanted it has gone before it was started: its output goes nowhere, and its input ends."""
        self.audience.leave()
        self.abandoned = True

    async def _call(self, method: str, params: dict[str, Value]) -> None:
        if not self.ended.done():
            # One that has just ended can be neither signalled nor resized; its end is on its way to us.
            with suppress(CallRefusedError):
                await self._session.call(method, params, CALL_TIMEOUT)


class Execs:
    """All of one zone's."""

    def __init__(self, lives: asyncio.TaskGroup, zone: ZoneSpec, container: str) -> None:
        """``lives`` outlives the zone; ``container`` is the agent's name for it."""
        self._lives = lives
        self._zone = zone
        self._container = container
        self._running: dict[str, ExecProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    @property
    def ids(self) -> list[str]:
        """Of those that run."""
        return list(self._running)

    def find(self, exec_id: str) -> ExecProcess:
        """One that runs. Raises ``NotFoundError``."""
        if exec_id not in self._running:
            raise NotFoundError(f"zone {self._zone.name} has no further process {exec_id!r}", hint="it may have ended")
        return self._running[exec_id]

    @property
    def closed(self) -> bool:
        """Whether the container has ended."""
        return self._ended.is_set()

    async def start(self, session: Session, spec: ExecSpec, kind: str = EXEC) -> ExecProcess:
        """Starts one; see ``ZoneService.exec``. A caller that gives up leaves it running, if it is no probe."""
        if self.closed:
            raise WrongStateError(f"zone {self._zone.name} is about to end")
        description = exec_process(self._zone, spec)
        first = _FIRST_STREAM + 3 * secrets.randbelow(_STREAMS)
        numbers = _Numbers(first if spec.stdin else 0, first + 1, 0 if spec.terminal else first + 2)
        name = f"{kind}-{secrets.token_hex(8)}"
        session.expect_workload(name)
        outputs: list[tuple[Literal[1, 2], OutputReader]] = [(1, session.open_output(numbers.stdout))]
        if numbers.stderr:
            outputs.append((2, session.open_output(numbers.stderr)))
        process = ExecProcess(session, name, outputs)
        if numbers.stdin:
            process.writer = session.open_input(numbers.stdin)
            process.stdin = Stdin(process.writer, keep_open=spec.terminal)
        params: dict[str, Value] = {
            "id": name,
            "container": self._container,
            "process": description,
            "user": spec.user or self._zone.user,
            "groups": [*self._zone.runtime.security.groups],
            "terminal": spec.terminal,
            "rows": spec.terminal_size.rows,
            "columns": spec.terminal_size.columns,
            "stdin": numbers.stdin,
            "stdout": numbers.stdout,
            "stderr": numbers.stderr,
        }
        self._begin(session, process, params)
        try:
            await asyncio.shield(process.started)
        except asyncio.CancelledError:
            process.abandon()
            raise
        return process

    def take_over(self, session: Session, workloads: Iterable[WorkloadState]) -> None:
        """Clears away what an earlier daemon has started, once it has ended; its probes are killed."""
        for workload in workloads:
            if workload.name == self._container or workload.container != self._container:
                continue
            readers = [session.outputs[state.stream] for state in workload.outputs if state.stream in session.outputs]
            process = ExecProcess(session, workload.name, [(1, reader) for reader in readers])
            for state in workload.inputs:
                process.writer = session.inputs[state.stream]
                process.writer.end()
            process.audience.leave()
            process.started.set_result(None)
            self._begin(session, process, None)

    async def finish(self) -> None:
        """After the container's end, and with it theirs: returns when all are cleared away."""
        self._ended.set()
        for process in self._running.values():
            process.audience.take_all()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=FINISH_TIMEOUT)
            if left:
                log.warning("zone %s: %d further processes are not seen to end", self._zone.name, len(left))
        await self.leave()

    async def leave(self) -> None:
        """Lets go of them all."""
        self._ended.set()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, session: Session, process: ExecProcess, params: dict[str, Value] | None) -> None:
        task = self._lives.create_task(self._live(session, process, params), name=f"{process.name} {self._zone.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, session: Session, process: ExecProcess, params: dict[str, Value] | None) -> None:
        """From the start to the end of one; what is wrong is told to those who wait."""
        self._running[process.id] = process
        failure: BaseException = ZoneFailedError(f"zone {self._zone.name} ended before the process did")
        try:
            if params is not None:
                await self._start(session, process, params)
            elif process.name.startswith(PROBE):
                await process.kill_all()
            end = await self._carry(session, process)
            process.ended.set_result(ExitResult(end.shell_status))
            process.audience.end()
            await self._forget(session, process)
        except ZonalError as error:
            failure = error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("zone %s: a fault of zonald's", self._zone.name)
            failure = error
        finally:
            self._running.pop(process.id, None)
            for future in (process.started, process.ended):
                _fail(future, failure)
            process.audience.end()

    async def _start(self, session: Session, process: ExecProcess, params: dict[str, Value]) -> None:
        try:
            await session.call("exec", params, CALL_TIMEOUT)
        except CallRefusedError as refusal:
            # The agent has none of its streams then.
            session.forget_workload(process.name, _numbers(process))
            kind = _REFUSALS.get(refusal.code)
            if kind is None and await self._ends():
                raise WrongStateError(f"{self._zone.name} is not running: it has just ended") from refusal
            raise (kind(refusal.reason) if kind else refusal) from refusal
        process.started.set_result(None)
        if process.abandoned and process.writer is not None:
            process.writer.end()  # not before: the agent would not know the stream

    async def _ends(self) -> bool:
        """Whether the container is about to end: crun's words for that are many, and the end is told a little later."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), END_TIMEOUT)
        return self.closed

    async def _carry(self, session: Session, process: ExecProcess) -> Exit:
        """All output to its client, until its end and the process's."""
        pumps = [asyncio.ensure_future(_pump(process, stream, reader)) for stream, reader in process.outputs]
        try:
            end = await session.wait_exited(process.name)
            await _drain(process, pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            if pumps:
                await asyncio.wait(pumps)
        return end

    async def _forget(self, session: Session, process: ExecProcess) -> None:
        """Has the agent forget it. Until then, its streams may still be told of."""
        if process.writer is not None:
            process.writer.on_session_end("the process has ended")
        with suppress(CallRefusedError):
            await session.call("forget", {"id": process.name}, FORGET_TIMEOUT)
        session.forget_workload(process.name, _numbers(process))


async def _pump(process: ExecProcess, stream: Literal[1, 2], reader: OutputReader) -> None:
    with suppress(StreamBrokenError):  # why is told where the session's end is
        while data := await reader.read_much():
            await process.audience.put((stream, data))
            reader.done(len(data))


async def _drain(process: ExecProcess, pumps: Sequence[asyncio.Future[None]]) -> None:
    """Until all output is there; a child that outlives the process may keep it open, but not for ever."""
    while left := [pump for pump in pumps if not pump.done()]:
        before = _progress(process)
        await asyncio.wait(left, timeout=DRAIN_TIMEOUT)
        if _progress(process) == before and not process.audience.full:
            for _, reader in process.outputs:
                reader.give_up()
            return


def _progress(process: ExecProcess) -> int:
    return sum(reader.offset for _, reader in process.outputs)


def _numbers(process: ExecProcess) -> list[int]:
    return [reader.number for _, reader in process.outputs] + ([process.writer.number] if process.writer else [])


def _fail(future: asyncio.Future[None] | asyncio.Future[ExitResult], failure: BaseException) -> None:
    if not future.done():
        future.set_exception(failure)
        future.exception()  # nobody may be waiting, and that is no fault
