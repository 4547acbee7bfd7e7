"""One connection to the store: requests go out in a row, replies find their request by its id.

The connection is xenstored's unix socket or the kernel's ``/dev/xen/xenbus``; both speak the same messages. The kernel
takes one request at a time: a second one, written before the first is answered, overwrites it. There is no task behind
a connection: everything happens in the event loop's callbacks for one file descriptor.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from zonal.xen.store.errors import StoreClosedError, StoreProtocolError, request_error
from zonal.xen.store.wire import Message, MessageDecoder, MessageType, decode_strings, decode_text, encode_message

SOCKETS = (Path("/run/xenstored/socket"), Path("/var/run/xenstored/socket"))
DEVICE = Path("/dev/xen/xenbus")

_READ_SIZE = 65536


class Request(NamedTuple):
    """A request before it has an id; ``subject`` names it in errors, usually by its path."""

    type: MessageType
    payload: bytes
    subject: str


class _Pending(NamedTuple):
    request: Request
    reply: asyncio.Future[bytes]


class Connection:
    """Sends requests and hands out replies and watch events until it is closed or fails."""

    def __init__(self, descriptor: int, *, pipelined: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._pipelined = pipelined
        self._awaiting_reply = False
        self._decoder = MessageDecoder()
        self._pending: dict[int, _Pending] = {}
        self._outgoing: deque[bytes] = deque()
        self._last_id = 0
        self._failure: StoreClosedError | None = None
        self.on_event: Callable[[str, str], None] = lambda path, token: None
        """Called with a watch event's path and token."""
        self.on_failure: Callable[[StoreClosedError], None] = lambda failure: None
        """Called once, when the connection has ended for whatever reason."""
        self._loop.add_reader(descriptor, self._receive)

    @classmethod
    async def open(cls, path: Path | None = None) -> Connection:
        """Connects to ``path``, or to the first of xenstored's sockets and the kernel's device that is there.

        Raises :class:`StoreClosedError` if none can be opened.
        """
        reasons: list[str] = []
        for candidate in (path,) if path is not None else (*SOCKETS, DEVICE):
            try:
                if candidate.is_char_device():
                    return cls(os.open(candidate, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK), pipelined=False)
                connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                with connected:
                    await asyncio.get_running_loop().sock_connect(connected, str(candidate))
                    return cls(connected.detach(), pipelined=True)
            except OSError as error:
                reasons.append(f"{candidate}: {os.strerror(error.errno) if error.errno else error}")
        raise StoreClosedError(
            f"the Xen store cannot be reached: {'; '.join(reasons)}",
            hint="Zonal must run as root in the host of a Xen machine, with xenstored running",
        )

    def send(self, transaction_id: int, requests: Iterable[Request]) -> list[asyncio.Future[bytes]]:
        """Sends all requests at once; each future gives its reply's payload, or the error that the store answered.

        Raises :class:`StoreClosedError` if the connection has ended, and what :func:`encode_message` raises, in both
        cases before anything is sent.
        """
        if self._failure is not None:
            raise self._failure
        messages: list[bytes] = []
        pending: dict[int, _Pending] = {}
        for request in requests:
            self._last_id = self._last_id % 0xFFFF_FFFF + 1
            messages.append(encode_message(Message(request.type, self._last_id, transaction_id, request.payload)))
            pending[self._last_id] = _Pending(request, self._loop.create_future())
        self._pending.update(pending)
        was_idle = not self._outgoing
        # On the socket, one write for all saves system calls.
        self._outgoing.extend((b"".join(messages),) if self._pipelined else messages)
        if was_idle:
            self._transmit()
        return [entry.reply for entry in pending.values()]

    def send_and_forget(self, transaction_id: int, request: Request) -> None:
        """For cleaning up where nobody can wait any more; does nothing on a connection that has ended."""
        if self._failure is None:
            for reply in self.send(transaction_id, (request,)):
                reply.add_done_callback(_retrieve)

    def close(self) -> None:
        """Ends the connection; the store drops its watches and transactions."""
        self._fail("the connection to the Xen store was closed")

    def _transmit(self) -> None:
        try:
            while self._outgoing and (self._pipelined or not self._awaiting_reply):
                chunk = self._outgoing[0]
                written = os.write(self._descriptor, chunk)
                if written == len(chunk):
                    self._outgoing.popleft()
                    self._awaiting_reply = True
                else:
                    self._outgoing[0] = chunk[written:]
        except BlockingIOError:
            self._loop.add_writer(self._descriptor, self._transmit)
        except OSError as error:
            self._fail(f"the connection to the Xen store broke: {error.strerror}")
        else:
            self._loop.remove_writer(self._descriptor)

    def _receive(self) -> None:
        try:
            data = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"the connection to the Xen store broke: {error.strerror}")
            return
        if not data:
            self._fail("xenstored closed the connection")
            return
        try:
            for message in self._decoder.feed(data):
                self._dispatch(message)
        except StoreProtocolError as error:
            self._fail(error.message)
            return
        if self._outgoing and not self._pipelined:
            self._transmit()

    def _dispatch(self, message: Message) -> None:
        if message.type == MessageType.WATCH_EVENT:
            strings = decode_strings(message.payload)
            if len(strings) < 2:
                raise StoreProtocolError(f"the store sent a watch event with {len(strings)} strings")
            self.on_event(strings[0], strings[1])
            return
        entry = self._pending.pop(message.request_id, None)
        if entry is None:
            raise StoreProtocolError(f"the store answered a request that was not made (id {message.request_id})")
        self._awaiting_reply = False
        if entry.reply.done():  # its caller was cancelled
            return
        if message.type == MessageType.ERROR:
            name = decode_text(message.payload.rstrip(b"\0"))
            entry.reply.set_exception(request_error(name, entry.request.subject))
        elif message.type == entry.request.type:
            entry.reply.set_result(message.payload)
        else:
            self._pending[message.request_id] = entry
            raise StoreProtocolError(f"the store answered a request of type {entry.request.type} with {message.type}")

    def _fail(self, reason: str) -> None:
        if self._failure is not None:
            return
        self._failure = StoreClosedError(reason, hint="see the state of xenstored in the host")
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        os.close(self._descriptor)
        self._outgoing.clear()
        for entry in self._pending.values():
            if not entry.reply.done():
                entry.reply.set_exception(self._failure)
                _retrieve(entry.reply)
        self._pending.clear()
        self.on_failure(self._failure)


async def gather_replies(replies: Sequence[asyncio.Future[bytes]]) -> list[bytes]:
    """Waits for all replies, then returns them or raises the first error in the order of the requests."""
    if replies:
        await asyncio.wait(replies)
    for reply in replies:
        _retrieve(reply)
    return [reply.result() for reply in replies]


def _retrieve(reply: asyncio.Future[bytes]) -> None:
    # Marks an exception as seen, lest asyncio complains that nobody has looked at it.
    if not reply.cancelled():
        reply.exception()
