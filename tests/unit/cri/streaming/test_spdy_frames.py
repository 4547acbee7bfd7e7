"""The SPDY framing: what goes in comes out, however it is cut; what is wrong is an error and no more."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.cri.streaming.spdy_dictionary import DICTIONARY
from zonal.cri.streaming.spdy_frames import (
    MAX_CONTROL,
    MAX_HEADER_COUNT,
    MAX_HEADERS,
    Data,
    Frame,
    FrameReader,
    FrameType,
    FrameWriter,
    GoAway,
    GoAwayStatus,
    Headers,
    Ping,
    Reset,
    ResetStatus,
    Settings,
    SpdyError,
    SynStream,
    WindowUpdate,
    control_frame,
    data_frame,
    go_away_frame,
    ping_frame,
    reset_frame,
    settings_frame,
    window_update_frame,
)

STREAMS = st.integers(0, 0x7FFFFFFF)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
HEADERS = st.dictionaries(TEXTS.map(str.lower), TEXTS, max_size=8)


def test_the_dictionary_is_the_one_of_the_draft() -> None:
    digest = hashlib.sha256(DICTIONARY).hexdigest()
    assert (len(DICTIONARY), digest[:16]) == (1423, "51d27341373f923f")


def test_the_bytes_of_a_frame() -> None:
    assert ping_frame(2).hex() == "8003000600000004" + "00000002"
    assert data_frame(5, b"hi", fin=True).hex() == "00000005" + "01000002" + b"hi".hex()


@given(st.lists(st.tuples(STREAMS, HEADERS, st.binary(max_size=100), st.booleans())), st.integers(1, 50))
def test_frames_come_out_as_they_went_in(items: list[tuple[int, dict[str, str], bytes, bool]], cut: int) -> None:
    writer, reader = FrameWriter(), FrameReader()
    wire, expected = b"", list[Frame]()
    for stream, headers, data, fin in items:
        headers = {name.lower(): value for name, value in headers.items()}
        wire += writer.open(stream, headers, fin=fin) + data_frame(stream, data, fin=fin) + writer.reply(stream)
        wire += ping_frame(stream) + settings_frame(stream) + window_update_frame(stream, stream)
        wire += reset_frame(stream, ResetStatus.CANCEL) + go_away_frame(stream, GoAwayStatus.OK)
        expected += (SynStream(stream, headers, fin), Data(stream, data, fin), Headers(stream, False), Ping(stream))
        expected += (Settings(stream), WindowUpdate(stream, stream), Reset(stream, 5), GoAway(0))
    frames = [frame for start in range(0, len(wire), cut) for frame in reader.feed(wire[start : start + cut])]
    assert _joined(frames) == expected


def _joined(frames: list[Frame]) -> list[Frame]:
    """With the pieces of each data frame put together again; the frames here never follow each other."""
    joined: list[Frame] = []
    for frame in frames:
        before = joined[-1] if joined else None
        if isinstance(frame, Data) and isinstance(before, Data):
            joined[-1] = Data(frame.stream, before.data + frame.data, frame.fin)
        else:
            joined.append(frame)
    return joined


@given(st.lists(st.binary(max_size=200)))
def test_noise_is_an_error_or_nothing(chunks: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for chunk in chunks:
            for _ in reader.feed(chunk):
                pass
    except SpdyError:
        pass


@given(st.sampled_from(list(range(12))), st.integers(0, 255), st.binary(max_size=64), st.binary(max_size=64))
def test_control_frames_of_noise_are_an_error_or_nothing(kind: int, flags: int, head: bytes, block: bytes) -> None:
    payload = head + zlib.compress(block)
    frame = struct.pack(">HHI", 0x8003, kind, flags << 24 | len(payload)) + payload
    with contextlib.suppress(SpdyError):
        assert len(list(FrameReader().feed(frame))) <= 1


@given(st.binary(max_size=300))
def test_header_blocks_of_noise_are_an_error_or_headers(plain: bytes) -> None:
    try:
        frames = list(FrameReader().feed(_opened(plain)))
    except SpdyError:
        return
    (frame,) = frames
    assert isinstance(frame, SynStream)


def _opened(plain: bytes) -> bytes:
    deflate = zlib.compressobj(zdict=DICTIONARY)
    block = deflate.compress(plain) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return control_frame(FrameType.SYN_STREAM, 0, bytes(10) + block)


def test_headers_that_unfold_to_too_much_are_an_error() -> None:
    plain = struct.pack(">II", 1, 1) + b"a" + struct.pack(">I", 8 * MAX_HEADERS) + bytes(8 * MAX_HEADERS)
    wire = _opened(plain)
    assert len(wire) < MAX_CONTROL
    with pytest.raises(SpdyError, match="more than"):
        list(FrameReader().feed(wire))


def test_too_many_headers_are_an_error() -> None:
    with pytest.raises(SpdyError, match="headers, more than"):
        list(FrameReader().feed(_opened(struct.pack(">I", MAX_HEADER_COUNT + 1))))


def test_a_header_that_is_there_twice_is_an_error() -> None:
    pair = struct.pack(">I", 1) + b"a" + struct.pack(">I", 0)
    with pytest.raises(SpdyError, match="twice"):
        list(FrameReader().feed(_opened(struct.pack(">I", 2) + pair + pair)))


def test_a_control_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    head = control_frame(FrameType.HEADERS, 0, bytes(MAX_CONTROL + 1))[:8]
    with pytest.raises(SpdyError, match="more than"):
        list(FrameReader().feed(head))


def test_a_data_frame_is_never_held() -> None:
    reader = FrameReader()
    assert list(reader.feed(struct.pack(">II", 1, 0x01FFFFFF))) == []
    for _ in range(255):
        assert list(reader.feed(bytes(1 << 16))) == [Data(1, bytes(1 << 16), False)]
    assert list(reader.feed(bytes((1 << 16) - 1))) == [Data(1, bytes((1 << 16) - 1), True)]
