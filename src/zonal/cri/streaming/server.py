"""The streaming server: HTTP on loopback, whose URLs the CRI hands out, each for one stream of one client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket as sockets
from http import HTTPStatus
from types import TracebackType
from typing import Self

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.streaming import port_forward, remote_command
from zonal.cri.streaming.calls import PortForward, RemoteCommand, attach_call, exec_call, port_forward_call
from zonal.cri.streaming.handler import StreamHandler
from zonal.cri.streaming.http import MAX_HEAD, HttpError, Request, error_response, read_request
from zonal.cri.streaming.link import Link, SocketLink, Timeouts
from zonal.cri.streaming.negotiation import Agreement, Call, agree
from zonal.cri.streaming.tokens import Tokens
from zonal.cri.streaming.websocket import TunnelLink, WebSocket
from zonal.errors import UnavailableError

log = logging.getLogger(__name__)

MAX_UNCLAIMED = 256
"""Connections that have not named a URL of ours yet; any number of those that have is served."""
_KEEPALIVE = ((sockets.TCP_KEEPIDLE, 30), (sockets.TCP_KEEPINTVL, 10), (sockets.TCP_KEEPCNT, 6))
"""A host that is gone is noticed within a minute and a half."""


class StreamingServer:
    """Serves between ``start`` and ``close``, or as an asynchronous context manager."""

    def __init__(
        self,
        handler: StreamHandler,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        timeouts: Timeouts | None = None,
        tokens: Tokens[Call] | None = None,
    ) -> None:
        self._handler = handler
        self._address = address
        self._port = port
        self._timeouts = timeouts or Timeouts()
        self._tokens: Tokens[Call] = tokens or Tokens()
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._unclaimed: dict[asyncio.StreamWriter, None] = {}  # the oldest first

    @property
    def port(self) -> int:
        """The port that it listens on, once started."""
        return self._port

    async def start(self) -> None:
        """Listens. Raises ``UnavailableError``."""
        try:
            self._server = await asyncio.start_server(self._serve, self._address, self._port, limit=MAX_HEAD)
        except OSError as error:
            raise UnavailableError(
                f"cannot listen for streaming clients on {self._address} port {self._port}: {error.strerror}",
                hint="give another address or port",
            ) from error
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Hangs up on everyone, and returns when their handlers have ended."""
        if self._server is not None:
            self._server.close()
        clients = tuple(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def exec_url(self, request: pb.ExecRequest) -> str:
        """Where the command is to be had, once. Raises ``InvalidInputError`` or ``ResourceExhaustedError``."""
        return self._url("exec", exec_call(request))

    def attach_url(self, request: pb.AttachRequest) -> str:
        """Where the container is to be had, once. Raises ``InvalidInputError`` or ``ResourceExhaustedError``."""
        return self._url("attach", attach_call(request))

    def port_forward_url(self, request: pb.PortForwardRequest) -> str:
        """Where the ports are to be had, once. Raises ``InvalidInputError`` or ``ResourceExhaustedError``."""
        return self._url("portforward", port_forward_call(request))

    def _url(self, verb: str, call: Call) -> str:
        if self._server is None:
            raise UnavailableError("the streaming server has not been started")
        host = f"[{self._address}]" if ":" in self._address else self._address
        return f"http://{host}:{self._port}/{verb}/{self._tokens.make(call)}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, EOFError):
            pass  # the client has gone, or has said nothing
        except asyncio.CancelledError:
            pass  # the server closes; nobody waits for this task
        except Exception:
            log.exception("a streaming client's connection failed")
        finally:
            self._clients.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._unclaimed) >= MAX_UNCLAIMED:
            log.warning("%d streaming clients have not named a URL yet: the oldest is hung up on", MAX_UNCLAIMED)
            oldest = next(iter(self._unclaimed))
            del self._unclaimed[oldest]
            oldest.transport.abort()
        self._unclaimed[writer] = None
        try:
            async with asyncio.timeout(self._timeouts.head):
                request = await read_request(reader)
            call = self._claim(request)
            agreement = agree(request, call)
        except HttpError as error:
            log.info("a streaming client is answered %d: %s", error.status, error.text)
            writer.write(error_response(error))
            writer.write_eof()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeouts.head):
                    await writer.drain()
                    while await reader.read(MAX_HEAD):
                        pass  # a socket closed with bytes unread would take the answer back
            return
        finally:
            self._unclaimed.pop(writer, None)
        socket = writer.get_extra_info("socket")
        socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            socket.setsockopt(sockets.IPPROTO_TCP, option, value)
        writer.write(agreement.response)
        await self._stream(SocketLink(reader, writer), agreement, call)

    def _claim(self, request: Request) -> Call:
        verb, _, token = request.path.removeprefix("/").partition("/")
        if verb not in ("exec", "attach", "portforward"):
            raise HttpError(HTTPStatus.NOT_FOUND, "no such page")
        if request.method not in ("GET", "POST"):
            allowed = (("Allow", "GET, POST"),)
            raise HttpError(HTTPStatus.METHOD_NOT_ALLOWED, "a stream is opened with GET or POST", allowed)
        call = self._tokens.take(token)
        if call is None or verb != _verb(call):
            raise HttpError(HTTPStatus.NOT_FOUND, "the URL was never handed out, was used, or is too old")
        return call

    async def _stream(self, link: Link, agreement: Agreement, call: Call) -> None:
        handler, timeouts, protocol = self._handler, self._timeouts, agreement.protocol
        if agreement.transport == "spdy":
            if isinstance(call, RemoteCommand):
                await remote_command.serve_spdy(link, protocol, call, handler, timeouts)
            else:
                await port_forward.serve_spdy(link, call, handler, timeouts)
            return
        socket = WebSocket(link)
        if isinstance(call, RemoteCommand):
            await remote_command.serve_websocket(socket, protocol, call, handler, timeouts)
        elif protocol.startswith(port_forward.TUNNEL_PREFIX):
            await port_forward.serve_spdy(TunnelLink(socket), call, handler, timeouts)
        else:
            await port_forward.serve_websocket(socket, protocol, call, handler, timeouts)


def _verb(call: Call) -> str:
    if isinstance(call, PortForward):
        return "portforward"
    return "attach" if call.command is None else "exec"
