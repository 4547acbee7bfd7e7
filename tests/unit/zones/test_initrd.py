from __future__ import annotations

import gzip
import lzma
import stat
import subprocess
from pathlib import Path

import pytest

from zonal.errors import InvalidInputError
from zonal.zones.initrd import OPTIONAL_MODULES, REQUIRED_MODULES, build_initrd

ELF = b"\x7fELF module "


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    path = tmp_path / "busybox"
    path.write_bytes(b"\x7fELF busybox")
    return path


def make_modules(folder: Path, dependencies: dict[str, str], built_in: str = "") -> Path:
    """``dependencies``: path -> paths as in modules.dep."""
    modules = folder / "6.12-test"
    modules.mkdir()
    for path in dependencies:
        file = modules / path
        file.parent.mkdir(parents=True, exist_ok=True)
        data = ELF + path.encode()
        packed = {".xz": lzma.compress, ".gz": gzip.compress}.get(file.suffix, bytes)(data)
        file.write_bytes(packed)
    lines = [f"{path}: {needs}".rstrip() + "\n" for path, needs in dependencies.items()]
    (modules / "modules.dep").write_text("".join(lines))
    (modules / "modules.builtin").write_text(built_in)
    return modules


COMPLETE = {
    "kernel/fs/erofs.ko.xz": "kernel/lib/crc.ko.xz",
    "kernel/lib/crc.ko.xz": "",
    "kernel/block/xen-blkfront.ko": "",
    "kernel/xen/xen-evtchn.ko.gz": "",
    "kernel/xen/xen_gntalloc.ko": "kernel/lib/crc.ko.xz kernel/lib/other.ko",
    "kernel/lib/other.ko": "kernel/lib/crc.ko.xz",
    "kernel/fs/unwanted.ko": "",
    "kernel/net/xen-netfront.ko": "",
}
BUILT_IN = "kernel/fs/overlayfs/overlay.ko\nkernel/fs/ext4/ext4.ko\n"


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> mode and contents, read as the kernel does."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = (at + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            assert start == len(archive)
            return found
        found[name] = mode, archive[start : start + size]
        at = (start + size + 3) & ~3


def test_modules_come_with_what_they_need_and_in_order(tmp_path: Path, busybox: Path) -> None:
    found = entries(build_initrd(make_modules(tmp_path, COMPLETE, BUILT_IN), busybox))
    folder = "lib/modules/6.12-test"
    modules = {Path(name).name: data for name, (_, data) in found.items() if name.endswith(".ko")}
    assert modules == {
        "crc.ko": ELF + b"kernel/lib/crc.ko.xz",
        "erofs.ko": ELF + b"kernel/fs/erofs.ko.xz",
        "other.ko": ELF + b"kernel/lib/other.ko",
        "xen_blkfront.ko": ELF + b"kernel/block/xen-blkfront.ko",
        "xen_evtchn.ko": ELF + b"kernel/xen/xen-evtchn.ko.gz",
        "xen_gntalloc.ko": ELF + b"kernel/xen/xen_gntalloc.ko",
        "xen_netfront.ko": ELF + b"kernel/net/xen-netfront.ko",
    }
    for parent in ("lib", "lib/modules", folder):
        assert stat.S_ISDIR(found[parent][0])
    assert {f"{folder}/{name}" for name in modules} < set(found)
    assert found[f"{folder}/modules.dep"][1].decode().splitlines() == [
        "xen_blkfront.ko: ",
        "crc.ko: ",
        "erofs.ko: crc.ko",
        "xen_evtchn.ko: ",
        "other.ko: crc.ko",
        "xen_gntalloc.ko: crc.ko other.ko",
        "xen_netfront.ko: ",
    ]


def test_the_disks_driver_connects_while_the_others_are_loaded(tmp_path: Path, busybox: Path) -> None:
    _, script = entries(build_initrd(make_modules(tmp_path, COMPLETE, BUILT_IN), busybox))["init"]
    disks, others = [line for line in script.decode().splitlines() if "modprobe" in line]
    assert "modprobe xen_blkfront" in disks
    assert disks.endswith("&")
    assert "modprobe -a crc erofs xen_evtchn other xen_gntalloc xen_netfront ||" in others


def test_signatures_are_not_carried_along(tmp_path: Path, busybox: Path) -> None:
    modules = make_modules(tmp_path, COMPLETE, BUILT_IN)
    signature = bytes(range(200)) + bytes(8) + (200).to_bytes(4, "big") + b"~Module signature appended~\n"
    (modules / "kernel/block/xen-blkfront.ko").write_bytes(ELF + b"driver" + signature)
    found = entries(build_initrd(modules, busybox))
    assert found["lib/modules/6.12-test/xen_blkfront.ko"][1] == ELF + b"driver"


def test_the_archive_has_what_the_kernel_looks_for(busybox: Path) -> None:
    found = entries(build_initrd(None, busybox))
    assert found["bin/busybox"] == (stat.S_IFREG | 0o755, b"\x7fELF busybox")
    assert stat.S_ISCHR(found["dev/console"][0])
    assert stat.S_ISDIR(found["root"][0])
    mode, script = found["init"]
    assert mode == stat.S_IFREG | 0o755
    assert script.startswith(b"#!/bin/busybox sh\n")
    assert b"modprobe" not in script


def test_the_script_is_one_that_a_shell_takes(tmp_path: Path, busybox: Path) -> None:
    _, script = entries(build_initrd(make_modules(tmp_path, COMPLETE, BUILT_IN), busybox))["init"]
    subprocess.run(["sh", "-n"], input=script, check=True)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, busybox: Path) -> None:
    modules = make_modules(tmp_path, COMPLETE, BUILT_IN)
    assert build_initrd(modules, busybox) == build_initrd(modules, busybox)


def test_a_kernel_without_a_driver_is_refused_by_name(tmp_path: Path, busybox: Path) -> None:
    modules = make_modules(tmp_path, {path: "" for path in COMPLETE if "evtchn" not in path}, BUILT_IN)
    with pytest.raises(InvalidInputError, match=r"6\.12-test has no xen_evtchn"):
        build_initrd(modules, busybox)


def test_netfront_may_be_missing(tmp_path: Path, busybox: Path) -> None:
    assert "xen-netfront" in OPTIONAL_MODULES
    assert "xen-netfront" not in REQUIRED_MODULES
    without = {path: needs for path, needs in COMPLETE.items() if "netfront" not in path}
    assert b"netfront" not in build_initrd(make_modules(tmp_path, without, BUILT_IN), busybox)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ({"kernel/lib/crc.ko.xz": "kernel/fs/erofs.ko.xz"}, "depends on itself"),
        ({"kernel/lib/crc.ko.xz": "kernel/lib/gone.ko"}, "is not listed"),
    ],
)
def test_a_list_of_modules_that_cannot_be_is_refused(
    tmp_path: Path, busybox: Path, broken: dict[str, str], words: str
) -> None:
    with pytest.raises(InvalidInputError, match=words):
        build_initrd(make_modules(tmp_path, COMPLETE | broken, BUILT_IN), busybox)


@pytest.mark.parametrize("data", [b"", b"not an ELF file", b"\xfd7zXZ\0 broken"])
def test_a_corrupt_module_is_refused_by_name(tmp_path: Path, busybox: Path, data: bytes) -> None:
    modules = make_modules(tmp_path, COMPLETE, BUILT_IN)
    (modules / "kernel/fs/erofs.ko.xz").write_bytes(data)
    with pytest.raises(InvalidInputError, match=r"erofs\.ko\.xz"):
        build_initrd(modules, busybox)


def test_no_list_of_modules_is_an_error_of_the_user(tmp_path: Path, busybox: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"modules\.dep"):
        build_initrd(tmp_path, busybox)


def test_what_a_module_looks_for_when_it_starts_is_loaded_before_it(tmp_path: Path, busybox: Path) -> None:
    checksums = {"kernel/crypto/crc32c-fast.ko": "", "kernel/crypto/crc32c_generic.ko": ""}
    modules = make_modules(tmp_path, {**COMPLETE, **checksums}, BUILT_IN)
    (modules / "modules.softdep").write_text(
        "# a comment\nsoftdep erofs pre: crypto-crc32c nowhere post: later\nsoftdep absent pre: crypto-crc32c\n"
    )
    (modules / "modules.alias").write_text(
        "# a comment\nalias crypto-crc32c crc32c_fast\nalias crypto-crc32c crc32c_generic\n"
    )
    found = entries(build_initrd(modules, busybox))
    names = {Path(name).name for name in found}
    assert "crc32c_generic.ko" in names
    assert "crc32c_fast.ko" not in names
    lines = found["lib/modules/6.12-test/modules.dep"][1].decode().splitlines()
    assert "erofs.ko: crc32c_generic.ko crc.ko" in lines
