"""Byte rings: what is written comes out, whatever the counters started at; impossible counters are named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.xen.ring import RingCorruptError, RingReader, RingWriter

_U32 = st.integers(0, 0xFFFF_FFFF)
_SIZE = 64


def ring(start: int = 0) -> tuple[memoryview, memoryview]:
    counters = memoryview(bytearray(8)).cast("I")
    counters[0] = counters[1] = start
    return memoryview(bytearray(_SIZE)), counters


@given(
    _U32,
    st.lists(st.one_of(st.binary(max_size=2 * _SIZE), st.integers(0, 2 * _SIZE)), max_size=30),
)
def test_bytes_come_out_as_they_went_in(start: int, steps: list[bytes | int]) -> None:
    data, counters = ring(start)
    writer = RingWriter(data, counters, prod=0, cons=1, name="test")
    reader = RingReader(data, counters, prod=0, cons=1, name="test")
    written, read = b"", b""
    for step in steps:
        if isinstance(step, bytes):
            room = writer.space()
            count = writer.write(memoryview(step))
            assert count == min(room, len(step))
            written += step[:count]
        else:
            ready = reader.available()
            piece = reader.read(step)
            assert len(piece) == min(ready, step)
            read += piece
        assert writer.space() + reader.available() == _SIZE
    assert read + reader.read(_SIZE) == written


@given(_U32, st.lists(st.binary(max_size=_SIZE), max_size=30), st.integers(0, 9))
def test_what_is_put_in_and_taken_out_in_place_is_the_same(start: int, messages: list[bytes], skip: int) -> None:
    data, counters = ring(start)
    writer = RingWriter(data, counters, prod=0, cons=1, name="test")
    reader = RingReader(data, counters, prod=0, cons=1, name="test")
    for message in messages:
        head, body = message[:skip], message[skip:]
        pieces = writer.pieces(len(head), len(body))
        rest = body
        for piece in pieces:
            piece[:] = rest[: len(piece)]
            rest = rest[len(piece) :]
        assert not rest
        writer.fill(head)
        assert reader.available() == 0  # nothing is published yet
        writer.advance(len(message))
        assert reader.peek(len(message)) == message
        assert b"".join(reader.pieces(len(head), len(body))) == body
        assert reader.available() == len(message)
        reader.skip(len(message))
        assert (reader.available(), writer.space()) == (0, _SIZE)
        writer.fill(message)
        writer.advance(len(message))
        assert reader.read(_SIZE) == message


@given(_U32, _U32)
def test_a_reader_believes_only_possible_counters(start: int, produced: int) -> None:
    data, counters = ring(start)
    reader = RingReader(data, counters, prod=0, cons=1, name="of nobody")
    counters[0] = produced
    ready = (produced - start) % 2**32
    if ready <= _SIZE:
        assert reader.available() == ready
        assert len(reader.read(1000)) == ready
    else:
        with pytest.raises(RingCorruptError, match=f"of nobody is corrupt: {produced} bytes written and {start} read"):
            reader.available()
        with pytest.raises(RingCorruptError):
            reader.read(1)
        assert counters[1] == start


@given(_U32, _U32)
def test_a_writer_believes_only_possible_counters(start: int, consumed: int) -> None:
    data, counters = ring(start)
    writer = RingWriter(data, counters, prod=0, cons=1, name="of nobody")
    counters[1] = consumed
    unread = (start - consumed) % 2**32
    if unread <= _SIZE:
        assert writer.space() == _SIZE - unread
        assert writer.write(memoryview(bytes(1000))) == _SIZE - unread
    else:
        with pytest.raises(RingCorruptError, match="of nobody is corrupt"):
            writer.write(memoryview(b"x"))
        assert counters[0] == start
        assert bytes(data) == bytes(_SIZE)


@given(_U32, st.lists(_U32, max_size=5))
def test_our_own_counter_is_not_read_back(start: int, lies: list[int]) -> None:
    data, counters = ring(start)
    writer = RingWriter(data, counters, prod=0, cons=1, name="test")
    reader = RingReader(data, counters, prod=0, cons=1, name="test")
    for number, lie in enumerate(lies):
        counters[0] = lie
        writer.write(memoryview(b"%c" % number))
        counters[1] = lie
        assert reader.read(_SIZE) == b"%c" % number


def test_a_former_reader_may_leave_bytes_behind() -> None:
    data, counters = ring(0xFFFF_FFF0)
    RingWriter(data, counters, prod=0, cons=1, name="test").write(memoryview(b"abcdef" * 6))
    RingReader(data, counters, prod=0, cons=1, name="test").read(6)
    assert RingReader(data, counters, prod=0, cons=1, name="test").read(100) == b"abcdef" * 5


def test_impossible_counters_are_found_at_the_start() -> None:
    data, counters = ring()
    counters[0] = _SIZE + 1
    with pytest.raises(RingCorruptError):
        RingReader(data, counters, prod=0, cons=1, name="test")
    with pytest.raises(RingCorruptError):
        RingWriter(data, counters, prod=0, cons=1, name="test")


@pytest.mark.parametrize("size", [0, 3, 96])
def test_sizes_are_powers_of_two(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        RingReader(memoryview(bytes(size)), ring()[1], prod=0, cons=1, name="test")
