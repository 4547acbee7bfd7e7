"""SPDY/3.1 on the wire: frames out of bytes and bytes out of frames, with no socket in sight.

The layouts are those of the SPDY draft 3.1, section 2. What comes from a client is bounded: a control frame, the
headers that it unfolds to, and their number; the payload of a data frame is handed on in the pieces that it comes in.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from zonal.cri.streaming.spdy_dictionary import DICTIONARY

MAX_CONTROL = 32 << 10
"""Bytes in a control frame."""
MAX_HEADERS = 64 << 10
"""Bytes that the headers of a frame unfold to."""
MAX_HEADER_COUNT = 128

FIN = 0x01
_CONTROL = 0x8000
_VERSION = 3
_HEAD = struct.Struct(">II")
_WORD = struct.Struct(">I")
_PAIR = struct.Struct(">II")


class FrameType(IntEnum):
    """Of control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class ResetStatus(IntEnum):
    """Why a stream ended at once: section 2.6.3."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9


class GoAwayStatus(IntEnum):
    """Why a session ends: section 2.6.6."""

    OK = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


SETTINGS_INITIAL_WINDOW_SIZE = 7


class SpdyError(Exception):
    """What came is no SPDY/3.1, or more than is taken: the session can't go on."""


@dataclass(frozen=True)
class SynStream:
    """The client opens a stream."""

    stream: int
    headers: Mapping[str, str]
    fin: bool


@dataclass(frozen=True)
class Data:
    """A piece of a data frame; ``fin`` with the last piece of a frame that ends its stream."""

    stream: int
    data: bytes
    fin: bool


@dataclass(frozen=True)
class Headers:
    """Further headers, or the reply to a stream, of which nothing is used here but the end."""

    stream: int
    fin: bool


@dataclass(frozen=True)
class Reset:
    """The stream ends at once."""

    stream: int
    status: int


@dataclass(frozen=True)
class Settings:
    """Of all settings, the one that matters here: the bytes that may be sent on a new stream."""

    initial_window: int | None


@dataclass(frozen=True)
class Ping:
    """To be answered with the same, if the client's numbers (the odd ones) are."""

    number: int


@dataclass(frozen=True)
class GoAway:
    """The client opens no more streams."""

    status: int


@dataclass(frozen=True)
class WindowUpdate:
    """So many bytes more may be sent on the stream, or in all where it is 0."""

    stream: int
    delta: int


Frame: TypeAlias = SynStream | Data | Headers | Reset | Settings | Ping | GoAway | WindowUpdate


class FrameReader:
    """Takes bytes as they come, and gives frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._stream = 0
        self._fin = False
        self._remaining = 0
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that ``data`` completes. Raises ``SpdyError``, and is of no use after that."""
        buffer = self._buffer
        buffer += data
        while buffer:
            if self._remaining:
                piece = bytes(memoryview(buffer)[: self._remaining])
                del buffer[: len(piece)]
                self._remaining -= len(piece)
                yield Data(self._stream, piece, self._fin and not self._remaining)
                continue
            if len(buffer) < _HEAD.size:
                return
            first, second = _HEAD.unpack_from(buffer)
            flags, length = second >> 24, second & 0xFFFFFF
            if not first >> 31:
                del buffer[: _HEAD.size]
                self._stream, self._fin, self._remaining = first, bool(flags & FIN), length
                if not length:
                    yield Data(first, b"", self._fin)
                continue
            if first >> 16 != _CONTROL | _VERSION:
                raise SpdyError(f"a control frame of SPDY version {first >> 16 & 0x7FFF}, not {_VERSION}")
            if length > MAX_CONTROL:
                raise SpdyError(f"a control frame of {length} bytes, more than {MAX_CONTROL}")
            if len(buffer) < _HEAD.size + length:
                return
            payload = bytes(memoryview(buffer)[_HEAD.size : _HEAD.size + length])
            del buffer[: _HEAD.size + length]
            frame = self._control(first & 0xFFFF, flags, payload)
            if frame is not None:
                yield frame

    def _control(self, kind: int, flags: int, payload: bytes) -> Frame | None:
        fin = bool(flags & FIN)
        match kind:
            case FrameType.SYN_STREAM:
                _expect(payload, 10)
                return SynStream(_stream(payload), self._headers(payload[10:]), fin)
            case FrameType.SYN_REPLY | FrameType.HEADERS:
                _expect(payload, 4)
                self._headers(payload[4:])  # the next ones are compressed against these
                return Headers(_stream(payload), fin)
            case FrameType.RST_STREAM:
                return Reset(*_pair(payload))
            case FrameType.SETTINGS:
                return _settings(payload)
            case FrameType.PING:
                _expect(payload, 4)
                return Ping(_WORD.unpack_from(payload)[0])
            case FrameType.GOAWAY:
                return GoAway(_pair(payload)[1])
            case FrameType.WINDOW_UPDATE:
                stream, delta = _pair(payload)
                return WindowUpdate(stream, delta & 0x7FFFFFFF)
            case _:
                return None  # section 2.2.1: what a receiver doesn't know it passes over

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, MAX_HEADERS)
        except zlib.error as error:
            raise SpdyError(f"headers that can't be decompressed: {error}") from error
        if self._inflate.unconsumed_tail or self._inflate.unused_data:
            raise SpdyError(f"headers of more than {MAX_HEADERS} bytes")
        return _fields(plain)


class FrameWriter:
    """Makes the bytes of frames; those with headers must be sent in the order in which they were made."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def reply(self, stream: int, headers: Mapping[str, str] | None = None) -> bytes:
        """SYN_REPLY: a client's stream is accepted."""
        return control_frame(FrameType.SYN_REPLY, 0, _WORD.pack(stream) + self._headers(headers or {}))

    def open(self, stream: int, headers: Mapping[str, str], *, fin: bool = False) -> bytes:
        """SYN_STREAM, as a client sends it."""
        payload = struct.pack(">IIH", stream, 0, 0) + self._headers(headers)
        return control_frame(FrameType.SYN_STREAM, FIN if fin else 0, payload)

    def _headers(self, headers: Mapping[str, str]) -> bytes:
        parts = [_WORD.pack(len(headers))]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                parts += (_WORD.pack(len(text)), text)
        return self._deflate.compress(b"".join(parts)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def control_frame(kind: FrameType, flags: int, payload: bytes) -> bytes:
    """A control frame with that payload."""
    return _HEAD.pack((_CONTROL | _VERSION) << 16 | kind, flags << 24 | len(payload)) + payload


def data_frame(stream: int, data: bytes | memoryview, *, fin: bool = False) -> bytes:
    """DATA: at most 16 MiB less one byte of it."""
    return b"".join((_HEAD.pack(stream, (FIN << 24 if fin else 0) | len(data)), data))


def reset_frame(stream: int, status: ResetStatus) -> bytes:
    """RST_STREAM."""
    return control_frame(FrameType.RST_STREAM, 0, _PAIR.pack(stream, status))


def settings_frame(initial_window: int) -> bytes:
    """SETTINGS, with the one setting: bytes that the other side may send on a new stream before it hears more."""
    return control_frame(FrameType.SETTINGS, 0, struct.pack(">III", 1, SETTINGS_INITIAL_WINDOW_SIZE, initial_window))


def ping_frame(number: int) -> bytes:
    """PING: even numbers are a server's."""
    return control_frame(FrameType.PING, 0, _WORD.pack(number))


def go_away_frame(last_stream: int, status: GoAwayStatus) -> bytes:
    """GOAWAY: no stream after ``last_stream`` was or will be looked at."""
    return control_frame(FrameType.GOAWAY, 0, _PAIR.pack(last_stream, status))


def window_update_frame(stream: int, delta: int) -> bytes:
    """WINDOW_UPDATE: the other side may send ``delta`` bytes more, on a stream or, where it is 0, in all."""
    return control_frame(FrameType.WINDOW_UPDATE, 0, _PAIR.pack(stream, delta))


def _expect(payload: bytes, least: int) -> None:
    if len(payload) < least:
        raise SpdyError(f"a control frame of {len(payload)} bytes, fewer than the {least} that its kind has")


def _stream(payload: bytes) -> int:
    return int(_WORD.unpack_from(payload)[0]) & 0x7FFFFFFF


def _pair(payload: bytes) -> tuple[int, int]:
    _expect(payload, _PAIR.size)
    first, second = _PAIR.unpack_from(payload)
    return first & 0x7FFFFFFF, second


def _settings(payload: bytes) -> Settings:
    _expect(payload, 4)
    count = _WORD.unpack_from(payload)[0]
    _expect(payload, 4 + 8 * count)
    initial_window = None
    for key, value in _PAIR.iter_unpack(payload[4 : 4 + 8 * count]):
        if key & 0xFFFFFF == SETTINGS_INITIAL_WINDOW_SIZE:
            initial_window = value & 0x7FFFFFFF
    return Settings(initial_window)


def _fields(block: bytes) -> dict[str, str]:
    """A header block, decompressed: a count, then names and values, each after its length (section 2.6.10)."""
    offset = 0

    def word() -> int:
        nonlocal offset
        if len(block) - offset < _WORD.size:
            raise SpdyError("headers that end too early")
        offset += _WORD.size
        return int(_WORD.unpack_from(block, offset - _WORD.size)[0])

    def text() -> str:
        nonlocal offset
        size = word()
        if len(block) - offset < size:
            raise SpdyError("headers that end too early")
        offset += size
        return block[offset - size : offset].decode("utf-8", "replace")

    count = word()
    if count > MAX_HEADER_COUNT:
        raise SpdyError(f"{count} headers, more than {MAX_HEADER_COUNT}")
    fields: dict[str, str] = {}
    for _ in range(count):
        name = text().lower()
        if name in fields:
            raise SpdyError("a header that is there twice")
        fields[name] = text()
    return fields
