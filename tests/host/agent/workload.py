"""Runs a command in a container of an agent, and gathers what comes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zonal.zones.greeting import Exit
from zonal.zones.session import Session
from zonal.zones.session_streams import InputWriter, OutputReader

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

ROOT = "r"
_CAPABILITIES = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID"]


@dataclass(frozen=True)
class Running:
    """A workload under way; ``stdout`` is the terminal when it has one."""

    session: Session
    name: str
    stdin: InputWriter
    stdout: OutputReader
    stderr: OutputReader

    async def finish(self) -> tuple[bytes, bytes, Exit]:
        """All its output, and how it ended."""
        async with asyncio.TaskGroup() as group:
            out, err = group.create_task(read_all(self.stdout)), group.create_task(read_all(self.stderr))
            ended = await self.session.wait_exited(self.name)
        return out.result(), err.result(), ended


async def read_all(reader: OutputReader) -> bytes:
    """To the end."""
    return b"".join([chunk async for chunk in reader.chunks()])


@asynccontextmanager
async def running(session: Session, *args: str, **options: Any) -> AsyncGenerator[Running]:
    """As ``start``; killed and forgotten at the end."""
    workload = await start(session, *args, **options)
    try:
        yield workload
    finally:
        await session.call("signal", {"id": workload.name, "signal": 9})
        await session.wait_exited(workload.name)
        await session.call("forget", {"id": workload.name})
        streams = (workload.stdin, workload.stdout, workload.stderr)
        session.forget_workload(workload.name, [stream.number for stream in streams])


async def start(
    session: Session,
    *args: str,
    name: str = "w",
    container: str | None = None,
    user: str = "",
    env: Mapping[str, str] | None = None,
    memory: int | None = None,
    terminal: tuple[int, int] | None = None,
) -> Running:
    """Starts ``args`` in a new container, or in ``container``; ``terminal`` is rows and columns."""
    first = 1 if container is None else 11
    session.expect_workload(name)
    workload = Running(
        session, name, session.open_input(first), session.open_output(first + 1), session.open_output(first + 2)
    )
    variables = {"PATH": "/bin", **(env or {})}
    process: dict[str, Any] = {
        "cwd": "/",
        "args": list(args),
        "env": [f"{key}={value}" for key, value in variables.items()],
        "user": {"uid": 0, "gid": 0},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
    }
    params: dict[str, Value] = {
        "id": name,
        "user": user,
        "stdin": first,
        "stdout": first + 1,
        "stderr": 0 if terminal else first + 2,
        "terminal": terminal is not None,
        "rows": terminal[0] if terminal else 0,
        "columns": terminal[1] if terminal else 0,
    }
    if terminal:
        workload.stderr.on_end(0)  # there is none
    if container is None:
        params |= {"root": ROOT, "config": _config(process, memory)}
    else:
        params |= {"container": container, "process": process}
    streams = (first, first + 1, first + 2)
    try:
        await session.call("run" if container is None else "exec", params)
    except BaseException:
        session.forget_workload(name, streams)
        raise
    return workload


def _config(process: dict[str, Any], memory: int | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "ociVersion": "1.2.0",
        "process": process,
        "root": {},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance"]},
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts")]},
    }
    if memory:
        config["linux"]["resources"] = {"memory": {"limit": memory, "swap": memory}}
    return config
