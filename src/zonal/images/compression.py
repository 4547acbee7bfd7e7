"""Recognise and undo the compression of a layer or an archive: gzip, zstd, xz and bzip2.

zstd is the work of the ``zstd`` program, the others of Python's standard library. What comes out is counted and
bounded as it is made, so that a small file cannot fill the disk.
"""

from __future__ import annotations

import bz2
import contextlib
import hashlib
import lzma
import os
import subprocess
import tempfile
import threading
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import IO, Final, Protocol

from zonal.errors import InvalidInputError, UnavailableError
from zonal.images.arrival import Arrival
from zonal.images.limits import Limits
from zonal.images.output import Output
from zonal.images.tarformat import Source

_READ: Final = 64 << 10
_STEP: Final = 64 << 10
"""Small enough for malloc to use the same memory again. From 128 KiB on each piece would be mapped by itself, and a
page fault for every 4 KiB of it takes longer than to decompress them."""
_DIGESTED: Final = 256 << 10
_XZ_MEMORY: Final = 256 << 20
"""Bytes that xz may use: its strongest preset takes 65 MiB."""
_ZSTD_WINDOW: Final = "--memory=128MB"

_MAGIC: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
}


@dataclass(frozen=True, slots=True)
class Expanded:
    """What came of decompressing."""

    size: int
    """Bytes written."""
    compressed_digest: str
    """``sha256:…`` of what was read."""
    digest: str
    """``sha256:…`` of what was written: for a layer, its diff id."""


def recognise(head: bytes) -> str | None:
    """Name of the compression that a file with these first bytes has: ``gzip``, ``zstd``, ``xz``, ``bzip2`` or None."""
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    # A zstd skippable frame: RFC 8878, section 3.1.2.
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return None


def digest(source: Source, *, on_step: Callable[[], None] = lambda: None) -> str:
    """``sha256:…`` of the bytes of ``source``."""
    state = hashlib.sha256()
    for chunk in _read(source, on_step, piece=_DIGESTED):
        state.update(chunk)
    return f"sha256:{state.hexdigest()}"


def expand(
    source: Source,
    kind: str,
    target: int,
    limits: Limits,
    *,
    verified: str | None = None,
    arrival: Arrival | None = None,
    on_step: Callable[[], None] = lambda: None,
) -> Expanded:
    """Decompress ``source`` to the descriptor ``target``.

    Args:
        source: in ``kind`` of compression, by `recognise`.
        target: a file, written from where it is on.
        limits: how much may come of it.
        verified: the digest of ``source``, where that need not be made any more.
        arrival: of a source that is still on its way. When it ends too early, that is taken for a truncated one.
        on_step: may raise to give up.

    Raises:
        InvalidInputError: corrupt, truncated, or larger than the limits allow.
        UnavailableError: the program for this compression is missing.
    """
    before = hashlib.sha256()

    def compressed() -> Iterator[memoryview]:
        for chunk in _read(source, on_step, arrival):
            if verified is None:
                before.update(chunk)
            yield chunk

    most = min(limits.layer_bytes, max(limits.expansion_floor, limits.expansion * source.size))
    size = 0
    with (
        contextlib.closing(_DECODERS[kind](compressed(), source.label)) as chunks,
        Output(target) as output,
    ):
        for chunk in chunks:
            on_step()
            size += len(chunk)
            if size > most:
                raise InvalidInputError(
                    f"{source.label} expands from {source.size} to more than {most} bytes",
                    hint="no image is like that: do not trust where it came from",
                )
            output.add(chunk)
        digest = output.finish()
    return Expanded(size, verified or f"sha256:{before.hexdigest()}", digest)


def _read(
    source: Source, on_step: Callable[[], None], arrival: Arrival | None = None, *, piece: int = _READ
) -> Iterator[memoryview]:
    """Pieces of ``source``, each in the same memory: it counts until the next one is asked for."""
    buffer = memoryview(bytearray(piece))
    offset, end = source.offset, source.offset + source.size
    while offset < end:
        on_step()
        wanted = min(piece, end - offset)
        if arrival is not None:
            arrival.wait(offset + wanted - source.offset, on_step)
        count = os.preadv(source.fd, [buffer[:wanted]], offset)
        if not count:
            raise InvalidInputError(f"{source.label} is truncated", hint="make or fetch the file again")
        offset += count
        yield buffer[:count]


class _Stream(Protocol):
    """One of the standard library's decompressors, their differences evened out."""

    def feed(self, data: bytes | memoryview) -> bytes: ...
    @property
    def hungry(self) -> bool: ...
    @property
    def ended(self) -> bool: ...
    @property
    def left(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._state = zlib.decompressobj(wbits=31)
        self._full = False

    def feed(self, data: bytes | memoryview) -> bytes:
        left = self._state.unconsumed_tail
        out = self._state.decompress(left + data if left else data, _STEP)
        self._full = len(out) == _STEP
        return out

    @property
    def hungry(self) -> bool:
        # After a full step zlib may hold back more, even with nothing of its input left over.
        return not self._full and not self._state.unconsumed_tail

    @property
    def ended(self) -> bool:
        return self._state.eof

    @property
    def left(self) -> bytes:
        return self._state.unused_data


class _Library:
    """lzma's and bz2's decompressors, which keep what they have not used themselves."""

    def __init__(self, state: lzma.LZMADecompressor | bz2.BZ2Decompressor) -> None:
        self._state = state

    def feed(self, data: bytes | memoryview) -> bytes:
        return self._state.decompress(data, _STEP)

    @property
    def hungry(self) -> bool:
        return self._state.needs_input

    @property
    def ended(self) -> bool:
        return self._state.eof

    @property
    def left(self) -> bytes:
        return self._state.unused_data


_Decoder = Callable[[Iterator[memoryview], str], Generator[bytes, None, None]]
"""Compressed chunks and a label for errors in, chunks of bounded size out."""


def _streams(make: Callable[[], _Stream]) -> _Decoder:
    """A decoder of one stream after another, with zeros allowed after the last."""

    def decode(chunks: Iterator[memoryview], label: str) -> Generator[bytes, None, None]:
        stream: _Stream | None = make()
        try:
            for chunk in chunks:
                data: bytes | memoryview = chunk
                while data:
                    if stream is None:
                        data = bytes(data).lstrip(b"\0")
                        if not data:
                            break
                        stream = make()
                    out = stream.feed(data)
                    data = b""
                    if out:
                        yield out
                    while not stream.ended and not stream.hungry:
                        yield stream.feed(b"")
                    if stream.ended:
                        data = stream.left
                        stream = None
        except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InvalidInputError(
                f"{label} is corrupt: {error}", hint="check that the file is whole and of the right kind"
            ) from error
        if stream is not None:
            raise InvalidInputError(f"{label} is truncated", hint="make or fetch the file again")

    return decode


def _zstd(chunks: Iterator[memoryview], label: str) -> Generator[bytes, None, None]:
    """Through the ``zstd`` program: a thread feeds it while we read."""
    with tempfile.TemporaryFile() as messages:
        try:
            process = subprocess.Popen(
                ["zstd", "--decompress", "--stdout", "--quiet", _ZSTD_WINDOW],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
            )
        except FileNotFoundError as error:
            raise UnavailableError("the program zstd is missing", hint="apt-get install zstd") from error
        assert process.stdin is not None and process.stdout is not None
        failure: list[BaseException] = []
        feeder = threading.Thread(target=_feed, args=(process.stdin, chunks, failure), daemon=True)
        feeder.start()
        try:
            while chunk := process.stdout.read(_STEP):
                yield chunk
            feeder.join()
            status = process.wait()
            if failure:
                raise failure[0]
            if status != 0:
                messages.seek(0)
                why = messages.read(400).decode("utf-8", "replace").strip().rpartition(": ")[2] or f"status {status}"
                raise InvalidInputError(
                    f"{label} is corrupt: {why}", hint="check that the file is whole and of the right kind"
                )
        finally:
            process.kill()
            process.wait()
            feeder.join()
            process.stdout.close()


def _feed(stdin: IO[bytes], chunks: Iterator[memoryview], failure: list[BaseException]) -> None:
    try:
        with contextlib.suppress(BrokenPipeError), stdin:
            for chunk in chunks:
                stdin.write(chunk)
    except BaseException as error:  # Raised again by the thread that reads.
        failure.append(error)


_DECODERS: Final[dict[str, _Decoder]] = {
    "gzip": _streams(_Gzip),
    "zstd": _zstd,
    "xz": _streams(lambda: _Library(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY))),
    "bzip2": _streams(lambda: _Library(bz2.BZ2Decompressor())),
}
