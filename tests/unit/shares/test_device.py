"""A device with its event channel: no request is left lying, however the zone's events fall."""

from __future__ import annotations

import os
import random
import select
import struct
import threading
from pathlib import Path

from tests.unit.shares.client import text
from tests.unit.shares.zone_end import ZoneEnd
from zonal.shares.files import Opened, Share
from zonal.shares.main import Device
from zonal.shares.ports import Ports
from zonal.shares.wire import NO_FID, Type
from zonal.xen.abi.privcmd import PAGE_SIZE

PORT = 1


class Channel(Ports):
    """As /dev/xen/evtchn has it: a port that fired is masked, and what comes meanwhile is one event afterwards."""

    def __init__(self) -> None:
        descriptor, self._waker = os.pipe()
        super().__init__(descriptor, [PORT])
        self.told = threading.Event()
        self._lock = threading.Lock()
        self._masked = self._pending = False

    def fire(self) -> None:
        """By the zone."""
        with self._lock:
            self._pending = True
            self._pass_on()

    def fired(self) -> list[int]:
        os.read(self.descriptor, 1)
        return [PORT]

    def unmask(self, port: int) -> None:
        with self._lock:
            self._masked = False
            self._pass_on()

    def notify(self, port: int) -> None:
        self.told.set()

    def _pass_on(self) -> None:
        if self._pending and not self._masked:
            self._pending, self._masked = False, True
            os.write(self._waker, b"x")


def test_every_request_is_answered_whenever_its_event_comes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(100_000))
    zone = ZoneEnd(tmp_path, half=65536, message_size=32768)
    share = Share(os.open(tmp_path, os.O_PATH | os.O_DIRECTORY))
    order = {"message_size": 32768, "rings": [{"port": PORT, "control": 0, "data": PAGE_SIZE, "data_bytes": 131072}]}
    channel = Channel()
    device = Device(share, Opened(), order, zone.memory, channel.descriptor)
    device.ports = channel
    ended = threading.Event()
    server = threading.Thread(target=serve, args=(device, channel, ended))
    server.start()
    try:
        exchange(zone, channel, Type.VERSION, struct.pack("<I", 1 << 20), text(b"9P2000.L"))
        names = text(b""), text(b"")
        exchange(zone, channel, Type.ATTACH, struct.pack("<II", 0, NO_FID), *names, struct.pack("<I", 0))
        exchange(zone, channel, Type.WALK, struct.pack("<IIH", 0, 1, 1), text(b"file"))
        exchange(zone, channel, Type.LOPEN, struct.pack("<II", 1, os.O_RDWR))
        source = random.Random(1)
        requests: tuple[tuple[Type, tuple[bytes, ...]], ...] = (
            (Type.GETATTR, (struct.pack("<IQ", 1, 0),)),
            (Type.READ, (struct.pack("<IQI", 1, 0, 100),)),
            (Type.READ, (struct.pack("<IQI", 1, 5, 30000),)),
            (Type.WRITE, (struct.pack("<IQI", 1, 7, 20000), bytes(20000))),
        )
        for _ in range(2000):
            type_, parts = source.choice(requests)
            exchange(zone, channel, type_, *parts, times=source.choice((1, 1, 1, 2, 3)))
    finally:
        ended.set()
        channel.fire()
        server.join()


def serve(device: Device, channel: Channel, ended: threading.Event) -> None:
    poll = select.poll()
    poll.register(channel.descriptor, select.POLLIN)
    busy = [PORT]
    while not ended.is_set():
        fired = channel.fired() if poll.poll(0 if busy else None) else []
        busy = device.serve({*busy, *fired})


def exchange(zone: ZoneEnd, channel: Channel, type_: int, *parts: bytes, times: int = 1) -> None:
    """As Linux's driver: an event after each request, and after each reply that was taken."""
    for _ in range(times):
        zone.request(type_, *parts)
        channel.fire()
    for _ in range(times):
        while True:
            channel.told.clear()
            reply = zone.take()
            if reply is not None:
                break
            assert channel.told.wait(30), "a request is left lying"
        assert reply[0] == type_ + 1
        channel.fire()
