from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.images.tarballs import entry, file, folder, source, symlink, tarball
from zonal.errors import InvalidInputError
from zonal.images.limits import Limits
from zonal.images.tarformat import Member
from zonal.images.tarreader import read_members


def members(data: bytes, limits: Limits | None = None, *, need_end: bool = False) -> list[Member]:
    with source(data) as archive:
        return list(read_members(archive, limits or Limits(), need_end=need_end))


def content(data: bytes, member: Member) -> bytes:
    if member.sparse is None:
        return data[member.data : member.data + member.size]
    whole, stored = bytearray(member.size), member.data
    for offset, length in member.sparse:
        whole[offset : offset + length] = data[stored : stored + length]
        stored += length
    return bytes(whole)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=120)
BYTE_NAMES = st.binary(min_size=1, max_size=300).map(lambda b: b.replace(b"\0", b"x")).map(os.fsdecode)


def _any_entry(
    name: str, kind: bytes, data: bytes, mode: int, uid: int, gid: int, mtime: int, link: str
) -> tuple[tarfile.TarInfo, bytes]:
    fields: dict[str, Any] = {"mode": mode, "uid": uid, "gid": gid, "mtime": mtime}
    if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        return entry("n" + name, kind, linkname="l" + link, **fields)
    return entry("n" + name, kind, data if kind == tarfile.REGTYPE else b"", **fields)


ENTRIES = st.builds(
    _any_entry,
    name=NAMES | BYTE_NAMES,
    kind=st.sampled_from([b"0", b"1", b"2", b"5", b"6"]),
    data=st.binary(max_size=1500),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 2),
    gid=st.integers(0, 2**32 - 2),
    mtime=st.integers(0, 2**40),
    link=NAMES,
)


@given(st.lists(ENTRIES, max_size=6), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_members_are_what_tarfile_reads(entries: list[tuple[tarfile.TarInfo, bytes]], format: int) -> None:
    data = tarball(*entries, format=format)
    found = members(data, need_end=True)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = archive.getmembers()
        assert len(found) == len(expected)
        for mine, theirs in zip(found, expected, strict=True):
            assert os.fsdecode(mine.name).rstrip("/") == theirs.name.rstrip("/")
            assert (mine.kind, mine.mode, mine.uid, mine.gid) == (theirs.type, theirs.mode, theirs.uid, theirs.gid)
            assert (mine.size, mine.mtime) == (theirs.size, int(theirs.mtime))
            assert os.fsdecode(mine.link) == theirs.linkname
            if theirs.isreg():
                reader = archive.extractfile(theirs)
                assert reader is not None and content(data, mine) == reader.read()


@given(st.binary(max_size=2000))
@example(bytes(1024))
def test_any_bytes_are_an_archive_or_refused(data: bytes) -> None:
    with contextlib.suppress(InvalidInputError):
        members(data)


@given(st.data())
def test_a_spoilt_archive_is_read_or_refused(draw: st.DataObject) -> None:
    data = bytearray(
        tarball(
            file("a" * 120, b"x" * 700, pax_headers={"SCHILY.xattr.user.a": "b"}), symlink("b", "c" * 150), folder("d"),
            format=draw.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])),
        )
    )  # fmt: skip
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data) - 1))
        data[at] = draw.draw(st.integers(0, 255))
        # Half of the time the checksum is put right, so that the change gets past it.
        if draw.draw(st.booleans()):
            begin = at // 512 * 512
            data[begin + 148 : begin + 156] = b" " * 8
            data[begin + 148 : begin + 155] = b"%06o\0" % sum(data[begin : begin + 512])
    with contextlib.suppress(InvalidInputError):
        members(bytes(data[: draw.draw(st.integers(0, len(data)))]))


@pytest.mark.parametrize("format", ["gnu", "oldgnu", "posix", "posix-0.0", "posix-0.1"])
def test_sparse_files_of_gnu_tar(tmp_path: Path, format: str) -> None:
    with (tmp_path / "sparse").open("wb") as hole:
        for position in range(12):
            hole.seek(position * 100_000)
            hole.write(f"piece {position}".encode() * 50)
        hole.truncate(2_000_000)
    (tmp_path / "after").write_bytes(b"what comes next")
    kind, _, version = format.partition("-")
    command = ["tar", "--create", "--sparse", f"--format={kind}", *([f"--sparse-version={version}"] if version else [])]
    data = subprocess.run([*command, "sparse", "after"], cwd=tmp_path, check=True, capture_output=True).stdout
    sparse, after = members(data, need_end=True)
    assert (sparse.name, sparse.size) == (b"sparse", 2_000_000)
    assert sparse.sparse and sum(length for _, length in sparse.sparse) < 500_000
    assert content(data, sparse) == (tmp_path / "sparse").read_bytes()
    assert content(data, after) == b"what comes next"


def test_attributes_of_gnu_tar_and_of_bsdtar() -> None:
    headers = {
        "SCHILY.xattr.user.note": "a=b\nc",
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.com.example.other": "x",
        "LIBARCHIVE.xattr.security.capability": "AQAAAgAgAAAAAAAAAAAAAAAAAAA",
    }
    (member,) = members(tarball(file("f", pax_headers=headers)))
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    assert member.xattrs == {b"user.note": b"a=b\nc", b"security.capability": capability}


def test_names_are_bytes() -> None:
    (member,) = members(tarball(file(os.fsdecode(b"caf\xe9 \xff")), format=tarfile.GNU_FORMAT))
    assert member.name == b"caf\xe9 \xff"


def test_a_global_header_counts_for_what_follows() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uid": "7"}) as archive:
        archive.addfile(entry("f")[0])
    (member,) = members(buffer.getvalue())
    assert member.uid == 7


def test_times_have_nanoseconds_and_are_not_before_the_epoch() -> None:
    first, second = members(
        tarball(file("a", pax_headers={"mtime": "17.25"}), file("b", pax_headers={"mtime": "-3.5"}))
    )
    assert (first.mtime, first.mtime_ns) == (17, 250_000_000)
    assert (second.mtime, second.mtime_ns) == (0, 0)


def test_a_type_in_the_mode_is_passed_over() -> None:
    (member,) = members(_with_type_in_mode(tarball(file("a"))))
    assert member.mode == 0o644


def _with_type_in_mode(data: bytes) -> bytes:
    """tarfile itself never writes the type's bits into the mode."""
    block = bytearray(data[:512])
    block[100:108] = b"0100644\0"
    block[148:156] = b" " * 8
    block[148:155] = b"%06o\0" % sum(block)
    return bytes(block) + data[512:]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"not a tar" * 200, "not a tar archive"),
        (tarball(file("a", b"x" * 2000))[:1500], "truncated"),
        (tarball(file("a", b"x" * 2000))[:2560], "truncated"),
        (tarball(file("a"))[:300], "truncated"),
        (tarball(entry("s", b"s")), "type 's'"),
        (tarball(symlink("l", "")), "without a target"),
        (tarball(file("a", uid=2**32 - 1)), "owner"),
        (tarball(entry("d", b"3", devmajor=4096)), "device number"),
        (tarball(file("a", pax_headers={"path": "a\0b"})), "NUL"),
        (tarball(file("a", pax_headers={"size": "-1"})), "malformed"),
        (tarball(file("a", pax_headers={"GNU.sparse.map": "0,5,3,9", "GNU.sparse.size": "20"})), "out of order"),
        (tarball(file("a", pax_headers={"GNU.sparse.map": "0,9", "GNU.sparse.size": "20"})), "does not fit"),
        (tarball(file("a", pax_headers={"GNU.sparse.major": "9", "GNU.sparse.minor": "0"})), "sparse format"),
        (tarball(file("a", pax_headers={"SCHILY.xattr.user.a": "x" * 70_000})), "attributes take more"),
        (tarball(file("a", pax_headers={"comment": "x" * 2_000_000})), "extended header is larger"),
    ],
)
def test_bad_archives_are_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        members(data, need_end=True)
    assert "test.tar" in caught.value.message


def test_members_are_counted() -> None:
    with pytest.raises(InvalidInputError, match="more than 3 members"):
        members(tarball(*(file(str(n)) for n in range(5))), Limits(entries=3))
