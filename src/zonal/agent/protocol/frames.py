"""Frames: what travels on the channel, and an incremental, bounded decoder for them.

Layout, little endian: u32 length of the payload, u32 stream, u8 type, u8 flags, u16 reserved (0); then the payload.
"""

from __future__ import annotations

VERSION = 1
"""Of the whole protocol; both sides say theirs in HELLO and must agree."""

HEADER_SIZE = 12
MAX_PAYLOAD = 32768
"""Bytes of payload in one frame."""
MAX_MESSAGE = 2 << 20
"""Bytes of one control message to the agent, put together from frames with ``MORE``: room for long command lines."""
MAX_ZONE_MESSAGE = 1 << 16
"""Bytes of one control message from the agent: the host keeps at most this for a zone."""

HELLO, CALL, REPLY, EVENT, DATA, CREDIT, END, RESET = range(1, 9)
"""Types. The first four are CBOR on stream 0; the others belong to streams from 1 up."""
MORE = 1
"""Flag: the next frame on stream 0 goes on with this message."""

_OFFSET_SIZE = 8
_REASON_SIZE = 4


class ProtocolError(Exception):
    """The peer sent what the protocol does not allow; the session is over."""


def encode_frame(stream: int, kind: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """One frame; ``payload`` of at most ``MAX_PAYLOAD`` bytes."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"payload of {len(payload)} bytes, at most {MAX_PAYLOAD}")
    return encode_header(stream, kind, len(payload), flags) + payload


def encode_header(stream: int, kind: int, length: int, flags: int = 0) -> bytes:
    """What comes before a payload of ``length`` bytes, at most ``MAX_PAYLOAD``."""
    return (length | stream << 32 | kind << 64 | flags << 72).to_bytes(HEADER_SIZE, "little")


def encode_message(kind: int, payload: bytes) -> bytes:
    """A control message as one frame or several."""
    if len(payload) <= MAX_PAYLOAD:
        return encode_frame(0, kind, payload)
    pieces = [payload[at : at + MAX_PAYLOAD] for at in range(0, len(payload), MAX_PAYLOAD)]
    frames = [encode_frame(0, kind, piece, MORE) for piece in pieces[:-1]]
    return b"".join([*frames, encode_frame(0, kind, pieces[-1])])


def encode_offset(stream: int, kind: int, offset: int) -> bytes:
    """CREDIT (bytes consumed so far) or END (bytes sent in all): the payload is a u64."""
    return encode_frame(stream, kind, offset.to_bytes(_OFFSET_SIZE, "little"))


def encode_reset(stream: int, reason: int) -> bytes:
    """RESET: the stream is given up; ``reason`` is a Linux errno, as u32."""
    return encode_frame(stream, RESET, reason.to_bytes(_REASON_SIZE, "little"))


def decode_number(payload: bytes) -> int:
    """What the payload of CREDIT, END or RESET says."""
    return int.from_bytes(payload, "little")


class FrameDecoder:
    """Bytes in, in any pieces; whole frames out. Messages in several frames come out as one.

    Holds at most one frame, one unfinished message of ``max_message`` bytes, and what the last ``feed`` brought.
    """

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._part = bytearray()
        self._message = bytearray()
        self._message_kind = 0

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Adds ``data``; gives the (stream, type, payload) that are now whole. Raises ``ProtocolError``."""
        frames: list[tuple[int, int, bytes]] = []
        at = self._finish(data, frames) if self._part else 0
        while len(data) - at >= HEADER_SIZE:
            length, stream, kind, flags = _header(data[at : at + HEADER_SIZE])
            end = at + HEADER_SIZE + length
            if end > len(data):
                break
            self._add(frames, stream, kind, flags, data[at + HEADER_SIZE : end])
            at = end
        # What follows is the beginning of a frame; all else was copied once, from ``data``.
        self._part += data[at:]
        return frames

    def _finish(self, data: bytes, frames: list[tuple[int, int, bytes]]) -> int:
        """Completes the frame that was begun by ``data``, if that is enough; gives how much of it was used."""
        part = self._part
        at = max(0, min(HEADER_SIZE - len(part), len(data)))
        part += data[:at]
        if len(part) < HEADER_SIZE:
            return at
        length, stream, kind, flags = _header(part[:HEADER_SIZE])
        end = at + HEADER_SIZE + length - len(part)
        part += data[at:end]
        if len(part) < HEADER_SIZE + length:
            return len(data)
        payload = bytes(part[HEADER_SIZE:])
        part.clear()
        self._add(frames, stream, kind, flags, payload)
        return end

    def _add(self, frames: list[tuple[int, int, bytes]], stream: int, kind: int, flags: int, payload: bytes) -> None:
        if stream:
            frames.append((stream, kind, payload))
        elif (whole := self._assemble(kind, flags, payload)) is not None:
            frames.append((stream, kind, whole))

    def _assemble(self, kind: int, flags: int, payload: bytes) -> bytes | None:
        if self._message_kind not in (0, kind):
            raise ProtocolError(f"message of type {kind} inside one of type {self._message_kind}")
        if len(self._message) + len(payload) > self._max_message:
            raise ProtocolError(f"message of more than {self._max_message} bytes")
        if flags & MORE:
            if len(payload) != MAX_PAYLOAD:
                raise ProtocolError(f"unfinished message in a frame of {len(payload)} bytes")
            self._message_kind = kind
            self._message += payload
            return None
        if not self._message_kind:
            return payload
        whole = bytes(self._message) + payload
        self._message = bytearray()
        self._message_kind = 0
        return whole


def _header(data: bytes | bytearray) -> tuple[int, int, int, int]:
    """Length, stream, type and flags. Raises ``ProtocolError``."""
    head = int.from_bytes(data, "little")
    length, stream, kind, flags = head & 0xFFFFFFFF, head >> 32 & 0xFFFFFFFF, head >> 64 & 0xFF, head >> 72
    _check_header(length, stream, kind, flags)
    return length, stream, kind, flags


def _check_header(length: int, stream: int, kind: int, flags: int) -> None:
    # ``flags`` holds the reserved half-word too, so that both are checked at once.
    if length > MAX_PAYLOAD:
        raise ProtocolError(f"payload of {length} bytes, at most {MAX_PAYLOAD}")
    if not HELLO <= kind <= RESET:
        raise ProtocolError(f"frame of unknown type {kind}")
    if (stream == 0) != (kind <= EVENT):
        raise ProtocolError(f"frame of type {kind} on stream {stream}")
    if flags & ~MORE or (flags and stream):
        raise ProtocolError(f"flags {flags:#x} in a frame of type {kind}")
    if kind in (CREDIT, END) and length != _OFFSET_SIZE:
        raise ProtocolError(f"frame of type {kind} with {length} bytes, not {_OFFSET_SIZE}")
    if kind == RESET and length != _REASON_SIZE:
        raise ProtocolError(f"RESET with {length} bytes, not {_REASON_SIZE}")
    if kind == DATA and length == 0:
        raise ProtocolError("DATA with no bytes")
