"""The lab's initrd: a busybox, the host's modules in the order of loading, and /init; and a second archive with the
files of one lab, which /init lays over the root.

The kernel takes several archives one after the other. Their format is cpio "newc", as the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst defines it.
"""

from __future__ import annotations

import gzip
import lzma
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zonal.errors import UnavailableError
from zonal.lab.recipe import Recipe

_BLOCK = 512


@dataclass(frozen=True)
class Entry:
    """One file of an archive; ``mode`` holds the type too, ``device`` is (major, minor) of a node."""

    path: str
    mode: int
    data: bytes = b""
    mtime: int = 0
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """A directory."""
    return Entry(path, stat.S_IFDIR | mode)


def regular(path: str, data: bytes, mode: int = 0o644, mtime: int = 0) -> Entry:
    """A regular file; ``mtime`` in seconds since the epoch."""
    return Entry(path, stat.S_IFREG | mode, data, mtime)


def archive(entries: Iterable[Entry]) -> bytes:
    """A cpio archive of ``entries``, all owned by root; directories must come before what is in them."""
    out = bytearray()
    for inode, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.path.encode() + b"\0"
        fields = (inode, entry.mode, 0, 0, 1, entry.mtime, len(entry.data), 0, 0, *entry.device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + entry.data
        out += bytes(-len(out) % 4)
    return bytes(out) + bytes(-len(out) % _BLOCK)


def host_initrd(root: Path, release: str, recipe: Recipe) -> bytes:
    """The part of the initrd that every lab of ``recipe`` shares, from the system tree ``root``."""
    modules = load_order(root / "usr/lib/modules" / release, recipe.modules)
    names = [f"{number:02}-{path.name.split('.')[0]}.ko" for number, path in enumerate(modules)]
    return archive(
        [
            *(directory(name) for name in ("bin", "dev", "proc", "sys", "root", "modules", "lab")),
            Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            regular("bin/busybox", _busybox(root), 0o755),
            regular("init", recipe.init.encode(), 0o755),
            *(regular(f"modules/{name}", _decompressed(path)) for name, path in zip(names, modules, strict=True)),
            regular("modules/order", "".join(f"{name}\n" for name in names).encode()),
        ]
    )


def load_order(modules: Path, wanted: Iterable[str]) -> list[Path]:
    """The files of the ``wanted`` modules and of what they depend on, each after its dependencies.

    ``modules`` is a /lib/modules/RELEASE with depmod's ``modules.dep`` (modules.dep(5)) and ``modules.builtin``.
    """
    dependencies: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        dependencies[path] = needs.split()
        by_name[_module_name(path)] = path
    built_in = {_module_name(path) for path in (modules / "modules.builtin").read_text().splitlines()}
    order: dict[str, None] = {}

    def add(path: str) -> None:
        # modules.dep lists all that a module needs, the nearest first.
        for need in reversed(dependencies[path]):
            order.setdefault(need)
        order.setdefault(path)

    for name in wanted:
        path = by_name.get(name.replace("-", "_"))
        if path is not None:
            add(path)
        elif name.replace("-", "_") not in built_in:
            raise UnavailableError(f"the host's kernel has no module {name} ({modules.name})")
    return [modules / path for path in order]


def _module_name(path: str) -> str:
    return PurePosixPath(path).name.split(".")[0].replace("-", "_")


def _decompressed(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(data)
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _busybox(root: Path) -> bytes:
    for place in ("usr/bin/busybox", "bin/busybox"):
        if (root / place).is_file():
            return (root / place).read_bytes()
    raise UnavailableError("the host's disk has no busybox, which its initrd needs")
