"""What a run, a further process and an attached client have in common: input, sizes and signals in, output out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from zonal.api import control_pb2 as pb
from zonal.api.signals import MAX_SIGNAL
from zonal.daemon.messages import phase_messages
from zonal.daemon.rpc import Context
from zonal.daemon.run_spec import terminal_size
from zonal.daemon.stream_sockets import StreamSocket
from zonal.errors import InvalidInputError, UnavailableError
from zonal.zones.spec import RunningProcess

MAX_CHUNK = 256 << 10
"""Bytes of output in one reply."""


async def attend(
    process: RunningProcess,
    requests: AsyncIterator[pb.RunRequest],
    context: Context,
    stopping: asyncio.Event,
    streams: StreamSocket | None,
    *,
    hint: str,
) -> None:
    """Carries a process's streams until it has ended, and says how.

    Input and output go by ``streams`` if there are such, else by the call itself.

    Raises ``UnavailableError`` once ``stopping`` is set; ``hint`` is then the command to go on with.
    """
    async with asyncio.TaskGroup() as group:
        helpers = [
            group.create_task(_feed(process, requests)),
            group.create_task(_leave_when(stopping, hint)),
        ]
        if streams is not None:
            helpers.append(group.create_task(_feed_from(streams, process)))
        async for stream, data in process.output():
            if streams is not None:
                await streams.write(stream, data)
                continue
            for begin in range(0, len(data), MAX_CHUNK):
                piece = data[begin : begin + MAX_CHUNK]
                await context.write(pb.RunReply(stdout=piece) if stream == 1 else pb.RunReply(stderr=piece))
        result = await process.wait()
        exited = pb.Exited(status=result.status, reason=result.reason, phases=phase_messages(result.phases))
        await context.write(pb.RunReply(exited=exited))
        for helper in helpers:
            helper.cancel()


def checked_signal(number: int) -> int:
    """The number, if Linux has such a signal. Raises ``InvalidInputError``."""
    if not 1 <= number <= MAX_SIGNAL:
        raise InvalidInputError(f"there is no signal {number}", hint=f"1 to {MAX_SIGNAL}")
    return number


async def _feed(process: RunningProcess, requests: AsyncIterator[pb.RunRequest]) -> None:
    async for request in requests:
        match request.WhichOneof("request"):
            case "stdin":
                await process.stdin.write(request.stdin)
            case "stdin_end":
                await process.stdin.close()
            case "resize":
                await process.resize(terminal_size(request.resize))
            case "signal":
                await process.signal(checked_signal(request.signal))
            case _:
                raise InvalidInputError("after the first request come input, sizes and signals only")
    await process.stdin.close()


async def _feed_from(streams: StreamSocket, process: RunningProcess) -> None:
    while data := await streams.read():
        await process.stdin.write(data)
    await process.stdin.close()


async def _leave_when(stopping: asyncio.Event, hint: str) -> None:
    await stopping.wait()
    raise UnavailableError("zonald is stopping; the zone goes on", hint=f"once it is back: {hint}")
