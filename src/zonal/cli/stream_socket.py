"""The client's end of a socket beside the control API that carries the streams of a process; see
``zonal.daemon.stream_sockets``."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from zonal.api.streams import HEADER, TOKEN_SIZE, streams_path

_BUFFER = 128 << 10


class StreamSocket:
    """One process's streams, made before the call that names its ``token``."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self.token = os.urandom(TOKEN_SIZE)
        link.sendall(self.token)

    def send(self, data: bytes) -> None:
        """Input; returns when all of it is on its way. What comes after zonald's end is dropped."""
        with suppress(OSError):
            self._link.sendall(data)

    def end(self) -> None:
        """The end of the input."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def output(self) -> Iterator[tuple[int, memoryview]]:
        """Pieces of stream 1 or 2, each valid until the next is asked for; ends when zonald is through, or gone."""
        # One buffer for all: memory that is fresh costs more than to copy it.
        buffer = bytearray(_BUFFER)
        view = memoryview(buffer)
        head = b""
        stream = left = 0
        while count := self._receive(view):
            at = 0
            while at < count:
                if left:
                    piece = view[at : min(count, at + left)]
                    at += len(piece)
                    left -= len(piece)
                    yield stream, piece
                else:
                    missing = view[at : min(count, at + HEADER.size - len(head))]
                    head += missing
                    at += len(missing)
                    if len(head) == HEADER.size:
                        (stream, left), head = HEADER.unpack(head), b""

    def close(self) -> None:
        """Hangs up, also under who reads."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._link.close()

    def _receive(self, view: memoryview) -> int:
        try:
            return self._link.recv_into(view)
        except OSError:
            return 0  # zonald is gone, or we hang up; the call says what that means


def open_stream_socket(control: Path | None) -> StreamSocket | None:
    """Beside the control API on a unix socket; none if there is no such thing, as with a zonald elsewhere."""
    if control is None:
        return None
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        link.connect(os.fspath(streams_path(control)))
        return StreamSocket(link)
    except OSError:
        link.close()
        return None
