"""What the streaming server asks of the runtime behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class RemoteStreams:
    """A client's ends of a process."""

    tty: bool
    """Whether the client is a terminal, and wants the process to have one."""
    stdin: AsyncIterator[bytes] | None
    """Ends when the client closes its side of it, while output goes on."""
    stdout: Callable[[bytes], Awaitable[None]] | None
    """Returns when there is room for more; raises ``ConnectionError`` when the client has gone."""
    stderr: Callable[[bytes], Awaitable[None]] | None
    """As ``stdout``; ``None`` with a terminal, which has one output."""
    resizes: AsyncIterator[tuple[int, int]]
    """Columns and rows, at the beginning and whenever the client's terminal changes."""


class StreamHandler(Protocol):
    """Runs and attaches to processes, and connects to ports in sandboxes.

    Each may raise ``ZonalError``, whose message the client gets. Each is cancelled when its client goes.
    """

    async def exec(self, container_id: str, command: Sequence[str], streams: RemoteStreams) -> int:
        """Runs a further process in the container until it has ended; returns its exit status."""
        ...

    async def attach(self, container_id: str, streams: RemoteStreams) -> None:
        """Carries the streams of the container's main process until it has ended."""
        ...

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the port, on the sandbox's loopback; whoever asked closes it."""
        ...
