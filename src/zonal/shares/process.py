"""The process of a share server, from its beginning to its end, on zonald's side.

The server outlives zonald, as zones do: it is found again by the socket in its zone's folder.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from zonal.errors import UnavailableError, ZonalError
from zonal.shares.orders import MAX_ORDER, SOCKET
from zonal.shares.socket_path import short_path
from zonal.xen.devices.p9 import MappedRing

log = logging.getLogger(__name__)

_TIMEOUT = 30.0
_STOP_TIMEOUT = 10.0


class ShareServer:
    """The server of one zone. Its methods raise ``UnavailableError`` when it does not do as it is told."""

    def __init__(self, folder: Path) -> None:
        """``folder``: the zone's own, in which the socket is."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._telling = asyncio.Lock()
        """The server hears one at a time."""

    @property
    def is_there(self) -> bool:
        """Whether it was started, and not stopped since."""
        return (self._folder / SOCKET).exists()

    def start(self) -> None:
        """Begins the process; it need not be ready when this returns."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with listener:
            (self._folder / SOCKET).unlink(missing_ok=True)
            with short_path(self._folder) as folder:
                listener.bind(f"{folder}/{SOCKET}")
            listener.listen(1)
            command = [sys.executable, "-m", "zonal.shares.main", str(listener.fileno())]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(listener.fileno(),), start_new_session=True
            )

    async def add(
        self,
        name: str,
        descriptors: Sequence[int],
        rings: Sequence[MappedRing],
        *,
        read_only: bool,
        only: str,
        message_size: int,
    ) -> None:
        """Serves a folder: ``descriptors`` are of the folder, the grants and the events."""
        order = {
            "do": "add",
            "id": name,
            "read_only": read_only,
            "only": only,
            "message_size": message_size,
            "rings": [asdict(ring) for ring in rings],
        }
        async with self._telling:
            await asyncio.to_thread(self._tell, order, descriptors)

    async def remove(self, name: str) -> None:
        """Serves it no longer, and lets go of the zone's pages."""
        async with self._telling:
            await asyncio.to_thread(self._tell, {"do": "remove", "id": name}, ())

    async def stop(self) -> None:
        """Ends the process, if there is one; then the zone's pages are let go of."""
        async with self._telling:
            if self.is_there:
                await asyncio.to_thread(self._stop)

    def _stop(self) -> None:
        try:
            self._tell({"do": "stop"}, (), timeout=_STOP_TIMEOUT)
        except ZonalError as error:
            log.warning("the share server in %s is killed: %s", self._folder, error)
            self._kill()
        if self._process is not None:
            self._process.wait()
            self._process = None
        (self._folder / SOCKET).unlink(missing_ok=True)

    def _kill(self) -> None:
        try:
            with self._connected(_STOP_TIMEOUT) as link:
                pid, _, _ = struct.unpack("=3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                # As long as its socket takes connections, the number is its own.
                os.kill(pid, signal.SIGKILL)
        except OSError:
            return  # it has ended

    def _tell(self, order: Mapping[str, object], descriptors: Sequence[int], *, timeout: float = _TIMEOUT) -> None:
        try:
            with self._connected(timeout) as link:
                socket.send_fds(link, [json.dumps(order).encode()], list(descriptors))
                answer = link.recv(MAX_ORDER)
        except OSError as error:
            raise UnavailableError(f"the zone's share server does not answer: {error}") from error
        if not answer:
            raise UnavailableError("the zone's share server has ended", hint="see zonald's log")
        reason = json.loads(answer).get("error")
        if reason:
            raise UnavailableError(f"the zone's share server cannot serve: {reason}")

    @contextmanager
    def _connected(self, timeout: float) -> Generator[socket.socket]:
        with short_path(self._folder) as folder, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            link.settimeout(timeout)
            link.connect(f"{folder}/{SOCKET}")
            yield link
