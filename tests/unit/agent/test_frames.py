from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.protocol.frames import (
    CALL,
    CREDIT,
    DATA,
    END,
    EVENT,
    HEADER_SIZE,
    HELLO,
    MAX_PAYLOAD,
    MORE,
    REPLY,
    RESET,
    FrameDecoder,
    ProtocolError,
    decode_number,
    encode_frame,
    encode_message,
    encode_offset,
    encode_reset,
)

HEADER = struct.Struct("<IIBBH")
LIMIT = 100_000
STREAMS = st.integers(1, 0xFFFFFFFF)
FRAMES = st.one_of(
    st.tuples(st.just(0), st.sampled_from([HELLO, CALL, REPLY, EVENT]), st.binary(max_size=40)),
    st.tuples(st.just(0), st.sampled_from([CALL, REPLY]), st.integers(MAX_PAYLOAD - 1, LIMIT).map(bytes)),
    st.tuples(STREAMS, st.just(DATA), st.binary(min_size=1, max_size=40)),
    st.tuples(STREAMS, st.sampled_from([CREDIT, END]), st.binary(min_size=8, max_size=8)),
    st.tuples(STREAMS, st.just(RESET), st.binary(min_size=4, max_size=4)),
)


def encode(stream: int, kind: int, payload: bytes) -> bytes:
    return encode_frame(stream, kind, payload) if stream else encode_message(kind, payload)


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


def test_the_header_is_as_written_down() -> None:
    assert HEADER.size == HEADER_SIZE
    assert encode_frame(0x01020304, DATA, b"abc") == HEADER.pack(3, 0x01020304, DATA, 0, 0) + b"abc"
    assert encode_offset(7, CREDIT, 1 << 40) == HEADER.pack(8, 7, CREDIT, 0, 0) + struct.pack("<Q", 1 << 40)
    assert encode_reset(7, 32) == HEADER.pack(4, 7, RESET, 0, 0) + struct.pack("<I", 32)
    assert decode_number(struct.pack("<Q", 1 << 63)) == 1 << 63


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_frames_survive_any_chunking(frames: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    decoder = FrameDecoder(LIMIT)
    data = b"".join(encode(*frame) for frame in frames)
    assert [frame for piece in in_pieces(data, cuts) for frame in decoder.feed(piece)] == frames


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_any_bytes_give_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    decoder = FrameDecoder(LIMIT)
    try:
        for piece in pieces:
            for stream, kind, payload in decoder.feed(piece):
                assert (stream == 0) == (kind <= EVENT)
                assert len(payload) <= MAX_PAYLOAD
    except ProtocolError:
        pass


@given(st.data())
def test_any_header_gives_a_protocol_error_or_waits_for_its_payload(data: st.DataObject) -> None:
    numbers = [st.integers(0, 40_000), st.integers(0, 3), st.integers(0, 10), st.integers(0, 2), st.integers(0, 1)]
    length, stream, kind, flags, reserved = (data.draw(number) for number in numbers)
    allowed = (
        length <= MAX_PAYLOAD
        and HELLO <= kind <= RESET
        and (stream == 0) == (kind <= EVENT)
        and not reserved
        and flags <= (MORE if stream == 0 else 0)
        and {CREDIT: length == 8, END: length == 8, RESET: length == 4, DATA: length > 0}.get(kind, True)
    )
    decoder = FrameDecoder(LIMIT)
    header = HEADER.pack(length, stream, kind, flags, reserved)
    if not allowed:
        with pytest.raises(ProtocolError):
            decoder.feed(header)
    elif length:
        assert decoder.feed(header) == []


def test_a_long_message_comes_out_whole_between_frames_of_streams() -> None:
    message = bytes(range(256)) * 300
    frames = [
        encode_frame(0, REPLY, message[:MAX_PAYLOAD], MORE),
        encode_frame(5, DATA, b"between"),
        encode_frame(0, REPLY, message[MAX_PAYLOAD : 2 * MAX_PAYLOAD], MORE),
        encode_frame(0, REPLY, message[2 * MAX_PAYLOAD :]),
    ]
    assert FrameDecoder(LIMIT).feed(b"".join(frames)) == [(5, DATA, b"between"), (0, REPLY, message)]


def test_messages_have_a_bound() -> None:
    decoder = FrameDecoder(LIMIT)
    frame = encode_frame(0, CALL, bytes(MAX_PAYLOAD), MORE)
    for _ in range(3):
        assert decoder.feed(frame) == []
    with pytest.raises(ProtocolError, match="more than"):
        decoder.feed(frame)


def test_unfinished_messages_are_not_mixed_or_stretched() -> None:
    decoder = FrameDecoder(LIMIT)
    decoder.feed(encode_frame(0, CALL, bytes(MAX_PAYLOAD), MORE))
    with pytest.raises(ProtocolError, match="inside"):
        decoder.feed(encode_frame(0, REPLY, b""))
    with pytest.raises(ProtocolError, match="unfinished"):
        FrameDecoder(LIMIT).feed(encode_frame(0, CALL, b"", MORE))
