"""The initrd of every zone: busybox, the modules that a zone needs of its kernel, and a script that starts the agent.

A cpio archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), written here
byte by byte so that the same input gives the same archive.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zonal.errors import InvalidInputError, UnavailableError

REQUIRED_MODULES = ("xen-blkfront", "erofs", "xen-evtchn", "xen-gntalloc", "overlay")
"""Without these, built in or as modules, a kernel cannot carry a zone. In the order in which they are wanted."""
OPTIONAL_MODULES = ("xen-netfront",)
_DISK_DRIVER = "xen_blkfront"
_ELF = b"\x7fELF"

SYSTEM_DEVICE = "/dev/xvda"
"""Where the zone finds its system image: its first disk."""
DEVICE_WAIT_SECONDS = 10

READ_AHEAD_KIB = 4096
"""How much of the system image is read at once. Starting Python and crun reads most of it anyway, and each request is
a way to the host and back."""

_INIT = """\
#!/bin/busybox sh
# Starts the agent from the system image. Whatever fails ends this process, and with it the kernel: the host sees both.
fail() {{
    echo "zonal: the initrd cannot $1" >&2
    exit 1
}}
/bin/busybox mount -t devtmpfs devtmpfs /dev || fail "mount /dev"
{modules}waited=0
while [ ! -b {device} ]; do
    [ $waited -lt {turns} ] || fail "find the system image: no {device} after {seconds} s"
    waited=$((waited + 1))
    /bin/busybox usleep 10000
done
/bin/busybox blockdev --setra {sectors} {device}
/bin/busybox mount -t erofs -o ro {device} /root || fail "mount the system image on {device}"
/bin/busybox mount --move /dev /root/dev || fail "move /dev to the system image"
exec /bin/busybox switch_root /root /sbin/init
fail "start /sbin/init of the system image"
"""
# The disks' driver returns only when they are connected, and waits for that: the others are loaded meanwhile.
_DISKS = """\
/bin/busybox modprobe {name} || echo "zonal: the initrd cannot load the module {name}" >&2 &
"""
_OTHERS = """\
/bin/busybox modprobe -a {names} || fail "load the modules {names}"
"""
_SIGNATURE = b"~Module signature appended~\n"
"""Ends a signed module, after the signature and its ``struct module_signature`` (Linux, linux/module_signature.h)."""
_SIGNATURE_STRUCT_SIZE = 12


@dataclass(frozen=True)
class _Entry:
    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class _Module:
    name: str
    needs: tuple[str, ...]
    data: bytes


def build_initrd(modules_dir: Path | None, busybox: Path) -> bytes:
    """The archive, not compressed. ``modules_dir`` is a kernel's /lib/modules/RELEASE, None when all is built in.

    Raises ``InvalidInputError`` when the kernel lacks what a zone needs, or a module cannot be read.
    """
    entries = [
        *(_Entry(name, stat.S_IFDIR | 0o755) for name in ("bin", "dev", "root")),
        # The kernel opens it for the script's messages before /dev is mounted.
        _Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        _Entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes()),
    ]
    names: list[str] = []
    if modules_dir:
        modules = _load_order(modules_dir)
        names = [module.name for module in modules]
        entries += _module_entries(f"lib/modules/{modules_dir.name}", modules)
    entries.append(_Entry("init", stat.S_IFREG | 0o755, _init_script(names).encode()))
    return b"".join(_cpio(entries))


def _init_script(modules: list[str]) -> str:
    lines = ""
    if _DISK_DRIVER in modules:
        lines += _DISKS.format(name=_DISK_DRIVER)
    if others := [name for name in modules if name != _DISK_DRIVER]:
        lines += _OTHERS.format(names=" ".join(others))
    return _INIT.format(
        modules=lines,
        device=SYSTEM_DEVICE,
        turns=DEVICE_WAIT_SECONDS * 100,
        seconds=DEVICE_WAIT_SECONDS,
        sectors=READ_AHEAD_KIB * 2,
    )


def _module_entries(folder: str, modules: list[_Module]) -> Iterator[_Entry]:
    """The modules and the list of what each needs, where ``modprobe`` looks for them."""
    parents = PurePosixPath(folder).parts
    for depth in range(1, len(parents) + 1):
        yield _Entry("/".join(parents[:depth]), stat.S_IFDIR | 0o755)
    for module in modules:
        yield _Entry(f"{folder}/{module.name}.ko", stat.S_IFREG | 0o644, module.data)
    lines = [f"{module.name}.ko: {' '.join(f'{need}.ko' for need in module.needs)}\n" for module in modules]
    yield _Entry(f"{folder}/modules.dep", stat.S_IFREG | 0o644, "".join(lines).encode())


def _load_order(modules_dir: Path) -> list[_Module]:
    """The modules to load, each after those it needs."""
    try:
        dependencies = _read_dependencies(modules_dir / "modules.dep")
        built_in = {_module_name(line) for line in (modules_dir / "modules.builtin").read_text().splitlines()}
    except OSError as error:
        raise InvalidInputError(
            f"cannot read the list of the kernel's modules: {error}",
            hint="give the kernel's whole /lib/modules/RELEASE, as depmod leaves it",
        ) from error
    paths = {_module_name(path): path for path in dependencies}
    missing = [name for name in map(_module_name, REQUIRED_MODULES) if name not in paths and name not in built_in]
    if missing:
        raise InvalidInputError(
            f"the kernel {modules_dir.name} has no {', '.join(missing)}",
            hint="a zone's kernel needs these drivers, built in or as modules",
        )
    order: list[str] = []
    for name in map(_module_name, (*REQUIRED_MODULES, *OPTIONAL_MODULES)):
        if name in paths:
            _add(paths[name], dependencies, order)
    return [
        _Module(
            _module_name(path),
            tuple(_module_name(need) for need in dependencies[path]),
            _read_module(modules_dir / path),
        )
        for path in order
    ]


def _add(path: str, dependencies: dict[str, list[str]], order: list[str], above: tuple[str, ...] = ()) -> None:
    if path in order:
        return
    if path in above or path not in dependencies:
        raise InvalidInputError(f"modules.dep: {path} {'depends on itself' if path in above else 'is not listed'}")
    for dependency in dependencies[path]:
        _add(dependency, dependencies, order, (*above, path))
    order.append(path)


def _read_dependencies(path: Path) -> dict[str, list[str]]:
    pairs = (line.partition(":") for line in path.read_text().splitlines())
    return {module: rest.split() for module, _, rest in pairs}


def _module_name(path: str) -> str:
    # The kernel takes "-" and "_" in names for the same.
    return Path(path).name.split(".", 1)[0].replace("-", "_")


def _read_module(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        match path.suffix:
            case ".xz":
                data = lzma.decompress(data)
            case ".gz":
                data = gzip.decompress(data)
            case ".zst":
                data = _unzstd(path)
            case _:
                pass
    except (OSError, EOFError, lzma.LZMAError, subprocess.CalledProcessError) as error:
        raise InvalidInputError(f"cannot read the module {path}: {error}") from error
    if not data.startswith(_ELF):
        raise InvalidInputError(f"the module {path} is not an ELF file")
    return _without_signature(data)


def _without_signature(module: bytes) -> bytes:
    """A zone trusts its initrd as it trusts its kernel, and checking each signature would hold up the start."""
    if not module.endswith(_SIGNATURE):
        return module
    end = len(module) - len(_SIGNATURE)
    length = int.from_bytes(module[end - 4 : end], "big")
    return module[: max(len(_ELF), end - _SIGNATURE_STRUCT_SIZE - length)]


def _unzstd(path: Path) -> bytes:
    if not shutil.which("zstd"):
        raise UnavailableError(f"zstd is missing, and {path.name} is compressed with it", hint="apt-get install zstd")
    return subprocess.run(["zstd", "--decompress", "--stdout", path], check=True, capture_output=True).stdout


def _cpio(entries: list[_Entry]) -> Iterator[bytes]:
    for inode, entry in enumerate([*entries, _Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        fields = [inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0]
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        yield head + bytes(-len(head) % 4)
        yield entry.data + bytes(-len(entry.data) % 4)
