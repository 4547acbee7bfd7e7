"""What the streaming server's clients want of containers: a command, the container itself, a port of the pod."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from zonal.cri.pods import Pods
from zonal.cri.records import CriStore
from zonal.cri.streaming.handler import RemoteStreams
from zonal.errors import UnavailableError, WrongStateError
from zonal.zones.spec import ExecSpec, RunningProcess, TerminalSize, ZoneService

_CONNECT_TIMEOUT = 10.0


class Streams:
    """Serves ``zonal.cri.streaming``; see ``StreamHandler``."""

    def __init__(self, store: CriStore, zones: ZoneService, pods: Pods) -> None:
        self._store = store
        self._zones = zones
        self._pods = pods

    async def exec(self, container_id: str, command: Sequence[str], streams: RemoteStreams) -> int:
        """A further process, which is killed when its client goes."""
        entry = self._store.find_container(container_id)
        spec = ExecSpec(command=tuple(command), terminal=streams.tty, stdin=streams.stdin is not None)
        process = await self._zones.exec(entry.id, spec)
        try:
            return await _attend(process, streams)
        finally:
            with suppress(Exception):
                await process.stdin.close()
            await process.detach()

    async def attach(self, container_id: str, streams: RemoteStreams) -> None:
        """A container's own process, from now on; it goes on when its client goes."""
        entry = self._store.find_container(container_id)
        process = await self._zones.attach(entry.id, stdin=streams.stdin is not None)
        try:
            await _attend(process, streams, keep_stdin=not entry.config.stdin_once)
        finally:
            await process.detach()

    async def port_forward(self, sandbox_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the pod's address, which is its loopback's for most that listen there."""
        entry = self._store.find_pod(sandbox_id)
        record = await self._pods.record(entry)
        if record is None or not record.addresses:
            raise WrongStateError(f"the pod {entry.id[:12]} has no network")
        address = record.addresses[0].partition("/")[0]
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                return await asyncio.open_connection(address, port)
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"port {port} of the pod cannot be reached: {error}") from error


async def _attend(process: RunningProcess, streams: RemoteStreams, *, keep_stdin: bool = False) -> int:
    """Passes everything to and fro, until the process has ended and all of its output was taken."""

    async def feed() -> None:
        if streams.stdin is None:
            return
        async for data in streams.stdin:
            await process.stdin.write(data)
        if not keep_stdin:
            await process.stdin.close()

    async def resize() -> None:
        async for columns, rows in streams.resizes:
            await process.resize(TerminalSize(rows=rows, columns=columns))

    inputs = [asyncio.ensure_future(feed()), asyncio.ensure_future(resize())]
    try:
        async for stream, data in process.output():
            write = streams.stdout if stream == 1 else streams.stderr
            if write is not None:
                await write(data)
        return (await process.wait()).status
    finally:
        for each in inputs:
            each.cancel()
        await asyncio.gather(*inputs, return_exceptions=True)
