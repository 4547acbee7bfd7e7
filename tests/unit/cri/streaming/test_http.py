"""What requests are answered with that are not what the server is for."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.unit.cri.streaming.conftest import exec_url
from tests.unit.cri.streaming.local_handler import LocalHandler
from tests.unit.cri.streaming.spdy_client import upgrade
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming.link import Timeouts
from zonal.cri.streaming.server import MAX_UNCLAIMED, StreamingServer

WEBSOCKET = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


async def answer(url: str, protocol: str, *headers: str, method: str = "POST") -> str:
    """The head of what comes back, and the text after it."""
    reader, writer, head = await upgrade(url, protocol, *headers, method=method)
    body = "" if " 101 " in head else (await reader.read(-1)).decode()
    writer.close()
    return head + body


async def test_a_token_that_was_used_never_made_or_is_another_s_is_not_found(server: StreamingServer) -> None:
    url = exec_url(server, "true")
    assert " 101 " in await answer(url, "SPDY/3.1")
    assert "404 Not Found" in await answer(url, "SPDY/3.1")
    assert "404 Not Found" in await answer(url + "x", "SPDY/3.1")
    assert "404 Not Found" in await answer(exec_url(server, "true").replace("/exec/", "/attach/"), "SPDY/3.1")
    assert "404 Not Found" in await answer(exec_url(server, "true").replace("/exec/", "/logs/"), "SPDY/3.1")
    assert "404 Not Found" in await answer(exec_url(server, "true") + "/more", "SPDY/3.1")


async def test_a_query_is_passed_over(server: StreamingServer) -> None:
    assert " 101 " in await answer(exec_url(server, "true") + "?stdin=1", "SPDY/3.1")


async def test_no_upgrade(server: StreamingServer) -> None:
    said = await answer(exec_url(server, "true"), "")
    assert "400 Bad Request" in said and "Upgrade: SPDY/3.1, websocket" in said
    assert "400 Bad Request" in await answer(exec_url(server, "true"), "h2c")


async def test_protocols_that_are_not_known(server: StreamingServer) -> None:
    said = await answer(exec_url(server, "true"), "SPDY/3.1", "X-Stream-Protocol-Version: v9.channel.k8s.io")
    assert "403 Forbidden" in said and "X-Accepted-Stream-Protocol-Versions: v4.channel.k8s.io" in said
    protocol = "Sec-WebSocket-Protocol: chat"
    assert "403 Forbidden" in await answer(exec_url(server, "true"), "websocket", *WEBSOCKET, protocol, method="GET")


async def test_the_client_s_first_protocol_that_is_known_is_taken(server: StreamingServer) -> None:
    header = "X-Stream-Protocol-Version"
    offered = (f"{header}: v5.channel.k8s.io", f"{header}: v3.channel.k8s.io, v4.channel.k8s.io")
    assert f"{header}: v3.channel.k8s.io\r\n" in await answer(exec_url(server, "true"), "SPDY/3.1", *offered)
    protocols = "Sec-WebSocket-Protocol: v6.channel.k8s.io, v5.channel.k8s.io, v4.channel.k8s.io"
    said = await answer(exec_url(server, "true"), "websocket", *WEBSOCKET, protocols, method="GET")
    assert "Sec-WebSocket-Protocol: v5.channel.k8s.io\r\n" in said
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in said  # the example of RFC 6455, section 1.3


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", WEBSOCKET, "405 Method Not Allowed"),
        ("GET", WEBSOCKET[1:], "426 Upgrade Required"),
        ("GET", ("Sec-WebSocket-Version: 8", WEBSOCKET[1]), "426 Upgrade Required"),
        ("GET", WEBSOCKET[:1], "400 Bad Request"),
        ("GET", (WEBSOCKET[0], "Sec-WebSocket-Key: short"), "400 Bad Request"),
        ("GET", (*WEBSOCKET, WEBSOCKET[1]), "400 Bad Request"),
    ],
)
async def test_handshakes_that_are_none(
    server: StreamingServer, method: str, headers: tuple[str, ...], status: str
) -> None:
    assert status in await answer(exec_url(server, "true"), "websocket", *headers, method=method)


async def test_a_websocket_port_forward_needs_ports(server: StreamingServer) -> None:
    url = server.port_forward_url(pb.PortForwardRequest(pod_sandbox_id="here"))
    protocol = "Sec-WebSocket-Protocol: v4.channel.k8s.io"
    said = await answer(url, "websocket", *WEBSOCKET, protocol, method="GET")
    assert "400 Bad Request" in said and "needs ports" in said


async def test_methods(server: StreamingServer) -> None:
    assert "405 Method Not Allowed" in await answer(exec_url(server, "true"), "SPDY/3.1", method="DELETE")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", b"400 "),
        (b"GET / HTTP/1.1\r\n\r\n", b"400 "),  # without a Host
        (b"GET /\xff\xff HTTP/1.1\r\nHost: a\r\n\r\n", b"400 "),
        (b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n", b"404 "),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + 3 * (b"A: " + 30000 * b"a" + b"\r\n") + b"\r\n", b"431 "),
        (b"\x16\x03\x01 hello, TLS \r\n\r\n", b"400 "),
        (b"\r\n\r\n", b"400 "),
    ],
)
async def test_what_is_no_request(server: StreamingServer, sent: bytes, status: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    writer.write_eof()
    assert (await reader.read(-1)).startswith(b"HTTP/1.1 " + status)
    writer.close()


async def test_a_client_that_says_nothing_is_hung_up_on(handler: LocalHandler) -> None:
    async with StreamingServer(handler, timeouts=Timeouts(head=0.05)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read(-1) == b""
        writer.close()


async def test_clients_that_say_nothing_keep_no_one_out(server: StreamingServer) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MAX_UNCLAIMED + 5)]
    assert " 101 " in await answer(exec_url(server, "true"), "SPDY/3.1")
    with contextlib.suppress(ConnectionError):
        assert await silent[0][0].read() == b""
    for _, writer in silent:
        writer.transport.abort()


async def test_closing_the_server_ends_its_clients(handler: LocalHandler) -> None:
    server = StreamingServer(handler)
    await server.start()
    reader, writer, _ = await upgrade(exec_url(server, "true"), "SPDY/3.1")
    waiting, silent = await asyncio.open_connection("127.0.0.1", server.port)
    await server.close()
    for each in (reader, waiting):
        with contextlib.suppress(ConnectionError):
            while await each.read(1000):
                pass
    writer.close()
    silent.close()
