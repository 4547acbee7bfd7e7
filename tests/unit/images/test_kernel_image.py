"""Kernels as images: packed, unpacked, and what is none."""

from __future__ import annotations

import gzip
import tarfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.unit.images.test_kernels import bzimage
from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from zonal.images import kernel_image
from zonal.images.kernel_image import KernelFiles, extract_kernel, pack_debian_kernel, unpack_modules
from zonal.images.kernels import KernelStore
from zonal.images.layers import open_source
from zonal.images.limits import DEFAULT

RELEASE = "6.12.9+deb13-amd64"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A machine with one kernel."""
    modules = tmp_path / "lib" / RELEASE
    (modules / "kernel").mkdir(parents=True)
    (modules / "modules.dep").write_text("kernel/9p.ko:\n")
    (modules / "modules.builtin").write_text("")
    (modules / "kernel" / "9p.ko").write_bytes(b"\x7fELF module")
    (modules / "build").symlink_to("/usr/src/linux")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / f"vmlinuz-{RELEASE}").write_bytes(bzimage(RELEASE, b"debian"))
    (tmp_path / "boot" / f"config-{RELEASE}").write_text("CONFIG_XEN=y\n")
    return tmp_path


def extracted(layer: Path, folder: Path) -> KernelFiles:
    folder.mkdir()
    with open_source(layer, "an image") as source:
        return extract_kernel([source], folder, DEFAULT, "an image")


def test_a_kernel_of_debian_s_becomes_an_image_and_a_kernel_again(host: Path) -> None:
    packed = pack_debian_kernel(RELEASE, host, host / "boot", host / "lib")
    files = extracted(packed, host / "extracted")
    assert files.image.read_bytes() == bzimage(RELEASE, b"debian")
    assert files.metadata == {"KERNEL_ARCH": "x86_64", "KERNEL_VERSION": RELEASE, "KERNEL_FLAVOR": "debian"}
    assert files.config is not None
    assert gzip.decompress(files.config.read_bytes()) == b"CONFIG_XEN=y\n"

    store = KernelStore(host / "kernels", host / "noboot", host / "nolib")
    kernel = store.import_image(files, "debian-6.12", source="team/kernel:6.12")
    assert (kernel.release, kernel.source, kernel.metadata) == (RELEASE, "team/kernel:6.12", files.metadata)
    assert kernel.modules is not None
    assert kernel.modules.name == RELEASE
    assert (kernel.modules / "kernel" / "9p.ko").read_bytes() == b"\x7fELF module"
    assert store.resolve("debian-6.12") == kernel
    # Once more it takes the place of the former; of another source it does not.
    assert store.import_image(files, "debian-6.12", source="team/kernel:6.12") == kernel
    with pytest.raises(AlreadyExistsError):
        store.import_image(files, "debian-6.12", source="other/kernel:6.12")
    assert list((host / "kernels" / "tmp").iterdir()) == []
    store.use("debian-6.12")
    assert [each.is_default for each in store.list()] == [True]
    assert store.resolve("").name == "debian-6.12"
    store.remove("debian-6.12")
    assert list((host / "kernels" / "modules").iterdir()) == []
    assert store.list() == []


def test_the_chosen_default_is_told_and_one_that_is_gone_is_none(host: Path) -> None:
    store = KernelStore(host / "kernels", host / "boot", host / "lib")
    (host / "vmlinuz").write_bytes(bzimage("6.1.0"))
    store.import_file(host / "vmlinuz", "mine")
    assert store.resolve("").name == "debian-cloud"
    store.use("mine")
    assert [(each.name, each.is_default) for each in store.list()] == [("mine", True), ("debian-cloud", False)]
    assert store.resolve("").name == "mine"
    store.remove("mine")
    assert store.resolve("").name == "debian-cloud"
    with pytest.raises(NotFoundError):
        store.use("mine")


def archive(path: Path, *members: tuple[str, bytes, bytes]) -> Path:
    with ExitStack() as stack:
        tar = stack.enter_context(tarfile.open(path, "w"))
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            member.linkname = data.decode() if kind == tarfile.SYMTYPE else ""
            source = stack.enter_context((path.parent / "member").open("w+b"))
            source.write(data)
            source.seek(0)
            tar.addfile(member, source if kind == tarfile.REGTYPE else None)
    return path


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("etc/passwd", tarfile.REGTYPE, b"x")], "no file /kernel/image"),
        ([("kernel", tarfile.REGTYPE, b"x")], "no file /kernel/image"),
        ([("kernel/image", tarfile.SYMTYPE, b"/etc/shadow")], "/kernel/image is not a plain file"),
        ([("kernel/image", tarfile.DIRTYPE, b"")], "/kernel/image is not a plain file"),
        (
            [("kernel/image", tarfile.REGTYPE, b"x"), ("kernel/metadata", tarfile.REGTYPE, b"no pair")],
            "line that is not KEY=VALUE",
        ),
        (
            [("kernel/image", tarfile.REGTYPE, b"x"), ("kernel/metadata", tarfile.REGTYPE, b"A=\x1b[2J")],
            "line that is not KEY=VALUE",
        ),
        (
            [("kernel/image", tarfile.REGTYPE, b"x"), ("kernel/metadata", tarfile.REGTYPE, b"#" * 70000)],
            "has 70000 bytes, and may have 65536",
        ),
    ],
)
def test_what_is_no_kernel_is_refused(tmp_path: Path, members: list[tuple[str, bytes, bytes]], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        extracted(archive(tmp_path / "layer.tar", *members), tmp_path / "extracted")


def test_addons_that_are_damaged_or_without_modules(tmp_path: Path, host: Path) -> None:
    damaged = tmp_path / "addons.erofs"
    damaged.write_bytes(b"no file system at all" * 500)
    with pytest.raises(InvalidInputError, match="cannot be unpacked"):
        unpack_modules(damaged, RELEASE, tmp_path)
    (host / "lib" / RELEASE / "modules.dep").rename(host / "lib" / RELEASE / "other")
    with pytest.raises(NotFoundError, match="is not installed"):
        pack_debian_kernel(RELEASE, host, host / "boot", host / "lib")


def test_a_program_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    squashed = tmp_path / "addons.squashfs"
    squashed.touch()
    with pytest.raises(Exception, match="unsquashfs is missing") as raised:
        unpack_modules(squashed, RELEASE, tmp_path)
    assert "squashfs-tools" in str(getattr(raised.value, "hint", ""))
    assert kernel_image.ADDONS == ("addons.erofs", "addons.squashfs")
