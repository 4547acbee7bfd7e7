from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.images.tarballs import digest, source
from zonal.errors import InvalidInputError
from zonal.images import compression
from zonal.images.compression import expand, recognise
from zonal.images.limits import Limits


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "--quiet", "--stdout"], input=data, capture_output=True, check=True).stdout


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}
KINDS = pytest.mark.parametrize("kind", list(COMPRESS))
BIG = os.urandom(100_000) * 30 + bytes(5_000_000) + b"end"


def expanded(data: bytes, kind: str, limits: Limits | None = None) -> tuple[bytes, compression.Expanded]:
    fd = os.memfd_create("out")
    try:
        with source(data) as compressed:
            result = expand(compressed, kind, fd, limits or Limits())
        return os.pread(fd, 1 << 30, 0), result
    finally:
        os.close(fd)


@KINDS
@pytest.mark.parametrize("data", [b"", b"x", BIG], ids=["empty", "small", "big"])
def test_what_was_compressed_comes_back(kind: str, data: bytes) -> None:
    packed = COMPRESS[kind](data)
    assert recognise(packed) == kind
    out, result = expanded(packed, kind)
    assert out == data
    assert (result.size, result.digest, result.compressed_digest) == (len(data), digest(data), digest(packed))


@KINDS
def test_streams_may_follow_each_other(kind: str) -> None:
    assert expanded(COMPRESS[kind](b"one ") + COMPRESS[kind](b"two"), kind)[0] == b"one two"


@pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2"])
def test_zeros_may_follow(kind: str) -> None:
    assert expanded(COMPRESS[kind](b"one") + bytes(3000), kind)[0] == b"one"


@KINDS
def test_cut_or_spoilt_streams_are_refused(kind: str) -> None:
    packed = COMPRESS[kind](os.urandom(300_000))
    for bad in (
        packed[:-1],
        packed[: len(packed) // 2],
        packed[:5],
        packed + b"more",
        packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:],
    ):
        with pytest.raises(InvalidInputError, match=r"truncated|corrupt") as caught:
            expanded(bad, kind)
        assert "test.tar" in caught.value.message


@KINDS
def test_a_bomb_is_stopped(kind: str) -> None:
    packed = COMPRESS[kind](bytes(50_000_000))
    with pytest.raises(InvalidInputError, match="expands from"):
        expanded(packed, kind, Limits(expansion=20, expansion_floor=4 << 20))
    with pytest.raises(InvalidInputError, match="expands from"):
        expanded(packed, kind, Limits(layer_bytes=10 << 20))


@KINDS
def test_the_caller_can_stop_it(kind: str) -> None:
    class EnoughError(Exception):
        pass

    steps = iter(range(3))

    def on_step() -> None:
        if next(steps, None) is None:
            raise EnoughError

    fd = os.memfd_create("out")
    with source(COMPRESS[kind](os.urandom(2 << 20))) as compressed, pytest.raises(EnoughError):
        expand(compressed, kind, fd, Limits(), on_step=on_step)
    os.close(fd)


@given(st.sampled_from(["gzip", "bzip2", "xz"]), st.binary(max_size=300), st.booleans())
def test_any_bytes_are_expanded_or_refused(kind: str, data: bytes, packed: bool) -> None:
    head = COMPRESS[kind](b"hello")
    try:
        expanded(head[:10] + data if packed else data, kind)
    except InvalidInputError as error:
        assert "test.tar" in error.message


def test_plain_data_is_not_taken_for_compressed() -> None:
    assert recognise(b"etc/passwd\0\0") is None
    assert recognise(b"") is None
