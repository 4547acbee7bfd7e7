"""Talking to a running lab without its network: QEMU over QMP, and the guest agent inside over a virtio port."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import cast

from qemu.qmp import EventListener, QMPClient, QMPError

from zonal.errors import DeadlineError, ResourceExhaustedError, UnavailableError
from zonal.lab.paths import GIB, LabPaths, free_bytes
from zonal.shares.socket_path import short_path

DISK_NODES = ("root", "data")
"""The disks that a snapshot holds; the first holds the memory too."""

_ANSWER_BYTES = 8 << 20
_JOB_SECONDS = 300

_SNAPSHOT_SPACE = GIB // 4
"""With less than this left, a snapshot that failed has failed for want of space."""


@asynccontextmanager
async def monitor(paths: LabPaths, seconds: float = 30) -> AsyncGenerator[QMPClient]:
    """A QMP session with the lab's QEMU; raises `UnavailableError` when it has ended."""
    client = QMPClient(paths.name)
    try:
        async with asyncio.timeout(seconds):
            await client.connect(_connected(paths, "qmp.sock"))
    except TimeoutError as error:
        raise DeadlineError(
            f"QEMU of the lab {paths.name} does not answer", hint=f"zonal lab down --force --name {paths.name}"
        ) from error
    except (OSError, QMPError) as error:
        raise UnavailableError(f"QEMU of the lab {paths.name} has ended: {error}") from error
    try:
        yield client
    finally:
        # QEMU closing its end first is no trouble here: whoever needs to know watches for it.
        with suppress(OSError, EOFError, QMPError):
            await client.disconnect()


async def save_snapshot(client: QMPClient, paths: LabPaths, tag: str) -> None:
    """Saves the running machine under ``tag``; it stands still for about a second."""
    arguments = {"tag": tag, "vmstate": DISK_NODES[0], "devices": list(DISK_NODES)}
    try:
        await _job(client, "snapshot-save", arguments)
    except _JobFailedError as error:
        # Of the machine's memory QEMU says no more than "Input/output error".
        if "No space" in str(error) or free_bytes(paths.folder) < _SNAPSHOT_SPACE:
            raise ResourceExhaustedError(
                f"no space for the snapshot of the lab {paths.name}: "
                f"{free_bytes(paths.folder) / GIB:.2f} GiB are free in {paths.folder}",
                hint="free some space; until then the lab goes back to its last snapshot",
            ) from error
        raise UnavailableError(f"cannot save the lab {paths.name}: {error}") from error


async def delete_snapshot(client: QMPClient, tag: str, nodes: list[str]) -> None:
    """Deletes the snapshot ``tag`` from the disks ``nodes``."""
    await _job(client, "snapshot-delete", {"tag": tag, "devices": nodes})


async def status(client: QMPClient) -> str:
    """QEMU's word for the machine's state: ``running``, ``paused``, ``io-error`` and so on (RunState)."""
    answer = cast("dict[str, object]", await client.execute("query-status"))
    return str(answer["status"])


class _JobFailedError(Exception):
    pass


async def _job(client: QMPClient, command: str, arguments: Mapping[str, object]) -> None:
    """Runs one of QEMU's background jobs to its end."""
    name = f"zonal-{command}"
    changes = EventListener("JOB_STATUS_CHANGE", lambda event: _field(event["data"], "id") == name)
    with client.listen(changes):
        async with asyncio.timeout(_JOB_SECONDS):
            await client.execute(command, {"job-id": name, **arguments})
            async for event in changes:
                if _field(event["data"], "status") == "concluded":
                    break
    jobs = cast("list[dict[str, object]]", await client.execute("query-jobs"))
    await client.execute("job-dismiss", {"id": name})
    for job in jobs:
        if job["id"] == name and job.get("error"):
            raise _JobFailedError(str(job["error"]))


def _field(data: object, name: str) -> object:
    return cast("dict[str, object]", data).get(name)


class GuestAgent:
    """QEMU's guest agent inside the lab (docs/interop/qemu-ga-ref of QEMU)."""

    def __init__(self, reader: asyncio.StreamReader, writer: int) -> None:
        self._reader = reader
        self._writer = writer

    async def set_clock(self) -> None:
        """Sets the lab's clock to this machine's, to half a second."""
        # The static busybox starts in half of the time of coreutils' date.
        await self.run("/usr/bin/busybox", "date", "-u", "-s", f"@{time.time():.0f}")

    async def run(self, program: str, *arguments: str) -> bytes:
        """Runs a program as root and gives its output; raises `UnavailableError` when it fails."""
        asked = {"path": program, "arg": list(arguments), "capture-output": True}
        started = cast("dict[str, int]", await self.ask("guest-exec", asked))
        while True:
            state = cast("dict[str, object]", await self.ask("guest-exec-status", {"pid": started["pid"]}))
            if state["exited"]:
                break
        output = base64.b64decode(str(state.get("out-data", "")))
        if state.get("exitcode") != 0:
            reason = base64.b64decode(str(state.get("err-data", ""))).decode(errors="replace").strip()
            raise UnavailableError(f"{program} failed in the lab: {reason or state}")
        return output

    def tell(self, command: str, arguments: Mapping[str, object]) -> None:
        """Sends one command, for which no answer comes."""
        self._send(json.dumps({"execute": command, "arguments": arguments}).encode())

    async def ask(self, command: str, arguments: Mapping[str, object]) -> object:
        """Sends one command and gives what it returns."""
        self.tell(command, arguments)
        line = await self._reader.readline()
        if not line:
            raise UnavailableError("the lab's guest agent went away")
        answer = cast("dict[str, object]", json.loads(line))
        if "error" in answer:
            raise UnavailableError(f"the lab's guest agent refused {command}: {answer['error']}")
        return answer.get("return")

    async def synchronise(self) -> None:
        """Drops what a session before this one may have left unread; returns once the agent answers."""
        mark = time.time_ns() & 0x7FFFFFFF
        request = {"execute": "guest-sync-delimited", "arguments": {"id": mark}}
        # 0xFF is in no JSON text: it makes the agent forget half a command, and marks the beginning of its answer.
        self._send(b"\xff" + json.dumps(request).encode())
        while True:
            await self._reader.readuntil(b"\xff")
            answer = json.loads(await self._reader.readline())
            if answer.get("return") == mark:
                return

    def _send(self, data: bytes) -> None:
        # Pipes take up to PIPE_BUF bytes whole (pipe(7)); no command here is longer.
        os.write(self._writer, data + b"\n")


@asynccontextmanager
async def guest_agent(paths: LabPaths) -> AsyncGenerator[GuestAgent]:
    """A session with the guest agent; begins once the agent answers, so in a lab that boots it waits for that.

    It does not see QEMU end, since pipes do not show that: watch for it by `monitor`.
    """
    with ExitStack() as stack:
        source, sink = (
            stack.enter_context(os.fdopen(os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0))
            for path, mode in ((paths.agent_out, os.O_RDONLY), (paths.agent_in, os.O_RDWR))
        )
        reader = asyncio.StreamReader(limit=_ANSWER_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), source
        )
        stack.callback(transport.close)
        agent = GuestAgent(reader, sink.fileno())
        try:
            await agent.synchronise()
        except (asyncio.IncompleteReadError, ValueError) as error:
            raise UnavailableError(f"the guest agent of the lab {paths.name} went away") from error
        yield agent


def _connected(paths: LabPaths, name: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(paths.folder) as place:
            connection.connect(f"{place}/{name}")
        connection.setblocking(False)
    except OSError:
        connection.close()
        raise
    return connection
