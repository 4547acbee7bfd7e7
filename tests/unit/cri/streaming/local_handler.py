"""A handler that runs processes of this machine, and connects to ports of its loopback."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import struct
import termios
from collections.abc import Awaitable, Callable, Sequence

from zonal.cri.streaming.handler import RemoteStreams
from zonal.errors import NotFoundError, UnavailableError

Write = Callable[[bytes], Awaitable[None]]


class LocalHandler:
    """Knows the containers and sandboxes whose names begin with "here"; to attach is to get a shell."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = asyncio.Event()
        self.over = asyncio.Event()

    async def exec(self, container_id: str, command: Sequence[str], streams: RemoteStreams) -> int:
        if not container_id.startswith("here"):
            raise NotFoundError(f"there is no container {container_id}")
        self.running += 1
        self.begun.set()
        try:
            run = _run_in_terminal if streams.tty else _run
            return await run(command, streams)
        finally:
            self.running -= 1
            self.over.set()

    async def attach(self, container_id: str, streams: RemoteStreams) -> None:
        await self.exec(container_id, ("sh",), streams)

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not sandbox_id.startswith("here"):
            raise NotFoundError(f"there is no sandbox {sandbox_id}")
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise UnavailableError(f"nothing listens on port {port}") from error


async def _run(command: Sequence[str], streams: RemoteStreams) -> int:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL if streams.stdin is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL if streams.stdout is None else asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL if streams.stderr is None else asyncio.subprocess.PIPE,
    )

    async def feed() -> None:
        assert streams.stdin is not None and process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            async for data in streams.stdin:
                process.stdin.write(data)
                await process.stdin.drain()
        process.stdin.close()

    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(feed()) if streams.stdin is not None else None
            for pipe, write in ((process.stdout, streams.stdout), (process.stderr, streams.stderr)):
                if pipe is not None and write is not None:
                    group.create_task(_copy(pipe, write))
            status = await process.wait()
            if feeding is not None:
                feeding.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return status


async def _copy(pipe: asyncio.StreamReader, write: Write) -> None:
    while data := await pipe.read(64 << 10):
        await write(data)


async def _run_in_terminal(command: Sequence[str], streams: RemoteStreams) -> int:
    loop = asyncio.get_running_loop()
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)

    async def feed() -> None:
        if streams.stdin is not None:
            async for data in streams.stdin:
                await loop.run_in_executor(None, os.write, ours, data)

    async def resize() -> None:
        async for columns, rows in streams.resizes:
            fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    try:
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(feed()), group.create_task(resize())]
            while True:
                try:
                    data = await loop.run_in_executor(None, os.read, ours, 4096)
                except OSError:
                    break  # EIO: the last process has closed its side
                if not data:
                    break
                if streams.stdout is not None:
                    await streams.stdout(data)
            for helper in helpers:
                helper.cancel()
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        os.close(ours)
