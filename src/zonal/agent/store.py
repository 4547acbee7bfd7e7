"""A minimal client of the Xen store through /dev/xen/xenbus: read, write and watch, for the agent's few keys.

Messages as in Xen's public io/xs_wire.h: u32 type, request, transaction, length; then the payload.
"""

from __future__ import annotations

import os

_READ, _WATCH, _WRITE, _WATCH_EVENT, _ERROR = 2, 4, 11, 15, 16  # enum xsd_sockmsg_type
_HEADER_SIZE = 16
_MAX_PAYLOAD = 4096  # XENSTORE_PAYLOAD_MAX


class StoreError(Exception):
    """The store refused; ``args`` are its word for the error (such as ENOENT) and the path."""


class Store:
    """Requests are answered before they return; watch events that come in between are kept for ``take_events``."""

    def __init__(self, path: str = "/dev/xen/xenbus") -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._buffer = b""
        self._request = 0
        self._events: list[str] = []

    def fileno(self) -> int:
        """Readable when a watch has fired."""
        return self._fd

    def read(self, path: str) -> str | None:
        """The value, or None when there is no such key. Paths without a slash in front are below the domain's own."""
        try:
            return self._call(_READ, path.encode() + b"\0").decode()
        except StoreError as error:
            if error.args[0] == "ENOENT":
                return None
            raise

    def write(self, path: str, value: str) -> None:
        """Sets a value."""
        self._call(_WRITE, path.encode() + b"\0" + value.encode())

    def watch(self, path: str) -> None:
        """From now on, and once at once, ``take_events`` tells when the key or one below it changes."""
        self._call(_WATCH, path.encode() + b"\0" + path.encode() + b"\0")

    def receive_event(self) -> None:
        """Takes what came; to be called when the descriptor is readable (it would wait otherwise)."""
        kind, _, payload = self._receive()
        if kind == _WATCH_EVENT:
            self._keep_event(payload)

    def take_events(self) -> list[str]:
        """The watched paths that fired, some of them perhaps while a request was under way; does not wait."""
        events, self._events = self._events, []
        return events

    def _call(self, kind: int, payload: bytes) -> bytes:
        self._request += 1
        numbers = (kind, self._request, 0, len(payload))
        os.write(self._fd, b"".join(number.to_bytes(4, "little") for number in numbers) + payload)
        while True:
            got, request, answer = self._receive()
            if got == _WATCH_EVENT:
                self._keep_event(answer)
            elif request == self._request:
                break
        if got == _ERROR:
            raise StoreError(answer.rstrip(b"\0").decode(), payload.split(b"\0")[0].decode())
        return answer

    def _keep_event(self, payload: bytes) -> None:
        # Payload: path, token; the token is the path as it was watched.
        self._events.append(payload.split(b"\0")[1].decode())

    def _receive(self) -> tuple[int, int, bytes]:
        header = self._exactly(_HEADER_SIZE)
        kind, request, _, length = (int.from_bytes(header[at : at + 4], "little") for at in range(0, 16, 4))
        if length > _MAX_PAYLOAD:
            raise StoreError("E2BIG", f"answer of {length} bytes")
        return kind, request, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            piece = os.read(self._fd, _HEADER_SIZE + _MAX_PAYLOAD)
            if not piece:
                raise StoreError("EPIPE", "the store's device has ended")
            self._buffer += piece
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken
