"""One workload in a running zone: started by the agent, its output kept and handed on, until its end is known.

Its log is the truth of what came out of it; clients hear the same beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zonal.errors import CommandNotExecutableError, CommandNotFoundError, InvalidInputError, ZonalError
from zonal.zones.allowance import Allowance
from zonal.zones.audience import Audiences
from zonal.zones.output_log import OutputLog
from zonal.zones.session import CallRefusedError, Session
from zonal.zones.session_streams import InputWriter, OutputReader, StreamBrokenError
from zonal.zones.spec import ExitResult, TerminalSize, ZoneSpec

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

FIRST_STREAM = 1
"""On the channel, of the workload that is a zone's own; its three streams have numbers in a row."""
START_TIMEOUT = 60.0
DRAIN_TIMEOUT = 20.0
"""Seconds without any output after its end, after which its streams count as ended."""
SIGKILL = 9
LINE_RATE, LINE_BURST = 20_000.0, 100_000.0
"""Lines that it may have written to its log, in a second and at once."""
SHARE, SHARE_BURST = 0.1, 4.0
"""Of a processor's time, in a second and at once, what may go into the output of a workload while nobody listens."""
OUT_OF_MEMORY = "out of memory"
"""Why a workload has ended whose zone had not enough of it."""

_REFUSALS: dict[str, type[ZonalError]] = {
    "not-found": CommandNotFoundError,
    "not-executable": CommandNotExecutableError,
    "no-user": InvalidInputError,
    "no-device": InvalidInputError,
}


class Workload:
    """See the module. ``name`` is the agent's for it, and for its root."""

    def __init__(self, name: str, first_stream: int = FIRST_STREAM) -> None:
        self.name = name
        self._stdin, self._stdout, self._stderr = range(first_stream, first_stream + 3)
        self.audiences = Audiences()
        self.lines_allowed = Allowance(LINE_RATE, LINE_BURST)
        self.time_allowed = Allowance(SHARE, SHARE_BURST)
        self._held = 0
        """Pumps that stand still since one of these is used up."""
        self.stdin: InputWriter | None = None
        """Its standard input, if it has one."""
        self._log: OutputLog | None = None
        self._outputs: list[tuple[Literal[1, 2], OutputReader]] = []

    @property
    def log(self) -> OutputLog | None:
        """Its log while it is open."""
        return self._log

    @property
    def consumed(self) -> dict[int, int]:
        """Bytes of each output stream that its log has; nothing without a log."""
        if self._log is None:
            return {}
        kept = self._log.offsets
        return {self._stdout: kept[1], self._stderr: kept[2]}

    def open_log(self, stack: AsyncExitStack, folder: Path, spec: ZoneSpec) -> OutputLog:
        """In ``folder``, until the stack unwinds."""
        self._log = stack.enter_context(OutputLog(folder, spec.log))
        return self._log

    async def start(self, session: Session, spec: ZoneSpec, config: dict[str, Value], devices: Sequence[Value]) -> None:
        """By ``config``, on the root of its name; ``devices`` are the zone's that it is to have.

        Raises ``CommandNotFoundError``, ``CommandNotExecutableError``, ``InvalidInputError``, ``CallRefusedError``.
        """
        self.stdin = session.open_input(self._stdin) if spec.stdin or spec.terminal else None
        self._outputs = [(1, session.open_output(self._stdout))]
        if not spec.terminal:
            self._outputs.append((2, session.open_output(self._stderr)))
        session.expect_workload(self.name)
        params: dict[str, Value] = {
            "id": self.name,
            "root": self.name,
            "config": config,
            "user": spec.user,
            "groups": [*spec.runtime.security.groups],
            "devices": [*devices],
            "every_device": spec.runtime.security.privileged,
            "terminal": spec.terminal,
            "stdin": self._stdin if self.stdin else 0,
            "stdout": self._stdout,
            "stderr": 0 if spec.terminal else self._stderr,
            "rows": spec.terminal_size.rows,
            "columns": spec.terminal_size.columns,
        }
        try:
            await session.call("run", params, START_TIMEOUT)
        except CallRefusedError as refusal:
            kind = _REFUSALS.get(refusal.code)
            if kind is None:
                raise
            raise kind(refusal.reason) from refusal

    def take_over(self, session: Session, spec: ZoneSpec) -> None:
        """Goes on with what another daemon has started; ``session`` has its streams."""
        self._outputs = [
            (1 if number == self._stdout else 2, reader)
            for number, reader in session.outputs.items()
            if number in (self._stdout, self._stderr)
        ]
        stdin = session.inputs.get(self._stdin)
        if stdin is not None and not spec.terminal and not spec.detach:
            stdin.end()  # whoever wrote to it is gone with the daemon of then
        self.stdin = stdin

    async def carry(self, session: Session) -> ExitResult:
        """All output into the log and to the audience, until its end and the workload's.

        Raises ``SessionEndedError`` when the agent was lost first.
        """
        async with asyncio.TaskGroup() as group:
            pumps = [group.create_task(self._pump(stream, reader)) for stream, reader in self._outputs]
            exit_ = await session.wait_exited(self.name)
            for pump in pumps:
                await self._drained(pump)
        return ExitResult(exit_.shell_status, OUT_OF_MEMORY if exit_.out_of_memory else "")

    async def signal(self, session: Session, number: int) -> None:
        """To its first process, and to all of them when it is SIGKILL. Raises ``CallRefusedError`` at its end."""
        params: dict[str, Value] = {"id": self.name, "signal": number, "all": number == SIGKILL}
        await session.call("signal", params, START_TIMEOUT)

    async def hold(self, session: Session, *, held: bool) -> None:
        """Has all of its processes stand still, or go on. Raises ``CallRefusedError`` at its end."""
        await session.call("freeze", {"id": self.name, "frozen": held}, START_TIMEOUT)

    async def forget(self, session: Session) -> None:
        """Once it has ended: neither the agent nor we know it any more."""
        await session.call("forget", {"id": self.name}, START_TIMEOUT)
        session.forget_workload(self.name, (self._stdin, self._stdout, self._stderr))

    async def resize(self, session: Session, size: TerminalSize) -> None:
        """Sets its terminal's size. Raises ``CallRefusedError`` at its end."""
        await session.call("resize", {"id": self.name, "rows": size.rows, "columns": size.columns}, START_TIMEOUT)

    async def _pump(self, stream: Literal[1, 2], reader: OutputReader) -> None:
        assert self._log is not None
        try:
            while data := await reader.read_much():
                began = time.thread_time()
                self._log.append(stream, data)
                cost = 2 * (time.thread_time() - began)  # to get it out of the ring took about as long
                self._held += 1
                try:
                    await self.lines_allowed.charge(data.count(b"\n"))
                    if not self.audiences.attended:
                        await self.time_allowed.charge(cost)
                finally:
                    self._held -= 1
                await self.audiences.put((stream, data))
                reader.done(len(data))
        except StreamBrokenError:
            return  # why is told where the session's end is

    async def _drained(self, pump: asyncio.Task[None]) -> None:
        assert self._log is not None
        while not pump.done():
            before = sum(self._log.offsets.values())
            await asyncio.wait([pump], timeout=DRAIN_TIMEOUT)
            held = self._held or self.audiences.full
            if not pump.done() and sum(self._log.offsets.values()) == before and not held:
                # A zone that tells of no end; its workload's is known, and so is all the output that there was.
                pump.cancel()
                return
