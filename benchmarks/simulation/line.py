"""Questions of a process to the machine, and their answers: what stands in for an ioctl of one of Xen's devices."""

from __future__ import annotations

import errno
import marshal
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

_LENGTH = struct.Struct("=I")


def encode(value: Any) -> bytes:
    """Of plain values: the same interpreter runs on both ends."""
    data = marshal.dumps(value)
    return _LENGTH.pack(len(data)) + data


class LineDecoder:
    """Cuts a stream of bytes into values."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Any]:
        """Those that are complete now."""
        self._buffer += data
        found: list[Any] = []
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            found.append(marshal.loads(bytes(self._buffer[_LENGTH.size : end])))
            del self._buffer[:end]
        return found


class Line:
    """One process's connection; safe to use from several threads. It waits for each answer, as an ioctl does."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(path))
        self._lock = threading.Lock()
        _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 3)
        self.memory, self.events, self.unmasked = descriptors
        """The machine's memory; where ports come that have fired; where those are told that may fire again."""

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Raises ``OSError`` with the number that the machine answers."""
        with self._lock:
            self._socket.sendall(encode((operation, *arguments)))
            (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
            number, value = marshal.loads(self._exactly(length))
        if number:
            raise OSError(number, os.strerror(number))
        return value

    def close(self) -> None:
        """The machine sees it, and takes back what this process has."""
        self._socket.close()
        for descriptor in (self.memory, self.events, self.unmasked):
            os.close(descriptor)

    def _exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        while count:
            part = self._socket.recv(min(count, 1 << 20))
            if not part:
                raise OSError(errno.EPIPE, "the machine is gone")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
