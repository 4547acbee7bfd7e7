"""A streaming server on loopback, and a client made of Kubernetes' own packages."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.unit.cri.streaming.local_handler import LocalHandler
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming.link import Timeouts
from zonal.cri.streaming.server import StreamingServer

CLIENT_SOURCE = Path(__file__).parents[3] / "clients/remotecommand"


@pytest.fixture
def handler() -> LocalHandler:
    return LocalHandler()


@pytest_asyncio.fixture
async def server(handler: LocalHandler) -> AsyncGenerator[StreamingServer]:
    # The pings come often, so that they get among everything else.
    async with StreamingServer(handler, timeouts=Timeouts(ping=0.05)) as server:
        yield server
    assert handler.running == 0


def exec_url(
    server: StreamingServer,
    *command: str,
    container: str = "here",
    tty: bool = False,
    stdin: bool = True,
    stdout: bool = True,
    stderr: bool = True,
) -> str:
    request = pb.ExecRequest(
        container_id=container, cmd=command, tty=tty, stdin=stdin, stdout=stdout, stderr=stderr and not tty
    )
    return server.exec_url(request)


@dataclass(frozen=True)
class Result:
    status: int
    stdout: bytes
    stderr: bytes


class KubernetesClient:
    """The program in tests/clients/remotecommand."""

    def __init__(self, program: Path) -> None:
        self.program = program

    async def exec(self, url: str, *options: str, stdin: bytes = b"") -> Result:
        process = await self.start("exec", *options, url)
        stdout, stderr = await process.communicate(stdin)
        assert process.returncode is not None
        return Result(process.returncode, stdout, stderr)

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(self.program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kubernetes_client() -> KubernetesClient:
    """Built once, and kept with the caches of this user for as long as its source is the same."""
    if shutil.which("go") is None:
        pytest.skip("the Go toolchain, which builds Kubernetes' own client for this test, is not installed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zonal-tests"
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / "remotecommand"
    build = ("go", "build", "-buildvcs=false", "-trimpath", "-o", str(program), ".")
    process = await asyncio.create_subprocess_exec(
        *build, cwd=CLIENT_SOURCE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode and b"dial tcp" in output:
        pytest.skip(f"Kubernetes' own client can't be built without its modules: {output[-300:].decode()}")
    assert process.returncode == 0, output.decode()
    return KubernetesClient(program)
