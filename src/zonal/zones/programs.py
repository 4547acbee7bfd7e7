"""The agent's programs for a container's files, run and cleared away: tar in and out, what is there and changed."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from zonal.errors import InvalidInputError, NotFoundError, WrongStateError, ZonalError
from zonal.zones.paths import Change, PathInfo, ProcessInfo
from zonal.zones.session import CallRefusedError, Session
from zonal.zones.session_streams import InputWriter, OutputReader, StreamBrokenError

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

MAX_SAID = 4096
"""Bytes that are kept of what a program says on stderr."""
MAX_PROCESSES = 16 << 20
"""Bytes of the list of processes."""
MAX_CHANGES = 64 << 20
"""Bytes of the list of changes."""
CLEAR_TIMEOUT = 30.0
_FIRST_STREAM = 1000
_STREAMS = 1 << 30


class ContainerFiles:
    """The files of one container; everything that comes from there is the zone's word only."""

    def __init__(self, session: Session, workload: str) -> None:
        self._session = session
        self._workload = workload

    async def read(self, path: str, *, follow: bool) -> AsyncIterator[bytes]:
        """A tar of ``path``, its last part as the top; of ``path/.`` only what is in it. Raises ``NotFoundError``."""
        async with self._program("read", path, follow=follow) as program:
            async for chunk in program.output.chunks():
                yield chunk
            await program.finish(path)

    async def write(self, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Unpacks a tar in the directory ``path``. Raises ``NotFoundError``, ``InvalidInputError``."""
        async with self._program("write", path, takes_input=True) as program:
            assert program.input is not None
            try:
                async for chunk in chunks:
                    await program.input.write(chunk)
                program.input.end()
            except StreamBrokenError:
                pass  # it says below why it has ended
            await program.finish(path)

    async def stat(self, path: str) -> PathInfo:
        """What is at a path."""
        async with self._program("stat", path) as program:
            said = await _all(program.output, 256)
            await program.finish(path)
        kind, _, itself = said.decode("ascii", "replace").partition(" ")
        if kind not in ("missing", "file", "directory", "other"):
            raise WrongStateError(f"the zone's agent says of {path} what cannot be: {kind[:32]!r}")
        return PathInfo(kind, itself == "link")

    async def changes(self) -> list[Change]:
        """What the container has changed of its image's files, in the order of paths."""
        async with self._program("changes", "/") as program:
            said = await _all(program.output, MAX_CHANGES)
            await program.finish("/")
        lines = [line.decode(errors="replace") for line in said.split(b"\0") if line]
        if any(line[0] not in "ACD" or not line[1:].startswith("/") for line in lines):
            raise WrongStateError("the zone's agent says of its changes what cannot be")
        return sorted((Change(line[0], line[1:]) for line in lines), key=lambda change: change.path)

    async def processes(self) -> list[ProcessInfo]:
        """The container's processes, in the order of their numbers."""
        async with self._program("processes", "/") as program:
            said = await _all(program.output, MAX_PROCESSES)
            await program.finish("/")
        words = said.decode(errors="replace").split("\0")[:-1]
        fields = [words[begin : begin + 11] for begin in range(0, len(words), 11)]
        try:
            found = [parse_process(each) for each in fields if len(each) == 11]
        except ValueError as error:
            raise WrongStateError("the zone's agent says of its processes what cannot be") from error
        return sorted(found, key=lambda process: process.pid)

    async def layer(self, skip: Collection[str], *, pause: bool) -> AsyncIterator[bytes]:
        """All changes as a layer of an image, an uncompressed tar, without the paths in ``skip``.

        With ``pause``, the container stands still meanwhile.
        """
        async with self._program("layer", "/", skip=tuple(skip), freeze=pause) as program:
            async for chunk in program.output.chunks():
                yield chunk
            await program.finish("/")

    @asynccontextmanager
    async def _program(
        self,
        verb: str,
        path: str,
        *,
        follow: bool = False,
        takes_input: bool = False,
        skip: tuple[str, ...] = (),
        freeze: bool = False,
    ) -> AsyncGenerator[_Running]:
        if not path.startswith("/") or "\0" in path:
            raise InvalidInputError(f"{path[:64]!r} is not an absolute path in the container", hint="begin it with /")
        session = self._session
        name = f"program-{secrets.token_hex(8)}"
        first = _FIRST_STREAM + secrets.randbelow(_STREAMS)
        numbers = (first, first + 1, first + 2)
        session.expect_workload(name)
        started = False
        running = _Running(
            session,
            name,
            session.open_output(first + 1),
            session.open_output(first + 2),
            session.open_input(first) if takes_input else None,
        )
        try:
            params: dict[str, Value] = {"id": name, "container": self._workload, "verb": verb, "path": path}
            params |= {"follow": follow, "skip": list(skip), "freeze": freeze}
            params |= {"stdin": first if takes_input else 0, "stdout": first + 1, "stderr": first + 2}
            try:
                await session.call("program", params)
            except CallRefusedError as error:
                raise WrongStateError(f"{path}: {error.reason}") from error
            started = True
            yield running
        finally:
            if started:
                # A zone that does not play along keeps nobody here for long.
                with suppress(ZonalError, TimeoutError):
                    async with asyncio.timeout(CLEAR_TIMEOUT):
                        await running.clear_away()
            session.forget_workload(name, numbers)


class _Running:
    """A program that runs."""

    def __init__(
        self, session: Session, name: str, output: OutputReader, errors: OutputReader, input: InputWriter | None
    ) -> None:
        self.output = output
        self.input = input
        self._errors = errors
        self._session = session
        self._name = name
        self._ended = False

    async def finish(self, path: str) -> None:
        """Waits for the end. Raises ``NotFoundError`` or ``InvalidInputError`` with the words of one that failed."""
        said = (await _all(self._errors, MAX_SAID)).decode(errors="replace").strip()
        end = await self._session.wait_exited(self._name)
        self._ended = True
        if end.shell_status:
            words = "".join(char if char.isprintable() else " " for char in said) or f"status {end.shell_status}"
            kind = NotFoundError if "No such file" in words else InvalidInputError
            raise kind(f"{path} in the container: {words}", hint="check the path")

    async def clear_away(self) -> None:
        """Ends the program if it still runs, and has the agent forget it."""
        self.output.give_up()
        self._errors.give_up()
        if self.input is not None:
            self.input.end()
        if not self._ended:
            with suppress(CallRefusedError):
                await self._session.call("signal", {"id": self._name, "signal": 9})
            await self._session.wait_exited(self._name)
        await self._session.call("forget", {"id": self._name})


def parse_process(words: list[str]) -> ProcessInfo:
    """One process, of the eleven texts that the agent writes. Raises ``ValueError``."""
    pid, parent, uid, started, cpu, virtual, resident = (_number(words[place]) for place in (0, 1, 2, 5, 6, 7, 8))
    return ProcessInfo(
        pid=pid,
        parent=parent,
        uid=uid,
        terminal=words[3],
        state=words[4][:1],
        started_ns=started,
        cpu_ns=cpu,
        virtual_bytes=virtual,
        resident_bytes=resident,
        name=words[9],
        command=words[10],
    )


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < 1 << 63):
        raise ValueError(text)
    return int(text)


async def _all(reader: OutputReader, most: int) -> bytes:
    data = bytearray()
    async for chunk in reader.chunks():
        data += chunk[: most - len(data)]
    return bytes(data)
