"""The server behind a kubelet's proxy: Kubernetes' own, which copies bytes and ends when either side does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.unit.cri.streaming.conftest import KubernetesClient, exec_url
from tests.unit.cri.streaming.local_handler import LocalHandler
from zonal.cri.streaming.server import StreamingServer

pytestmark = pytest.mark.timeout(600)  # the first one builds the client
TRANSPORTS = pytest.mark.parametrize("transport", [(), ("-websocket",)], ids=["spdy", "websocket"])


@pytest_asyncio.fixture
async def proxy(server: StreamingServer, kubernetes_client: KubernetesClient) -> AsyncGenerator[str]:
    """Its host and port."""
    process = await kubernetes_client.start("proxy", f"127.0.0.1:{server.port}")
    assert process.stdout is not None and process.stdin is not None
    port = int((await process.stdout.readline()).split()[0])
    yield f"127.0.0.1:{port}"
    process.stdin.close()
    await process.wait()


def through(proxy: str, url: str) -> str:
    return urlsplit(url)._replace(netloc=proxy).geturl()


@TRANSPORTS
async def test_output_errors_and_status(
    transport: tuple[str, ...], server: StreamingServer, proxy: str, kubernetes_client: KubernetesClient
) -> None:
    async def one(number: int) -> None:
        url = exec_url(server, "sh", "-c", f"echo out; echo err >&2; exit {number}", stdin=False)
        result = await kubernetes_client.exec(through(proxy, url), *transport, "-no-stdin")
        assert (result.status, result.stdout, result.stderr) == (number, b"out\n", b"err\n")

    await asyncio.gather(*(one(number) for number in range(8)))


@TRANSPORTS
async def test_nothing_is_lost(
    transport: tuple[str, ...], server: StreamingServer, proxy: str, kubernetes_client: KubernetesClient
) -> None:
    data = os.urandom(16 << 20)
    url = exec_url(server, "sh", "-c", "cat; exit 3")
    result = await kubernetes_client.exec(through(proxy, url), *transport, stdin=data)
    assert result.status == 3
    assert result.stdout == data


@TRANSPORTS
async def test_a_client_that_goes_ends_the_handler(
    transport: tuple[str, ...],
    server: StreamingServer,
    handler: LocalHandler,
    proxy: str,
    kubernetes_client: KubernetesClient,
) -> None:
    url = exec_url(server, "sleep", "1000", stdin=False)
    process = await kubernetes_client.start("exec", *transport, "-no-stdin", through(proxy, url))
    await handler.begun.wait()
    process.kill()
    await handler.over.wait()
    await process.wait()
