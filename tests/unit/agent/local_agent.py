"""Starts an agent in a process of its own, and meets it as the host does, over sockets in place of a channel."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import zonal

SOURCES = Path(zonal.__file__).parent.parent
PROGRAM = Path(__file__).parent / "agent_process.py"


class SocketTransport:
    """The host's ``Transport`` over a stream socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        """What has come."""
        return await self._reader.read(65536)

    async def write(self, data: bytes) -> None:
        """Sends all."""
        self._writer.write(data)
        await self._writer.drain()

    def offer(self, data: bytes) -> bool:
        """Sends nothing: all of it goes by ``write``."""
        del data
        return False

    def close(self) -> None:
        """Ends both directions."""
        self._writer.close()


@dataclass
class LocalAgent:
    """The process and the way to reach it."""

    process: subprocess.Popen[bytes]
    control: socket.socket

    async def connect(self) -> SocketTransport:
        """A fresh channel; the agent gives up the one before."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"x"], [theirs.fileno()])
        return SocketTransport(*await asyncio.open_connection(sock=ours))


@contextmanager
def local_agent(*mode: str, descriptors: Sequence[int] = (), prefix: Sequence[str] = ()) -> Generator[LocalAgent]:
    """Runs the agent in a mode of ``agent_process``, below the command ``prefix``, until the block ends."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-I", "-S", PROGRAM, SOURCES, str(theirs.fileno()), *mode]
                + [str(descriptor) for descriptor in descriptors],
                pass_fds=(theirs.fileno(), *descriptors),
            )
        try:
            yield LocalAgent(process, ours)
        finally:
            ours.shutdown(socket.SHUT_RDWR)
            process.wait(10)
