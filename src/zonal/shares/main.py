"""The server's process, one for each zone that has shares: ``python -m zonal.shares.main LISTENER``.

LISTENER is the descriptor of a listening unix socket (SOCK_SEQPACKET), by which zonald, and the next zonald after it,
says what to serve. A request is JSON, with descriptors beside it (``zonal.shares.orders``). The process ends when it is
told to.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Any, Final

from zonal.shares.confinement import confine
from zonal.shares.files import Opened, Share
from zonal.shares.orders import MAX_ORDER
from zonal.shares.ports import Ports
from zonal.shares.rings import Ring, RingBrokenError
from zonal.shares.session import Session

log = logging.getLogger("zonal.shares")
_TURN = 64
"""Requests of one device that are answered before the next one's."""
LOOK_ON: Final = 100e-6
"""Seconds."""


class Device:
    """One share of the zone."""

    def __init__(self, share: Share, opened: Opened, order: dict[str, Any], grants: int, events: int) -> None:
        numbers = [int(ring["port"]) for ring in order["rings"]]
        self.ports = Ports(events, numbers)
        self.share = share
        self.session = Session(lambda _: share, opened, int(order["message_size"]))
        self.rings: dict[int, Ring] = {}
        for ring in order["rings"]:
            self.rings[int(ring["port"])] = Ring(
                grants, int(ring["control"]), int(ring["data"]), int(ring["data_bytes"]), int(ring["port"])
            )

    def serve(self, fired: Iterable[int]) -> list[int]:
        """Answers what waits in these rings; gives those that have more.

        Looks on for a while after an answer, as the zone's next request often comes soon: sooner than this process
        could be put to sleep, woken, and told by whom.
        """
        asked = {port: self.rings[port] for port in fired if port in self.rings}
        total = 0
        while True:
            answered = sum(self._answer(port, asked) for port in list(asked))
            total += answered
            if total >= _TURN:
                return list(asked)  # others have their turn
            if not answered or not _is_asked_soon(asked.values()):
                break
        for port in asked:
            self.ports.unmask(port)
            # What came between the last look and the event that is let through now raises one of its own.
        return []

    def _answer(self, port: int, asked: dict[int, Ring]) -> int:
        try:
            return asked[port].serve(self.session, self.ports, _TURN)
        except RingBrokenError as error:
            log.warning("a ring is served no longer: %s", error)
            asked.pop(port)
            self.rings.pop(port).close()
            return 0

    def close(self) -> None:
        """Gives up the files, the zone's pages and its ports."""
        self.session.close()
        for ring in self.rings.values():
            ring.close()
        self.ports.close()
        os.close(self.share.root)


def _is_asked_soon(rings: Collection[Ring]) -> bool:
    until = time.monotonic() + LOOK_ON
    while True:
        for ring in rings:
            if ring.is_asked:
                return True
        if time.monotonic() >= until:
            return False


class Server:
    """Serves shares, and takes orders."""

    def __init__(self, listener: socket.socket, opened: Opened) -> None:
        self._listener = listener
        self._opened = opened
        self._devices: dict[str, Device] = {}
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)
        self._master: socket.socket | None = None
        self._busy: dict[str, list[int]] = {}

    def run(self) -> None:
        """Until told to stop."""
        while True:
            ready = {descriptor for descriptor, _ in self._poll.poll(0 if self._busy else None)}
            for name, device in self._devices.items():
                fired = device.ports.fired() if device.ports.descriptor in ready else []
                waiting = {*self._busy.pop(name, ()), *fired}
                if waiting and (more := device.serve(waiting)):
                    self._busy[name] = more
            if self._listener.fileno() in ready:
                self._take_master()
            if self._master is not None and self._master.fileno() in ready and not self._obey(self._master):
                return

    def _take_master(self) -> None:
        # A new zonald counts, whatever has become of the one before it.
        master, _ = self._listener.accept()
        self._drop_master()
        self._master = master
        self._poll.register(master, select.POLLIN)

    def _drop_master(self) -> None:
        if self._master is not None:
            self._poll.unregister(self._master)
            self._master.close()
            self._master = None

    def _obey(self, master: socket.socket) -> bool:
        """Takes one order; false when it is to stop."""
        try:
            data, descriptors, _, _ = socket.recv_fds(master, MAX_ORDER, 3)
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._drop_master()
            return True
        answer: dict[str, object] = {}
        order = json.loads(data)
        try:
            match order["do"]:
                case "add":
                    self._add(order, descriptors)
                case "remove":
                    self._remove(str(order["id"]))
                case "stop":
                    for name in list(self._devices):
                        self._remove(name)
                case _:
                    answer["error"] = f"{order['do']!r} is no order"
        except OSError as error:
            answer["error"] = str(error)
        with suppress(OSError):  # whoever asked may be gone
            master.send(json.dumps(answer).encode())
        return order["do"] != "stop"

    def _add(self, order: dict[str, Any], descriptors: list[int]) -> None:
        root, grants, events = descriptors
        only = order["only"]
        share = Share(root, bool(order["read_only"]), os.fsencode(only) if only else None)
        try:
            device = Device(share, self._opened, order, grants, events)
        except BaseException:
            os.close(root)
            os.close(events)
            raise
        finally:
            # The pages are mapped; without the descriptor nothing else can be, whoever got hold of this process.
            os.close(grants)
        self._devices[str(order["id"])] = device
        self._poll.register(events, select.POLLIN)
        # The zone may have written before its port was bound here.
        self._busy[str(order["id"])] = list(device.rings)

    def _remove(self, name: str) -> None:
        device = self._devices.pop(name, None)
        self._busy.pop(name, None)
        if device is not None:
            self._poll.unregister(device.ports.descriptor)
            device.close()


def main() -> None:
    """See the module."""
    logging.basicConfig(level=logging.INFO, format="zonal-shares: %(message)s")
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.listen(1)  # again, so that this process is the one that SO_PEERCRED tells of
    opened = Opened()
    confine()
    Server(listener, opened).run()


if __name__ == "__main__":
    main()
