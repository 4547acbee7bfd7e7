"""Commands in containers whose outcome a kubelet waits for, as probes are (ExecSync)."""

from __future__ import annotations

import asyncio
import signal
from typing import Final

from zonal.cri.api import runtime_pb2 as pb
from zonal.errors import DeadlineError, InvalidInputError
from zonal.zones.spec import ExecSpec, ZoneService

MAX_OUTPUT: Final = 16 << 20
"""Bytes that are kept of each stream, as the CRI has it; more is dropped while the command goes on."""


async def exec_sync(zones: ZoneService, container_id: str, command: list[str], timeout: float) -> pb.ExecSyncResponse:
    """Runs a command to its end; 0 seconds: for as long as it takes. Raises ``DeadlineError`` when it is killed."""
    if not command:
        raise InvalidInputError("there is no command to run")
    process = await zones.exec(container_id, ExecSpec(command=tuple(command)))
    kept: dict[int, bytearray] = {1: bytearray(), 2: bytearray()}
    try:
        async with asyncio.timeout(timeout if timeout > 0 else None):
            async for stream, data in process.output():
                room = MAX_OUTPUT - len(kept[stream])
                kept[stream] += data[: max(0, room)]
            end = await process.wait()
    except TimeoutError:
        raise DeadlineError(f"the command {command[0]!r} was not done within {timeout:g} s") from None
    finally:
        # Who gives up waiting leaves nothing running; for a process that has ended this is nothing.
        await process.signal(signal.SIGKILL)
        await process.stdin.close()
        await process.detach()
    return pb.ExecSyncResponse(stdout=bytes(kept[1]), stderr=bytes(kept[2]), exit_code=end.status)
