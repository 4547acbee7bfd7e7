from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.images.erofs_reader import as_tar, fsck
from tests.unit.images.tarballs import (
    OciLayout,
    docker_archive,
    entry,
    file,
    folder,
    hard_link,
    symlink,
    tarball,
    write,
)
from zonal.images.image import Image
from zonal.images.store import ImageStore

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

LOWER = tarball(
    folder("./", mode=0o755, mtime=1_600_000_000),
    folder("bin"),
    file("bin/ping", b"ping" * 5000, mode=0o4755, mtime=1_700_000_000),
    file("bin/raw", b"", pax_headers={"LIBARCHIVE.xattr.security.capability": "AQAAAgAgAAAAAAAAAAAAAAAAAAA"}),
    hard_link("bin/ping6", "bin/ping"),
    file("etc/gone", b"x"),
    file("etc/kept", b"kept", uid=100_000, gid=4_000_000_000, pax_headers={"SCHILY.xattr.user.note": "a=b"}),
    folder("tmp", mode=0o1777),
    folder("old"),
    file("old/a"),
    symlink("lib", "usr/lib"),
    folder("usr/lib"),
    entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    entry("dev/disk", tarfile.BLKTYPE, devmajor=202, devminor=1_000),
    entry("pipe", tarfile.FIFOTYPE, mode=0o600),
    file(os.fsdecode(b"caf\xe9"), b"bytes"),
    file("d" * 200 + "/" + "e" * 255, b"long"),
    symlink("far", "t" * 1000),
    file("hole", b"piece", pax_headers={"GNU.sparse.map": "100000,5,900000,0", "GNU.sparse.size": "900000"}),
)
UPPER = tarball(
    file("etc/.wh.gone"),
    file("old/.wh..wh..opq"),
    file("old/b", b"b"),
    file("lib/libx.so", b"library", pax_headers={"mtime": "1700000000.123456789"}),
    file("bin/ping", b"new"),
    file("one", b"1"),
    hard_link("two", "one"),
)

KINDS = {
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}


@contextmanager
def mounted(image: Path, folder: Path) -> Generator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro,nodev,nosuid,noexec", image, folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def compare(root: Path, expected: tarfile.TarFile) -> int:
    """Hold every member against the mounted tree, and that against them; how many there are."""
    seen: set[bytes] = set()
    for member in expected:
        name = os.fsencode(member.name)
        path = os.path.normpath(os.fsencode(root) + b"/" + name)
        status = os.lstat(path)
        seen.add(path)
        if member.islnk():
            target = os.lstat(os.fsencode(root) + b"/" + os.fsencode(member.linkname))
            assert (status.st_ino, status.st_nlink > 1) == (target.st_ino, True), name
            continue
        assert status.st_mode == KINDS[member.type] | member.mode, name
        assert (status.st_uid, status.st_gid) == (member.uid, member.gid), name
        assert status.st_mtime_ns == _nanoseconds(member), name
        if member.issym():
            assert os.fsencode(Path(os.fsdecode(path)).readlink()) == os.fsencode(member.linkname), name
        elif member.ischr() or member.isblk():
            assert (os.major(status.st_rdev), os.minor(status.st_rdev)) == (member.devmajor, member.devminor), name
        elif member.isreg():
            reader = expected.extractfile(member)
            assert reader is not None
            assert Path(os.fsdecode(path)).read_bytes() == reader.read(), name
        for attribute, value in member.pax_headers.items():
            if attribute.startswith("SCHILY.xattr."):
                assert os.getxattr(path, attribute[13:], follow_symlinks=False) == os.fsencode(value), name
    top = os.fsencode(root)
    there = {base + b"/" + name for base, folders, files in os.walk(top) for name in [*folders, *files]}
    assert there == seen - {top}
    return len(seen)


def _nanoseconds(member: tarfile.TarInfo) -> int:
    """tarfile itself keeps times as floats, which are too coarse."""
    whole, _, fraction = str(member.pax_headers.get("mtime", int(member.mtime))).partition(".")
    return int(whole) * 10**9 + int(fraction[:9].ljust(9, "0"))


def host_tree(*names: str) -> bytes:
    command = ["tar", "--create", "--xattrs", "--numeric-owner", "--directory=/", *names]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture
def store(tmp_path: Path) -> Generator[ImageStore]:
    store = ImageStore.open(tmp_path / "store")
    yield store
    store.close()


def check(image: Image, folder: Path) -> None:
    """Hold what the kernel shows against what the layout says."""
    expected = as_tar(image.erofs.read_bytes())
    with mounted(image.erofs, folder) as root, tarfile.open(fileobj=io.BytesIO(expected)) as archive:
        assert compare(root, archive) > 10


async def test_layers_of_every_kind_of_file_come_out_as_they_went_in(store: ImageStore, tmp_path: Path) -> None:
    image = await store.import_archive(write(tmp_path / "oci.tar", OciLayout().add([LOWER, UPPER]).tar()), name="a")
    fsck(image.erofs)
    check(image, tmp_path / "compared")
    with mounted(image.erofs, tmp_path / "mounted") as root:
        assert (root / "bin/ping").read_bytes() == b"new"
        assert (root / "bin/ping6").read_bytes() == b"ping" * 5000
        assert os.getxattr(root / "bin/raw", "security.capability") == CAPABILITY
        assert [path.name for path in (root / "old").iterdir()] == ["b"]
        assert (root / "usr/lib/libx.so").read_bytes() == b"library"
        assert not (root / "etc/gone").exists()
        assert (root / "hole").read_bytes() == bytes(100_000) + b"piece" + bytes(900_000 - 100_005)


async def test_the_same_layers_give_the_same_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "docker.tar", docker_archive([LOWER, UPPER]))
    found: list[bytes] = []
    for name in ("one", "two"):
        store = ImageStore.open(tmp_path / name)
        found.append((await store.import_archive(path)).erofs.read_bytes())
        store.close()
    assert found[0] == found[1]


async def test_a_real_tree_comes_out_as_it_went_in(store: ImageStore, tmp_path: Path) -> None:
    data = host_tree("etc", "usr/sbin", "usr/share/zoneinfo")
    settings = json.dumps({"Cmd": ["sh"]}).encode()
    image = await store.import_archive(write(tmp_path / "root.tar", data), settings=settings)
    fsck(image.erofs)
    check(image, tmp_path / "compared")
