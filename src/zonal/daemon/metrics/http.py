"""As much of HTTP/1.1 (RFC 9112) as Prometheus needs: one GET, one answer, and the connection ends.

Whoever asks is not trusted: requests are bounded in size and time, and connections in number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from zonal.daemon.metrics_address import MetricsAddress
from zonal.errors import UnavailableError, ZonalError

log = logging.getLogger(__name__)

PATH = "/metrics"
MAX_HEAD = 16 << 10
"""Bytes of a request's first line and headers."""
MAX_CONNECTIONS = 32
HEAD_TIMEOUT = 10.0
"""Seconds for the request, and as many for taking the answer."""

Give = Callable[[str], Awaitable[tuple[str, bytes]]]
"""Gets the header ``Accept``, and gives content type and body."""


@asynccontextmanager
async def serving_http(address: MetricsAddress, give: Give) -> AsyncGenerator[None]:
    """Serves what ``give`` gives within the block. Raises ``UnavailableError``."""
    door = _Door(give)
    try:
        if address.socket is not None:
            server = await asyncio.start_unix_server(door.serve, sock=_unix_socket(address), limit=MAX_HEAD)
        else:
            server = await asyncio.start_server(door.serve, address.host, address.port, limit=MAX_HEAD)
    except OSError as error:
        raise UnavailableError(
            f"metrics cannot be served on {address}: {error.strerror or error}",
            hint="is the address this machine's, and free? give another to --metrics",
        ) from error
    log.info("metrics on %s", address)
    try:
        async with server:
            try:
                yield
            finally:
                door.end_all()
    finally:
        if address.socket is not None:
            address.socket.unlink(missing_ok=True)


class _Door:
    def __init__(self, give: Give) -> None:
        self._give = give
        self._serving: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._serving) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._serving.add(writer)
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                async with asyncio.timeout(HEAD_TIMEOUT):
                    head = await _read_head(reader)
                answer = await self._answer(head)
                async with asyncio.timeout(HEAD_TIMEOUT):
                    writer.write(answer)
                    await writer.drain()
        finally:
            self._serving.discard(writer)
            writer.close()

    def end_all(self) -> None:
        for writer in self._serving:
            writer.transport.abort()

    async def _answer(self, head: bytes | None) -> bytes:
        if head is None:
            return _reply("431 Request Header Fields Too Large", "a request is to have less than 16 KiB\n")
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _reply("400 Bad Request", "this is no request of HTTP/1.1\n")
        method, target = words[0], words[1].partition("?")[0]
        if target != PATH:
            return _reply("404 Not Found", f"there is only {PATH}\n")
        if method not in ("GET", "HEAD"):
            return _reply("405 Method Not Allowed", "only GET and HEAD\n", "Allow: GET, HEAD\r\n")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        try:
            content_type, body = await self._give(headers.get("accept", ""))
        except ZonalError as error:
            return _reply("503 Service Unavailable", f"{error.message}\n")
        except Exception:
            log.exception("metrics failed")
            return _reply("500 Internal Server Error", "zonald's log has the details\n")
        return _head("200 OK", content_type, len(body)) + (body if method == "GET" else b"")


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    """The first line and the headers; ``None`` where they are too long."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return None


def _reply(status: str, text: str, more: str = "") -> bytes:
    body = text.encode()
    return _head(status, "text/plain; charset=utf-8", len(body), more) + body


def _head(status: str, content_type: str, length: int, more: str = "") -> bytes:
    fields = f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode("latin-1")


def _unix_socket(address: MetricsAddress) -> socket.socket:
    assert address.socket is not None
    with suppress(FileNotFoundError):
        # What a killed zonald left; nothing but a socket is removed.
        if stat.S_ISSOCK(address.socket.stat().st_mode):
            address.socket.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(address.socket))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
