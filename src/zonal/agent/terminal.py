"""The terminal of a workload: crun makes it inside the container and hands its master over a socket."""

from __future__ import annotations

import _socket  # the socket module imports enum and selectors, 80 ms in an emulated host
import fcntl
import os

from zonal.agent.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zonal.agent.loop import Loop

_TIOCSWINSZ = 0x5414  # asm-generic/ioctls.h
_FD_SIZE = 4


class ConsoleSocket:
    """Listens at ``path`` for one master descriptor, and gives it to ``received``, which then owns it."""

    def __init__(self, loop: Loop, path: str, received: Callable[[int], None]) -> None:
        self._loop = loop
        self._path = path
        self._received = received
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK)
        self._socket.bind(path)
        self._socket.listen(1)
        self._open = True
        loop.watch(self._socket.fileno(), READ, self._on_connection)

    def take(self) -> None:
        """Takes the master at once if it is there: crun sends it before it ends."""
        if self._open:
            self._on_connection(0)

    def close(self) -> None:
        """Stops listening."""
        if self._open:
            self._open = False
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            os.unlink(self._path)

    def _on_connection(self, _events: int) -> None:
        try:
            fd = _accept(self._socket)
        except BlockingIOError:
            return
        peer = _socket.socket(fileno=fd)
        try:
            peer.setblocking(True)  # crun sends right after it connects
            _, ancillary, _, _ = peer.recvmsg(4096, _socket.CMSG_SPACE(_FD_SIZE), _socket.MSG_CMSG_CLOEXEC)
        finally:
            peer.close()
        self.close()
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                self._received(int.from_bytes(data[:_FD_SIZE], "little"))


def _accept(listening: Any) -> int:
    return listening._accept()[0]  # a descriptor; the socket module builds its accept() on this


def resize(fd: int, rows: int, columns: int) -> None:
    """Sets a terminal's size; its foreground processes get SIGWINCH."""
    fcntl.ioctl(fd, _TIOCSWINSZ, rows.to_bytes(2, "little") + columns.to_bytes(2, "little") + bytes(4))
