"""bzImage → ELF: finds the compressed kernel in a bzImage and decompresses it, bounded.

Source: Linux's ``Documentation/arch/x86/boot.rst`` (the setup header) and ``scripts/Makefile.lib`` (the payloads).
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable
from typing import cast

from zonal.errors import InvalidInputError

MAX_KERNEL_SIZE = 1 << 30
"""Bytes; a payload that expands beyond this is refused."""

_SETUP_SECTS = 0x1F1
_BOOT_FLAG = 0x1FE
_HEADER_MAGIC = 0x202
_VERSION = 0x206
_PAYLOAD_OFFSET = 0x248
_HEADER_END = 0x250
_FIRST_VERSION_WITH_PAYLOAD = 0x0208
_LZ4_LEGACY_BLOCK = 8 << 20


def is_bzimage(data: memoryview) -> bool:
    """Whether these bytes begin like a bzImage: "HdrS" at 0x202."""
    return len(data) >= _HEADER_END and bytes(data[_HEADER_MAGIC : _HEADER_MAGIC + 4]) == b"HdrS"


def extract_elf(data: memoryview, name: str) -> bytes:
    """The ELF kernel within a bzImage; ``name`` is for messages.

    Raises ``InvalidInputError`` for anything that is truncated, corrupt, or compressed in a way that is not known.
    """
    with _payload(data, name) as payload:
        return _decompress(payload, name)


def _decompress(payload: memoryview, name: str) -> bytes:
    for magic, method, decompress in _METHODS:
        if bytes(payload[: len(magic)]) == magic:
            try:
                elf = decompress(payload)
            except (zlib.error, lzma.LZMAError, _PayloadError) as error:
                raise InvalidInputError(
                    f"kernel {name}: its {method} payload is corrupt or truncated: {error}",
                    hint="get the file again; `file` should call it a Linux kernel bzImage",
                ) from error
            if elf[:4] != b"\x7fELF":
                raise InvalidInputError(f"kernel {name}: its {method} payload is not an ELF file")
            return elf
    raise InvalidInputError(
        f"kernel {name}: unknown compression (payload begins with {bytes(payload[:6]).hex(' ')})",
        hint="gzip, xz, lz4 and zstd are known; or give the uncompressed vmlinux",
    )


def _payload(data: memoryview, name: str) -> memoryview:
    (version,) = struct.unpack_from("<H", data, _VERSION)
    (boot_flag,) = struct.unpack_from("<H", data, _BOOT_FLAG)
    if boot_flag != 0xAA55 or version < _FIRST_VERSION_WITH_PAYLOAD:
        raise InvalidInputError(
            f"kernel {name}: boot protocol {version >> 8}.{version & 0xFF:02} tells nothing of its payload",
            hint="kernels since Linux 2.6.26 (protocol 2.08) can be used",
        )
    setup_sectors = data[_SETUP_SECTS] or 4  # boot.rst: 0 means 4, for old loaders
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_OFFSET)
    begin = (setup_sectors + 1) * 512 + offset
    if length < 8 or begin + length > len(data):
        raise InvalidInputError(
            f"kernel {name}: truncated: its payload ends at byte {begin + length}, the file at {len(data)}",
            hint="get the file again",
        )
    return data[begin : begin + length]


class _PayloadError(Exception):
    """What is wrong with a payload, in words."""


def _gunzip(payload: memoryview) -> bytes:
    engine = zlib.decompressobj(wbits=31)
    data = engine.decompress(payload, MAX_KERNEL_SIZE)
    return _checked(data, engine.eof)


def _unxz(payload: memoryview) -> bytes:
    engine = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    data = engine.decompress(payload, MAX_KERNEL_SIZE)
    return _checked(data, engine.eof)


def _unzstd(payload: memoryview) -> bytes:
    import zstandard

    engine = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    data = bytearray()
    step = 1 << 12  # so that one step expands by 128 MiB at the most
    for begin in range(0, len(payload), step):
        try:
            data += engine.decompress(bytes(payload[begin : begin + step]))
        except zstandard.ZstdError as error:
            raise _PayloadError(str(error)) from error
        if len(data) > MAX_KERNEL_SIZE:
            raise _PayloadError(_too_large())
        if engine.eof:
            break
    return _checked(bytes(data), engine.eof)


def _unlz4(payload: memoryview) -> bytes:
    """The legacy frame of the lz4 tool: a magic, then blocks, each its compressed size (u32) and its bytes."""
    import lz4.block as lz4_block

    decompress = cast("Callable[..., bytes]", lz4_block.decompress)  # pyright: ignore[reportUnknownMemberType]
    data = bytearray()
    position = 4
    # The last four bytes are the kernel build's own note of the uncompressed size.
    end = len(payload) - 4
    while position + 4 <= end:
        (size,) = struct.unpack_from("<I", payload, position)
        position += 4
        if size > end - position:
            raise _PayloadError(f"a block of {size} bytes at {position} goes beyond the end")
        block = bytes(payload[position : position + size])
        try:
            data += decompress(block, uncompressed_size=_LZ4_LEGACY_BLOCK)
        except RuntimeError as error:
            raise _PayloadError(str(error)) from error
        position += size
        if len(data) > MAX_KERNEL_SIZE:
            raise _PayloadError(_too_large())
    (expected,) = struct.unpack_from("<I", payload, end)
    if expected != len(data):
        raise _PayloadError(f"{len(data)} bytes came out where {expected} should")
    return bytes(data)


def _checked(data: bytes, complete: bool) -> bytes:
    if complete:
        return data
    if len(data) >= MAX_KERNEL_SIZE:
        raise _PayloadError(_too_large())
    raise _PayloadError("the stream ends too early")


def _too_large() -> str:
    return f"it expands beyond {MAX_KERNEL_SIZE >> 20} MiB"


_METHODS: tuple[tuple[bytes, str, Callable[[memoryview], bytes]], ...] = (
    (b"\x1f\x8b", "gzip", _gunzip),
    (b"\xfd7zXZ\0", "xz", _unxz),
    (b"\x28\xb5\x2f\xfd", "zstd", _unzstd),
    (b"\x02\x21\x4c\x18", "lz4", _unlz4),
)
