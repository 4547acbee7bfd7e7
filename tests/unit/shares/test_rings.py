"""Requests and replies in a ring that the zone may write at any time."""

from __future__ import annotations

import errno
import functools
import os
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.shares.client import text
from tests.unit.shares.zone_end import ZoneEnd
from zonal.shares.rings import RingBrokenError
from zonal.shares.wire import HEADER, NO_FID, Type
from zonal.xen.abi import p9

CONTENT = os.urandom(100_000)


@pytest.fixture
def zone(tmp_path: Path) -> ZoneEnd:
    (tmp_path / "file").write_bytes(CONTENT)
    return attached(tmp_path)


def attached(folder: Path, **sizes: int) -> ZoneEnd:
    zone = ZoneEnd(folder, **sizes)
    zone.ask(Type.VERSION, struct.pack("<I", 1 << 20), text(b"9P2000.L"))
    zone.ask(Type.ATTACH, struct.pack("<II", 0, NO_FID), text(b""), text(b""), struct.pack("<I", 0))
    return zone


def opened(zone: ZoneEnd, flags: int = os.O_RDONLY) -> None:
    zone.ask(Type.WALK, struct.pack("<IIH", 0, 1, 1), text(b"file"))
    zone.ask(Type.LOPEN, struct.pack("<II", 1, flags))


def test_a_file_is_read_through_the_ring_many_times_around(zone: ZoneEnd) -> None:
    opened(zone)
    data = b""
    while reply := zone.ask(Type.READ, struct.pack("<IQI", 1, len(data), 5000))[4:]:
        data += reply
    assert data == CONTENT


def test_a_file_is_written_from_the_ring_many_times_around(zone: ZoneEnd, tmp_path: Path) -> None:
    opened(zone, os.O_RDWR | os.O_TRUNC)
    for at in range(0, len(CONTENT), 5000):
        part = CONTENT[at : at + 5000]
        assert zone.ask(Type.WRITE, struct.pack("<IQI", 1, at, len(part)), part) == struct.pack("<I", len(part))
    assert zone.ask(Type.WRITE, struct.pack("<IQI", 1, 3, 2), b"ab") == struct.pack("<I", 2)
    assert (tmp_path / "file").read_bytes() == CONTENT[:3] + b"ab" + CONTENT[5:]


def test_what_waits_is_answered_in_its_order_and_told_in_few_events(zone: ZoneEnd) -> None:
    zone.told.count = 0
    for new in range(2, 22):
        zone.request(Type.WALK, struct.pack("<IIH", 0, new, 0))
    assert zone.serve(most=5) == 5
    assert zone.serve() == 15
    assert zone.told.count == 3
    for _ in range(20):
        assert zone.take() is not None
    assert zone.take() is None


def test_a_reply_waits_for_room(zone: ZoneEnd) -> None:
    opened(zone)
    for _ in range(3):
        zone.request(Type.READ, struct.pack("<IQI", 1, 0, 8000))
    assert zone.serve() == 2
    assert zone.serve() == 0
    first = zone.take()
    assert first is not None
    assert first[7:] == CONTENT[: len(first) - 7]
    assert zone.serve() == 1
    # And the same for replies that are made before they are put there.
    for _ in range(120):
        zone.request(Type.GETATTR, struct.pack("<IQ", 0, 0))
    answered = zone.serve(200)
    assert answered < 120
    taken = 0
    while zone.take() is not None or zone.serve(200):
        taken += 1
    assert zone.serve() == 0


def test_reading_what_cannot_be_read_is_refused(zone: ZoneEnd) -> None:
    opened(zone, os.O_WRONLY)
    for fid, offset, number in ((1, 0, errno.EBADF), (1, 1 << 63, errno.EINVAL), (9, 0, errno.EBADF)):
        zone.request(Type.READ, struct.pack("<IQI", fid, offset, 100))
        assert zone.serve() == 1
        reply = zone.take()
        assert reply is not None
        assert (reply[0], struct.unpack("<I", reply[3:])[0]) == (Type.LERROR + 1, number)


@pytest.mark.parametrize("count", [0, 699, 701, 0xFFFF_FFFF])
def test_a_write_of_another_size_than_it_says_is_refused(zone: ZoneEnd, tmp_path: Path, count: int) -> None:
    opened(zone, os.O_RDWR)
    zone.request(Type.WRITE, struct.pack("<IQI", 1, 0, count), bytes(700))
    assert zone.serve() == 1
    reply = zone.take()
    assert reply is not None
    assert (reply[0], struct.unpack("<I", reply[3:])[0]) == (Type.LERROR + 1, errno.EINVAL)
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, 6, 8193, 0xFFFF_FFFF])
def test_a_request_of_an_impossible_size_breaks_the_ring(zone: ZoneEnd, size: int) -> None:
    zone.put(HEADER.pack(size, Type.CLUNK, 1))
    with pytest.raises(RingBrokenError):
        zone.serve()


@pytest.mark.parametrize("index", [p9.OUT_PROD, p9.IN_CONS])
def test_an_impossible_index_breaks_the_ring(zone: ZoneEnd, index: int) -> None:
    zone.request(Type.STATFS, struct.pack("<I", 0))
    zone.indices[index] = (zone.indices[index] + 0x8000_0000) & 0xFFFF_FFFF
    with pytest.raises(RingBrokenError):
        zone.serve()


def test_a_request_that_is_not_whole_is_waited_for(zone: ZoneEnd) -> None:
    message = HEADER.pack(HEADER.size + 4, Type.STATFS, 1) + struct.pack("<I", 0)
    for part in (message[:3], message[3:9], message[9:]):
        assert zone.serve() == 0
        assert zone.take() is None
        zone.put(part)
    assert zone.serve() == 1


TYPES = st.sampled_from([Type.READ, Type.WRITE, *map(int, Type), 0, 255])
NUMBERS = st.sampled_from([0, 1, 2, 3, 700, 8192, 0x7FFF_FFFF, 0xFFFF_FFFF])


@given(st.lists(st.tuples(TYPES, NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=40), st.integers(0, 700)), max_size=30))
@settings(max_examples=200)
def test_any_requests_are_answered(requests: list[tuple[int, int, int, int, bytes, int]]) -> None:
    zone = fuzzed()
    for type_, fid, offset, count, rest, more in requests:
        zone.request(type_, struct.pack("<IQI", fid, offset, count), rest, bytes(more))
        assert zone.serve() == 1
        reply = zone.take()
        assert reply is not None
        assert reply[0] in (type_ + 1, Type.LERROR + 1)
        assert zone.take() is None


@given(st.binary(max_size=16000))
@settings(max_examples=200)
def test_any_bytes_in_a_ring_are_answered_or_break_it(data: bytes) -> None:
    zone = fuzzed()
    zone.put(data)
    try:
        while zone.serve():
            while zone.take() is not None:
                pass
    except RingBrokenError:
        pass
    zone.session.close()
    zone.ring.close()


def fuzzed() -> ZoneEnd:
    (_folder() / "file").write_bytes(bytes(10))
    zone = attached(_folder())
    opened(zone, os.O_RDWR)
    return zone


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp())
