"""``make bench-streaming``: megabytes a second of a command's output through the CRI's streaming server.

The client is made of Kubernetes' own packages (tests/clients/remotecommand; needs the Go toolchain). Beside it, the
same output copied by the same kind of loop to a plain socket, which ``cat`` reads: the difference is what the
protocols, and their client, cost.
No Xen, no lab, no root.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming.handler import RemoteStreams
from zonal.cri.streaming.server import StreamingServer

CLIENT_SOURCE = Path(__file__).parents[1] / "tests/clients/remotecommand"
SIZE = 256 << 20
"""Bytes of output."""
ROUNDS = 5
CHUNK = 64 << 10


class Commands:
    """Runs commands of this machine."""

    async def exec(self, container_id: str, command: Sequence[str], streams: RemoteStreams) -> int:
        """Standard output only."""
        assert streams.stdout is not None
        await output_of(command, streams.stdout)
        return 0

    async def attach(self, container_id: str, streams: RemoteStreams) -> None:
        """Is not measured."""
        raise NotImplementedError

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Is not measured."""
        raise NotImplementedError


async def output_of(command: Sequence[str], write: Callable[[bytes], Awaitable[None]]) -> None:
    """Runs it to its end."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    while data := await process.stdout.read(CHUNK):
        await write(data)
    await process.wait()


COMMAND = ("head", "-c", str(SIZE), "/dev/zero")


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The output by a socket as it is."""

    async def write(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    await output_of(COMMAND, write)
    writer.close()


async def seconds(*command: str) -> float:
    """How long it takes."""
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    if await process.wait():
        sys.exit(f"{command[0]} failed")
    return time.perf_counter() - begin


async def measure(client: str) -> dict[str, list[float]]:
    """Seconds, round by round."""
    request = pb.ExecRequest(container_id="c", cmd=COMMAND, stdout=True)
    options = ("exec", "-no-stdin", "-no-stderr")
    times: dict[str, list[float]] = {"plain socket, cat": [], "SPDY": [], "WebSocket": []}
    async with StreamingServer(Commands()) as server, await asyncio.start_server(plain, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        for _ in range(ROUNDS):
            times["plain socket, cat"].append(await seconds("bash", "-c", f"cat </dev/tcp/127.0.0.1/{port}"))
            times["SPDY"].append(await seconds(client, *options, server.exec_url(request)))
            times["WebSocket"].append(await seconds(client, *options, "-websocket", server.exec_url(request)))
    return times


def main() -> None:
    """Builds the client, measures, and prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        client = f"{folder}/remotecommand"
        build = ("go", "build", "-buildvcs=false", "-trimpath", "-o", client, ".")
        subprocess.run(build, cwd=CLIENT_SOURCE, check=True)
        times = asyncio.run(measure(client))
    table = Table(
        "a command's output by", "MB/s, median", "slowest", "fastest", title=f"{SIZE >> 20} MiB, {ROUNDS} times"
    )
    for name, values in times.items():
        rates = [SIZE / 1e6 / value for value in (statistics.median(values), max(values), min(values))]
        table.add_row(name, *(f"{rate:.0f}" for rate in rates))
    Console().print(table)


if __name__ == "__main__":
    main()
