"""Loop devices: structures and numbers against Linux's header, and real devices where the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.xen.c_layout import c_struct, c_values
from zonal.errors import NotFoundError
from zonal.xen import loop

_HEADERS = ["linux/loop.h"]


def test_numbers_are_those_of_the_header() -> None:
    ours = {
        "LOOP_CTL_GET_FREE": loop.LOOP_CTL_GET_FREE,
        "LOOP_CONFIGURE": loop.LOOP_CONFIGURE,
        "LO_FLAGS_READ_ONLY": loop.FLAG_READ_ONLY,
        "LO_FLAGS_AUTOCLEAR": loop.FLAG_AUTOCLEAR,
        "LO_FLAGS_DIRECT_IO": loop.FLAG_DIRECT_IO,
    }
    assert ours == c_values(_HEADERS, list(ours))


def test_the_request_is_laid_out_as_in_c() -> None:
    fields = {
        "fd": b"\x01\0\0\0",
        "info.lo_offset": b"\x02\0\0\0\0\0\0\0",
        "info.lo_sizelimit": b"\x03\0\0\0\0\0\0\0",
        "info.lo_flags": b"\x04\0\0\0",
        "info.lo_file_name": b"name\0",
    }
    size, offsets = c_struct(_HEADERS, "struct loop_config", list(fields))
    packed = loop.CONFIG.pack(1, 0, 0, 0, 0, 2, 3, 0, 0, 0, 4, b"name", b"", b"", 0, 0)
    assert len(packed) == size
    assert {field: packed[offsets[field] :][: len(value)] for field, value in fields.items()} == fields


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"image\.erofs does not exist"):
        loop.open_loop(tmp_path / "image.erofs", read_only=True)
    with pytest.raises(NotFoundError, match=r"image\.erofs does not exist"):
        loop.LoopPool().acquire(tmp_path / "image.erofs")
