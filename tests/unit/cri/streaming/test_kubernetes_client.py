"""Kubernetes' own client packages against the server: what kubectl and crictl send."""

from __future__ import annotations

import asyncio
import hashlib
import os

import pytest

from tests.unit.cri.streaming.conftest import KubernetesClient, exec_url
from tests.unit.cri.streaming.local_handler import LocalHandler
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming.server import StreamingServer

pytestmark = pytest.mark.timeout(600)  # the first one builds the client

SPDY: tuple[str, ...] = ()
V5 = ("-websocket",)
V4 = ("-websocket", "-protocols", "v4.channel.k8s.io")
TRANSPORTS = pytest.mark.parametrize("transport", [SPDY, V5, V4], ids=["spdy", "websocket-v5", "websocket-v4"])
CLOSING = pytest.mark.parametrize("transport", [SPDY, V5], ids=["spdy", "websocket-v5"])
FORWARDING = pytest.mark.parametrize("transport", [SPDY, ("-websocket",)], ids=["spdy", "tunnel"])


@TRANSPORTS
async def test_output_errors_and_status(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    url = exec_url(server, "sh", "-c", "echo out; echo err >&2; exit 42", stdin=False)
    result = await kubernetes_client.exec(url, *transport, "-no-stdin")
    assert (result.status, result.stdout, result.stderr) == (42, b"out\n", b"err\n")


@TRANSPORTS
async def test_success(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    result = await kubernetes_client.exec(exec_url(server, "true", stdin=False), *transport, "-no-stdin")
    assert (result.status, result.stdout, result.stderr) == (0, b"", b"")


@CLOSING
async def test_the_end_of_input_reaches_the_command(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    url = exec_url(server, "sh", "-c", "wc -c; exit 3")
    result = await kubernetes_client.exec(url, *transport, stdin=b"twelve bytes")
    assert (result.status, result.stdout.strip(), result.stderr) == (3, b"12", b"")


@CLOSING
async def test_much_both_ways(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    data = os.urandom(48 << 20)
    result = await kubernetes_client.exec(exec_url(server, "cat"), *transport, stdin=data)
    assert result.status == 0
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(data).digest()


@TRANSPORTS
async def test_a_terminal_and_its_size(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    wait_for_size = "until [ \"$(stty size)\" = '33 111' ]; do sleep 0.05; done; [ -t 0 ] && echo a terminal; exit 7"
    url = exec_url(server, "sh", "-c", wait_for_size, tty=True)
    process = await kubernetes_client.start("exec", *transport, "-tty", "-size", "111x33", url)
    assert process.stdout is not None
    assert await process.stdout.read() == b"a terminal\r\n"
    assert await process.wait() == 7


@pytest.mark.parametrize("version", ["v4.", "v3.", "v2.", ""])
async def test_older_protocols_over_spdy(
    version: str, server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    protocol = ("-protocols", f"{version}channel.k8s.io")
    url = exec_url(server, "sh", "-c", "echo out; exit 5", stdin=False)
    result = await kubernetes_client.exec(url, *protocol, "-no-stdin")
    assert result.stdout == b"out\n"
    if version == "v4.":
        assert result.status == 5
    elif version:  # the client of the first version may end with its output, and not wait for the error
        assert result.status == 125
        assert b"exit status 5" in result.stderr
    url = exec_url(server, "echo", "well", stdin=False)
    result = await kubernetes_client.exec(url, *protocol, "-no-stdin")
    assert (result.status, result.stdout, result.stderr) == (0, b"well\n", b"")


@TRANSPORTS
async def test_what_the_handler_refuses_is_told(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    url = exec_url(server, "true", container="elsewhere", stdin=False)
    result = await kubernetes_client.exec(url, *transport, "-no-stdin")
    assert result.status == 125
    assert result.stderr == b"there is no container elsewhere\n"


@TRANSPORTS
async def test_attach(transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient) -> None:
    request = pb.AttachRequest(container_id="here", stdin=True, stdout=True, stderr=True)
    result = await kubernetes_client.exec(server.attach_url(request), *transport, stdin=b"echo attached; exit\n")
    assert (result.status, result.stdout, result.stderr) == (0, b"attached\n", b"")


@TRANSPORTS
async def test_a_client_that_goes_ends_the_handler(
    transport: tuple[str, ...],
    server: StreamingServer,
    handler: LocalHandler,
    kubernetes_client: KubernetesClient,
) -> None:
    url = exec_url(server, "sleep", "1000", stdin=False)
    process = await kubernetes_client.start("exec", *transport, "-no-stdin", url)
    await handler.begun.wait()
    process.kill()
    await handler.over.wait()
    await process.wait()


@TRANSPORTS
async def test_a_url_works_once(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    url = exec_url(server, "true", stdin=False)
    assert (await kubernetes_client.exec(url, *transport, "-no-stdin")).status == 0
    again = await kubernetes_client.exec(url, *transport, "-no-stdin")
    assert again.status == 125


@TRANSPORTS
async def test_many_at_once(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    async def one(number: int) -> None:
        url = exec_url(server, "sh", "-c", f"echo {number}; exit {number}", stdin=False)
        result = await kubernetes_client.exec(url, *transport, "-no-stdin")
        assert (result.status, result.stdout) == (number, f"{number}\n".encode())

    await asyncio.gather(*(one(number) for number in range(8)))


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(64 << 10):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _through(port: int, data: bytes) -> bytes:
    """What comes back of ``data`` once the sending side is shut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    _, back = await asyncio.gather(send(), reader.read(-1))
    writer.close()
    return back


@FORWARDING
async def test_port_forward(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    listener = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    url = server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="here"))
    process = await kubernetes_client.start("forward", *transport, url, f"0:{port}")
    assert process.stdout is not None and process.stdin is not None
    local = int((await process.stdout.readline()).split()[0])
    data = [os.urandom(size) for size in (1, 1000, 8 << 20, 3 << 20, 70000, 5)]
    assert await asyncio.gather(*(_through(local, each) for each in data)) == data
    process.stdin.close()
    assert await process.wait() == 0
    listener.close()


@FORWARDING
async def test_port_forward_to_nothing_is_told(
    transport: tuple[str, ...], server: StreamingServer, kubernetes_client: KubernetesClient
) -> None:
    listener = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    url = server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="here"))
    process = await kubernetes_client.start("forward", *transport, url, f"0:{port}")
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    local = int((await process.stdout.readline()).split()[0])
    assert await _through(local, b"hello?") == b""
    process.stdin.close()
    assert f"nothing listens on port {port}".encode() in await process.stderr.read()
    await process.wait()
