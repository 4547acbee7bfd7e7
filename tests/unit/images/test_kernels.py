from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.images.tarballs import digest, write
from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError, WrongStateError
from zonal.images.kernels import KernelStore

RELEASES = ["6.12.9-amd64", "6.12.10-cloud-amd64", "6.12.9-cloud-amd64", "6.13.0-amd64"]


def bzimage(release: str, filler: bytes = b"") -> bytes:
    """A boot sector and setup header, as Documentation/arch/x86/boot.rst lays them out, and the version's text."""
    head = bytearray(0x400)
    head[0x1FE:0x200] = b"\x55\xaa"
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    text = f"{release} (builder) #1 SMP".encode()
    head[0x300 : 0x300 + len(text)] = text
    return bytes(head) + filler


def elf(release: str, machine: int = 62) -> bytes:
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return ident + struct.pack("<HH", 2, machine) + bytes(2000) + f"Linux version {release} (builder) ".encode()


@pytest.fixture
def store(tmp_path: Path) -> KernelStore:
    boot, modules = tmp_path / "boot", tmp_path / "modules"
    boot.mkdir()
    for release in RELEASES:
        write(boot / f"vmlinuz-{release}", bzimage(release))
    (modules / "6.12.10-cloud-amd64").mkdir(parents=True)
    return KernelStore(tmp_path / "kernels", boot, modules)


def test_the_default_is_the_newest_cloud_kernel(store: KernelStore, tmp_path: Path) -> None:
    default = store.resolve("")
    assert (default.name, default.release, default.is_default) == ("debian-cloud", "6.12.10-cloud-amd64", True)
    assert default.modules == tmp_path / "modules" / "6.12.10-cloud-amd64"
    assert store.resolve("6.12.10-cloud-amd64") == store.resolve("debian-cloud") == default
    names = [kernel.name for kernel in store.list()]
    assert names == ["debian-cloud", "6.13.0-amd64", "6.12.9-cloud-amd64", "6.12.9-amd64"]


def test_a_machine_without_kernels_says_so(tmp_path: Path) -> None:
    store = KernelStore(tmp_path / "kernels", tmp_path / "boot", tmp_path / "modules")
    assert store.list() == []
    with pytest.raises(NotFoundError):
        store.resolve("")


@pytest.mark.parametrize("make", [bzimage, elf])
def test_a_kernel_is_imported(store: KernelStore, tmp_path: Path, make: Callable[[str], bytes]) -> None:
    data = make("6.12.10-cloud-amd64") + b"mine"
    kernel = store.import_file(write(tmp_path / "file", data), "mine", source="vmlinuz")
    assert (kernel.name, kernel.release, kernel.size) == ("mine", "6.12.10-cloud-amd64", len(data))
    assert kernel.path.read_bytes() == data
    assert kernel.modules is not None and not kernel.is_default
    assert store.digest(kernel) == digest(data)
    for form in ("mine", "mi", digest(data), digest(data)[7:20]):
        assert store.resolve(form) == kernel
    again = KernelStore(tmp_path / "kernels", tmp_path / "boot", tmp_path / "modules")
    assert again.resolve("mine") == kernel


def test_a_name_is_given_once(store: KernelStore, tmp_path: Path) -> None:
    first = write(tmp_path / "first", bzimage("1"))
    store.import_file(first, "mine")
    store.import_file(first, "mine")
    store.import_file(first, "other")
    for name in ("mine", "debian-cloud", "6.13.0-amd64"):
        with pytest.raises(AlreadyExistsError):
            store.import_file(write(tmp_path / "second", bzimage("2")), name)
    with pytest.raises(InvalidInputError, match="several kernels"):
        store.resolve("6.12.9")
    assert [path.name for path in (tmp_path / "kernels" / "tmp").iterdir()] == []


def test_a_removed_kernel_takes_its_file_and_its_cache_along(store: KernelStore, tmp_path: Path) -> None:
    path = write(tmp_path / "file", bzimage("1"))
    kernel = store.import_file(path, "mine")
    store.import_file(path, "other")
    write(store.cache_folder(kernel) / "vmlinux", b"x")
    store.remove("mine")
    assert kernel.path.exists()
    store.remove("other")
    assert not kernel.path.exists()
    assert list((tmp_path / "kernels" / "cache").iterdir()) == []
    with pytest.raises(WrongStateError):
        store.remove("debian-cloud")


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"", "k", "not a Linux kernel"),
        (b"#!/bin/sh\n", "k", "not a Linux kernel"),
        (bzimage("1")[:0x201], "k", "not a Linux kernel"),
        (elf("1", machine=183), "k", "not a Linux kernel"),
        (bzimage("1"), "", "malformed"),
        (bzimage("1"), "../k", "malformed"),
        (bzimage("1"), "K" * 200, "malformed"),
    ],
)
def test_what_is_no_kernel_is_refused(store: KernelStore, tmp_path: Path, data: bytes, name: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        store.import_file(write(tmp_path / "file", data), name)
    assert list((tmp_path / "kernels" / "files").iterdir()) == []


def test_a_missing_file_is_said_to_be_missing(store: KernelStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        store.import_file(tmp_path / "nothing", "k")
