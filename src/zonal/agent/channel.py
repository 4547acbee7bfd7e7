"""The zone's end of the channel: granted pages, an event channel, and three keys in the store that name them."""

from __future__ import annotations

import fcntl
import mmap
import os

from zonal.agent.loop import READ
from zonal.agent.ring import SIZE, Rings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.store import Store

_HOST = 0  # the domain that is granted access
_GNTALLOC_ALLOC, _GNTALLOC_DEALLOC = 0x184705, 0x104706  # xen/gntalloc.h
_GNTALLOC_FLAG_WRITABLE = 1
_EVTCHN_BIND_UNBOUND, _EVTCHN_NOTIFY = 0x44502, 0x44504  # xen/evtchn.h


class Channel:
    """One meeting with the host: fresh pages and a fresh port, published under ``zonal/channel`` for ``epoch``."""

    def __init__(self, store: Store, epoch: str) -> None:
        self._grant_fd = os.open("/dev/xen/gntalloc", os.O_RDWR | os.O_CLOEXEC)
        self._event_fd = os.open("/dev/xen/evtchn", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._allocations: list[tuple[int, int]] = []
        shared_references, self._shared_pages = self._allocate(1)
        references, self._ring_pages = self._allocate(2 * SIZE // mmap.PAGESIZE)
        self._rings = Rings(memoryview(self._shared_pages), memoryview(self._ring_pages), references)
        port = fcntl.ioctl(self._event_fd, _EVTCHN_BIND_UNBOUND, bytearray(_HOST.to_bytes(4, "little")))
        self._port = port.to_bytes(4, "little")
        store.write("zonal/channel/ring-ref", str(shared_references[0]))
        store.write("zonal/channel/event-channel", str(port))
        # Last: it says that the other two are of this epoch.
        store.write("zonal/channel/epoch", epoch)

    def fileno(self) -> int:
        """Readable when the host has sent an event."""
        return self._event_fd

    def events(self, *, blocked: bool) -> int:
        """What to wait for on ``fileno``; the host sends the same event for room as for data."""
        del blocked
        return READ

    def acknowledge(self) -> None:
        """Takes the events that came, so that the next one is told."""
        try:
            ports = os.read(self._event_fd, 64)
        except BlockingIOError:
            return
        os.write(self._event_fd, ports)  # unmasks them: xen/evtchn.h

    def receive(self, limit: int) -> bytes:
        """At most ``limit`` bytes of what the host has written; raises ``ChannelClosedError`` when it has gone."""
        return self._rings.receive(limit)

    def send(self, data: memoryview) -> int:
        """Puts as much of ``data`` into the ring as there is room for; gives how much."""
        return self._rings.send(data)

    def flush(self) -> None:
        """Sends the host an event if there is progress that it has asked to be told of."""
        if self._rings.take_wishes():
            self._notify()

    def close(self) -> None:
        """Tells the host, and gives the pages and the port back."""
        self._rings.close()
        self._notify()
        self._shared_pages.close()
        self._ring_pages.close()
        for index, count in self._allocations:
            request = index.to_bytes(8, "little") + count.to_bytes(8, "little")
            fcntl.ioctl(self._grant_fd, _GNTALLOC_DEALLOC, request)
        os.close(self._event_fd)  # closes the port
        os.close(self._grant_fd)

    def _notify(self) -> None:
        fcntl.ioctl(self._event_fd, _EVTCHN_NOTIFY, self._port)

    def _allocate(self, pages: int) -> tuple[list[int], mmap.mmap]:
        request = bytearray(16 + 4 * pages)  # struct ioctl_gntalloc_alloc_gref
        head = _HOST | _GNTALLOC_FLAG_WRITABLE << 16 | pages << 32
        request[:8] = head.to_bytes(8, "little")
        fcntl.ioctl(self._grant_fd, _GNTALLOC_ALLOC, request)
        index = int.from_bytes(request[8:16], "little")
        references = [int.from_bytes(request[at : at + 4], "little") for at in range(16, len(request), 4)]
        self._allocations.append((index, pages))
        return references, mmap.mmap(self._grant_fd, pages * mmap.PAGESIZE, offset=index)
