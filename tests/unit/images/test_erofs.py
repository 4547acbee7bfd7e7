"""What the writer of erofs makes of odd trees, read back by the layout, and by erofs-utils."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.images.erofs_reader import Erofs, Inode, as_tar, fsck
from tests.unit.images.erofs_writer import write_erofs
from tests.unit.images.tarballs import entry, file, folder, hard_link, source, symlink, tarball
from zonal.errors import InvalidInputError, ResourceExhaustedError
from zonal.images import copying, erofs, erofs_layout
from zonal.images.erofs import ErofsWriter
from zonal.images.erofs_plan import Plan


def written(path: Path, *layers: bytes) -> Plan:
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(source(layer, f"layer {number}")) for number, layer in enumerate(layers)]
        return write_erofs(path, sources)


def made(*layers: bytes) -> dict[str, Inode]:
    """Every path with its inode, of an image that erofs-utils find nothing wrong with."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "erofs")
        plan = written(path, *layers)
        assert path.stat().st_size == plan.size
        fsck(path)
        as_tar(path.read_bytes())  # counts links and inodes
        return {os.fsdecode(name): node for name, node in Erofs(path.read_bytes()).walk()}


def test_the_checksum_is_castagnoli_s() -> None:
    # RFC 3720, appendix B.4: 32 bytes of zeros; there with the inversion at the end.
    assert erofs_layout.crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA


@pytest.mark.parametrize("count", [0, 1, 100, 170, 171, 300, 3000])
@pytest.mark.parametrize("length", [3, 200])
def test_directories_of_all_sizes(count: int, length: int) -> None:
    names = [f"{number:03}".ljust(length, "x") for number in range(count)]
    found = made(tarball(folder("d"), *(file(f"d/{name}", name.encode()) for name in reversed(names)), file("e", b"e")))
    assert {name for name in found if name.startswith("d/")} == {f"d/{name}" for name in names}
    assert all(found[f"d/{name}"].data == name.encode() for name in names)


@pytest.mark.parametrize("length", [1, 59, 100, 3900, 3968, 3969, 4095])
@pytest.mark.parametrize("before", range(4))
def test_symbolic_links_of_all_lengths_wherever_they_stand(length: int, before: int) -> None:
    entries = [entry(f"a{number}", tarfile.FIFOTYPE) for number in range(before)]
    attributes = {"SCHILY.xattr.trusted.a": "x" * 7}
    found = made(tarball(*entries, entry("l", tarfile.SYMTYPE, linkname="t" * length, pax_headers=attributes)))
    assert found["l"].data == b"t" * length
    assert found["l"].attributes == {b"trusted.a": b"x" * 7}


def test_files_around_the_size_of_a_block_and_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_BATCH", 16384)
    sizes = [0, 1, 511, 512, 513, 4095, 4096, 4097, 16383, 16384, 16385, 40_000, 100_000]
    contents = {f"f{number}": os.urandom(size) for number, size in enumerate(sizes)}
    lower = tarball(*(file(name, data) for name, data in contents.items()))
    found = made(lower, tarball(file("f3", b"replaced"), file("g", b"g" * 5000), hard_link("h", "f12")))
    expected = {**contents, "f3": b"replaced", "g": b"g" * 5000, "h": contents["f12"]}
    assert {name: node.data for name, node in found.items() if name != "."} == expected
    assert found["h"].number == found["f12"].number


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 30_000), max_size=40), st.sets(st.integers(0, 39)), st.sampled_from([4096, 12288, 4 << 20])
)
def test_files_of_random_sizes_some_of_them_replaced(sizes: list[int], replaced: set[int], batch: int) -> None:
    contents = {f"{number}": os.urandom(size) for number, size in enumerate(sizes)}
    upper = {name: b"new" + name.encode() for name in contents if int(name) in replaced}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copying, "_BATCH", batch)
        found = made(*(tarball(*(file(name, data) for name, data in each.items())) for each in (contents, upper)))
    assert {name: node.data for name, node in found.items() if name != "."} == {**contents, **upper}


def test_attributes_up_to_the_limit() -> None:
    attributes = {f"SCHILY.xattr.user.{number}": "v" * number for number in (0, 1, 2, 3, 4000, 50_000)}
    access = {"SCHILY.xattr.system.posix_acl_access": "\x02\0\0\0", "SCHILY.xattr.system.posix_acl_other": "x"}
    nameless = {"SCHILY.xattr.user.": "x"}
    found = made(tarball(file("f", b"x", pax_headers={**attributes, **access, **nameless}), file("g", b"y")))
    expected = {b"user.%d" % number: b"v" * number for number in (0, 1, 2, 3, 4000, 50_000)}
    assert found["f"].attributes == {**expected, b"system.posix_acl_access": b"\x02\0\0\0"}
    assert found["g"].attributes == {}


def test_a_disk_without_room_and_a_layer_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_room = erofs.check_room

    def cut(folder: Path, needed: int) -> None:
        os.truncate(layer.fd, 10_000)  # after its headers have been read
        check_room(folder, needed)

    def more(folder: Path, needed: int) -> None:
        check_room(folder, needed + (1 << 60))

    with source(tarball(file("f", bytes(20_000)))) as layer:
        monkeypatch.setattr(erofs, "check_room", cut)
        with pytest.raises(InvalidInputError, match="cut short"), ErofsWriter(tmp_path / "short") as writer:
            writer.add(layer)
    with source(tarball(file("f", bytes(20_000)))) as layer:
        monkeypatch.setattr(erofs, "check_room", more)
        with pytest.raises(ResourceExhaustedError, match="MiB are needed"), ErofsWriter(tmp_path / "huge") as writer:
            writer.add(layer)
    assert not list(tmp_path.iterdir())


def test_holes_take_no_room(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.map": "0,5,400000000,0", "GNU.sparse.size": "400000000"}
    plan = written(tmp_path / "erofs", tarball(file("hole", b"piece", pax_headers=sparse)))
    assert plan.stored < 20_000
    assert (tmp_path / "erofs").stat().st_blocks * 512 < 1 << 20


def test_what_upper_layers_replace_takes_no_room(tmp_path: Path) -> None:
    big = [os.urandom(1 << 20) for _ in range(3)]
    lower = tarball(*(file(f"f{number}", data) for number, data in enumerate(big)))
    upper = [tarball(file("f1", b"new")), tarball(entry(".wh.f0")), tarball(file("g", b"g"))]
    plan = written(tmp_path / "erofs", lower, *upper)
    assert plan.stored < 1100 << 10 < 3 << 20 < plan.size
    assert (tmp_path / "erofs").stat().st_blocks * 512 < 1200 << 10
    fsck(tmp_path / "erofs")
    found = {name: node.data for name, node in Erofs((tmp_path / "erofs").read_bytes()).walk()}
    assert (found[b"f1"], found[b"f2"], found[b"g"]) == (b"new", big[2], b"g")


def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    layers = [tarball(file("a", os.urandom(9000)), file("b", b"b")), tarball(file("b", os.urandom(5000)))]
    for name in ("one", "two"):
        written(tmp_path / name, *layers)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_tar_of_it_has_all_that_went_in() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        written(Path(scratch, "erofs"), tarball(file("a", b"1"), symlink("b", "a")))
        with tarfile.open(fileobj=io.BytesIO(as_tar(Path(scratch, "erofs").read_bytes()))) as archive:
            assert [(each.name, each.linkname) for each in archive] == [(".", ""), ("a", ""), ("b", "a")]
