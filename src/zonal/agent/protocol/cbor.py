"""A strict, bounded, deterministic subset of CBOR (RFC 8949): what control messages are made of.

Integers within 64 bits, byte strings, text strings, arrays, maps with text keys, false, true, null; definite lengths,
shortest heads, keys in the order of their encoded bytes (RFC 8949, 4.2.1), each once. Everything else is refused.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[str, Value] | None"

MAX_DEPTH = 16
"""Containers within containers."""
MAX_ITEMS = 1 << 17
"""Data items in one message, keys included; it bounds the memory that a short message can ask for."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 1, 2, 3, 4, 5, 7
_FALSE, _TRUE, _NULL = 0xF4, 0xF5, 0xF6
_TAG = 6


class CborError(ValueError):
    """Bytes that are not of the subset, or a value that it cannot carry."""


def encode(value: Value) -> bytes:
    """The one encoding of ``value``; raises ``CborError`` for what the subset does not have."""
    out = bytearray()
    _encode(value, out, 0)
    return bytes(out)


def decode(data: bytes | bytearray) -> Value:
    """The value that ``data`` encodes, all of it; raises ``CborError`` for anything that ``encode`` would not write."""
    decoder = _Decoder(bytes(data))
    value = decoder.value(0)
    if decoder.at != len(decoder.data):
        raise CborError(f"{len(decoder.data) - decoder.at} bytes after the value")
    return value


def _encode(value: Value, out: bytearray, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise CborError(f"deeper than {MAX_DEPTH}")
    for kind in type(value).__mro__:  # an IntEnum is an int here
        if encoder := _ENCODERS.get(kind):
            encoder(value, out, depth)
            return
    raise CborError(f"no place for a {type(value).__name__}")


def _encode_simple(value: bool | None, out: bytearray, _depth: int) -> None:
    out.append(_NULL if value is None else _TRUE if value else _FALSE)


def _encode_int(value: int, out: bytearray, _depth: int) -> None:
    major, argument = (_UNSIGNED, value) if value >= 0 else (_NEGATIVE, -1 - value)
    if argument >> 64:
        raise CborError(f"beyond 64 bits: {value}")
    _head(major, argument, out)


def _encode_bytes(value: bytes, out: bytearray, _depth: int) -> None:
    _head(_BYTES, len(value), out)
    out += value


def _encode_text(value: str, out: bytearray, _depth: int) -> None:
    try:
        data = value.encode()
    except UnicodeEncodeError as error:
        raise CborError(f"not text: {value!r}") from error
    _head(_TEXT, len(data), out)
    out += data


def _encode_array(value: list[Value], out: bytearray, depth: int) -> None:
    _head(_ARRAY, len(value), out)
    for item in value:
        _encode(item, out, depth + 1)


def _encode_map(value: dict[str, Value], out: bytearray, depth: int) -> None:
    _head(_MAP, len(value), out)
    pairs: list[tuple[bytes, Value]] = []
    for key, item in value.items():
        if type(key) is not str:
            raise CborError(f"a key that is not text: {key!r}")
        encoded = bytearray()
        _encode_text(key, encoded, depth)
        pairs.append((bytes(encoded), item))
    pairs.sort(key=lambda pair: pair[0])
    for encoded_key, item in pairs:
        out += encoded_key
        _encode(item, out, depth + 1)


_ENCODERS: dict[type, Callable[[Any, bytearray, int], None]] = {
    type(None): _encode_simple,
    bool: _encode_simple,
    int: _encode_int,
    bytes: _encode_bytes,
    str: _encode_text,
    list: _encode_array,
    tuple: _encode_array,
    dict: _encode_map,
}


def _head(major: int, argument: int, out: bytearray) -> None:
    major <<= 5
    if argument < 24:
        out.append(major | argument)
        return
    width = 0 if argument < 1 << 8 else 1 if argument < 1 << 16 else 2 if argument < 1 << 32 else 3
    out.append(major | (24 + width))
    out += argument.to_bytes(1 << width, "big")


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.items = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CborError(f"cut short: {count} bytes wanted, {len(self.data) - self.at} there")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def head(self) -> tuple[int, int]:
        """Major type and argument; for simple values the argument is the initial byte."""
        self.items += 1
        if self.items > MAX_ITEMS:
            raise CborError(f"more than {MAX_ITEMS} items")
        initial = self.take(1)[0]
        major, low = initial >> 5, initial & 31
        if major == _SIMPLE:
            return major, initial
        if major == _TAG:
            raise CborError("a tag")
        if low < 24:
            return major, low
        if low > 27:
            raise CborError(f"initial byte {initial:#04x}")
        width = 1 << (low - 24)
        argument = int.from_bytes(self.take(width), "big")
        if argument < (24 if width == 1 else 1 << (4 * width)):
            raise CborError("a head that is not the shortest")
        return major, argument

    def value(self, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise CborError(f"deeper than {MAX_DEPTH}")
        major, argument = self.head()
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            return self.text(argument)
        if major == _ARRAY:
            self.check_count(argument)
            return [self.value(depth + 1) for _ in range(argument)]
        if major == _MAP:
            self.check_count(2 * argument)
            return self.map(argument, depth)
        if argument in (_FALSE, _TRUE):
            return argument == _TRUE
        if argument == _NULL:
            return None
        raise CborError(f"initial byte {argument:#04x}")

    def check_count(self, count: int) -> None:
        # Every item takes at least one byte: refuse a count before making room for it.
        if count > len(self.data) - self.at:
            raise CborError(f"{count} items announced, {len(self.data) - self.at} bytes there")

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise CborError("text that is not UTF-8") from error

    def map(self, count: int, depth: int) -> dict[str, Value]:
        result: dict[str, Value] = {}
        previous = b""
        for _ in range(count):
            start = self.at
            major, length = self.head()
            if major != _TEXT:
                raise CborError("a key that is not text")
            key = self.text(length)
            encoded = self.data[start : self.at]
            if encoded <= previous:
                raise CborError(f"key {key!r} twice or out of order")
            previous = encoded
            result[key] = self.value(depth + 1)
        return result
