"""The HTTP/1.1 around a stream: one request, answered with an upgrade or with an error; its parser is h11."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

import h11

MAX_HEAD = 64 << 10
"""Bytes in a request's line and headers; an API server's proxies add their own."""
_WEBSOCKET_KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3


class HttpError(Exception):
    """The request is answered with this status and text, and the connection ends."""

    def __init__(self, status: HTTPStatus, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


@dataclass(frozen=True)
class Request:
    """The head of a request; names of headers in lower case, in order."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]

    def tokens(self, name: str) -> list[str]:
        """The comma-separated words of all headers of that name."""
        found = (value for each, value in self.headers if each == name)
        return [word.strip() for value in found for word in value.split(",") if word.strip()]

    def upgrades_to(self, protocol: str) -> bool:
        """Whether it asks for that: RFC 9110, section 7.8."""
        asked = {word.lower() for word in self.tokens("upgrade")}
        return "upgrade" in {word.lower() for word in self.tokens("connection")} and protocol.lower() in asked


async def read_request(reader: asyncio.StreamReader) -> Request:
    """The head of the one request; what follows it is left. Raises ``HttpError`` or ``EOFError``."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise HttpError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a head of more than {MAX_HEAD} bytes") from None
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    try:
        parser.receive_data(head)
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise HttpError(HTTPStatus.BAD_REQUEST, "no HTTP/1.1 request") from error
    if not isinstance(event, h11.Request):
        raise HttpError(HTTPStatus.BAD_REQUEST, "no HTTP/1.1 request")
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
    return Request(event.method.decode("latin-1"), event.target.decode("latin-1").partition("?")[0], headers)


def upgrade_response(protocol: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """The answer after which the connection speaks ``protocol``."""
    return _head(HTTPStatus.SWITCHING_PROTOCOLS, (("Connection", "Upgrade"), ("Upgrade", protocol), *headers))


def error_response(error: HttpError) -> bytes:
    """The answer that says what was wrong."""
    body = f"{error.text}\n".encode()
    headers = (
        ("Connection", "close"),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Length", str(len(body))),
        *error.headers,
    )
    return _head(error.status, headers) + body


def websocket_headers(request: Request, protocol: str) -> list[tuple[str, str]]:
    """The answer's headers to a WebSocket's opening handshake: RFC 6455, section 4.2. Raises ``HttpError``."""
    if request.method != "GET":
        raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket is opened with GET", (("Allow", "GET"),))
    if request.tokens("sec-websocket-version") != ["13"]:
        version = (("Sec-WebSocket-Version", "13"),)
        raise HttpError(HTTPStatus.UPGRADE_REQUIRED, "WebSockets are spoken in version 13", version)
    keys = request.tokens("sec-websocket-key")
    try:
        (key,) = keys
        if len(base64.b64decode(key, validate=True)) != 16:
            raise ValueError
    except ValueError:
        raise HttpError(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64") from None
    digest = hashlib.sha1(key.encode() + _WEBSOCKET_KEY_SUFFIX, usedforsecurity=False).digest()
    headers = [("Sec-WebSocket-Accept", base64.b64encode(digest).decode())]
    if protocol:
        headers.append(("Sec-WebSocket-Protocol", protocol))
    return headers


def _head(status: HTTPStatus, headers: Sequence[tuple[str, str]]) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
