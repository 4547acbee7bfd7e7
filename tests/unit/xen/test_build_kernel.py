"""Kernel files: every compression gives the same kernel, and nothing hostile gets further than an error."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from typing import cast

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from zonal.errors import InvalidInputError, NotFoundError
from zonal.xen.build.elf import parse_elf_kernel
from zonal.xen.build.kernel import load_kernel

BASE = 0xFFFF_FFFF_8000_0000
ENTRY = BASE + 0x1000040
CODE = bytes(range(256)) * 64


def note(kind: int, value: bytes) -> bytes:
    return struct.pack("<III", 4, len(value), kind) + b"Xen\0" + value + b"\0" * (-len(value) % 4)


def elf_kernel(
    *,
    entry: int = ENTRY,
    notes: bool = True,
    machine: int = 62,
    file_size: int | None = None,
    code: bytes = CODE,
    pvh_entry: int | None = None,
) -> bytes:
    """A small ELF file with one segment at 16 MiB and the notes of a PV kernel, or of one for PVH as well."""
    text = b"".join(
        [
            note(6, b"linux\0"),
            note(3, struct.pack("<Q", BASE)),
            note(1, struct.pack("<Q", entry)),
            note(4, struct.pack("<Q", 0)),
            note(15, struct.pack("<Q", 0x80_0000_0000)),
            note(16, struct.pack("<I", 1)),
        ]
    )
    if not notes:
        text = b""
    if pvh_entry is not None:
        text += note(18, struct.pack("<I", pvh_entry))
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, machine, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0
    )
    load = struct.pack(
        "<IIQQQQQQ", 1, 5, 4096, BASE + 0x1000000, 0x1000000, file_size or len(code), len(code) + 5000, 4096
    )
    notes_header = struct.pack("<IIQQQQQQ", 4, 4, 512, 0, 0, len(text), len(text), 4)
    return (header + load + notes_header).ljust(512, b"\0") + text.ljust(4096 - 512, b"\0") + code


def lz4_legacy(data: bytes) -> bytes:
    compress = cast("Callable[..., bytes]", lz4.block.compress)  # pyright: ignore[reportUnknownMemberType]
    block = compress(data, store_size=False)
    return struct.pack("<II", 0x184C2102, len(block)) + block + struct.pack("<I", len(data))


def bzimage(payload: bytes, *, version: int = 0x20F) -> bytes:
    setup = bytearray(1024)
    setup[0x1F1] = 1
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    return bytes(setup) + b"\x90" * 100 + payload + b"\0" * 64


def size_note(data: bytes) -> bytes:
    return struct.pack("<I", len(data))


def xz(data: bytes) -> bytes:
    return lzma.compress(data) + size_note(data)


def zstd(data: bytes) -> bytes:
    return zstandard.compress(data) + size_note(data)


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "xz": xz, "zstd": zstd, "lz4": lz4_legacy}


@pytest.mark.parametrize("method", COMPRESSIONS)
def test_each_compression_gives_the_kernel_and_is_done_once(method: str, tmp_path: Path) -> None:
    elf = elf_kernel()
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(COMPRESSIONS[method](elf)))
    cache = tmp_path / "cache"
    kernel = load_kernel(path, cache)
    assert kernel.path.read_bytes() == elf
    assert kernel.pv is not None
    assert kernel.pv.entry == ENTRY
    (kept,) = cache.iterdir()
    inode = kept.stat().st_ino
    assert load_kernel(path, cache).path.read_bytes() == elf
    assert [file.stat().st_ino for file in cache.iterdir()] == [inode]


def test_what_a_kernel_says_of_itself() -> None:
    kernel = parse_elf_kernel(io.BytesIO(elf_kernel()), "test").pv
    assert kernel is not None
    assert kernel.virtual_base == BASE
    assert kernel.p2m_base == 0x80_0000_0000
    assert kernel.initrd_by_frame
    assert kernel.hypercall_page is None
    assert kernel.first_physical == 0x1000000
    assert kernel.end_physical == 0x1000000 + len(CODE) + 5000


def test_a_kernel_may_be_for_either_kind_or_for_both() -> None:
    both = parse_elf_kernel(io.BytesIO(elf_kernel(pvh_entry=0x1000100)), "both")
    assert both.pv is not None
    assert both.pvh is not None
    assert both.pvh.entry == 0x1000100
    assert both.pvh.segments == both.pv.segments
    alone = parse_elf_kernel(io.BytesIO(elf_kernel(notes=False, pvh_entry=0x1000100)), "alone")
    assert alone.pv is None
    assert alone.pvh is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be a kernel"),
        (b"#!/bin/sh\n", "neither an ELF file nor a bzImage"),
        (elf_kernel(notes=False), "carries no Xen note"),
        (elf_kernel(machine=183), "not for x86-64"),
        (elf_kernel(entry=5), "contradict each other"),
        (elf_kernel(pvh_entry=5), "is not in it"),
        (elf_kernel()[:-100], "truncated"),
        (elf_kernel()[:100], "not a sound ELF file"),
        (elf_kernel(file_size=10**6), "truncated"),
        (bzimage(b"BZh91AY&SY"), "unknown compression"),
        (bzimage(gzip.compress(elf_kernel()))[:1200], "truncated"),
        (bzimage(gzip.compress(elf_kernel())[:-500]), "corrupt or truncated"),
        (bzimage(zstandard.compress(elf_kernel())[:-50]), "corrupt or truncated"),
        (bzimage(lz4_legacy(elf_kernel())[:-50]), "corrupt or truncated"),
        (bzimage(lzma.compress(elf_kernel())[:-50]), "corrupt or truncated"),
        (bzimage(gzip.compress(b"not an elf")), "is not an ELF file"),
        (bzimage(gzip.compress(elf_kernel()), version=0x207), "boot protocol 2.07"),
    ],
)
def test_bad_files_get_a_clear_error_and_leave_nothing(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(data)
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_kernel(path, tmp_path / "cache")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        load_kernel(tmp_path / "absent", tmp_path)


def test_a_kernel_that_expands_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zonal.xen.build.bzimage.MAX_KERNEL_SIZE", 1 << 20)
    for method, compress in COMPRESSIONS.items():
        path = tmp_path / method
        path.write_bytes(bzimage(compress(b"\x7fELF" + bytes(4 << 20))))
        with pytest.raises(InvalidInputError, match="expands beyond 1 MiB"):
            load_kernel(path, tmp_path / "cache")


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_elf_files_end_in_an_error_or_a_checked_kernel(data: st.DataObject) -> None:
    image = bytearray(elf_kernel()[:4096])
    for _ in range(data.draw(st.integers(1, 12))):
        image[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    whole = bytes(image) + CODE
    try:
        kernel = parse_elf_kernel(io.BytesIO(whole), "damaged")
    except InvalidInputError:
        return
    found = kernel.pv or kernel.pvh
    assert found is not None
    for segment in found.segments:
        assert segment.offset + segment.file_size <= len(whole)
        assert segment.file_size <= segment.memory_size


@settings(max_examples=200)
@given(head=st.binary(max_size=2000))
def test_random_bytes_are_no_kernel(head: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_elf_kernel(io.BytesIO(b"\x7fELF\x02\x01\x01" + head), "random")
