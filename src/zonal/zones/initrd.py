"""The initrd of every zone: busybox, the modules that a zone needs of its kernel, and a script that starts the agent.

A cpio archive in the "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst), written here
byte by byte so that the same input gives the same archive.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zonal.zones.modules import Module, load_order

REQUIRED_MODULES = ("xen-blkfront", "erofs", "xen-evtchn", "xen-gntalloc", "overlay", "ext4")
"""Without these, built in or as modules, a kernel cannot carry a zone. In the order in which they are wanted."""
OPTIONAL_MODULES = ("xen-netfront",)
_DISK_DRIVER = "xen_blkfront"

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


@dataclass(frozen=True)
class _Entry:
    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


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
        modules = load_order(modules_dir, REQUIRED_MODULES, OPTIONAL_MODULES)
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


def _module_entries(folder: str, modules: list[Module]) -> Iterator[_Entry]:
    """The modules and the list of what each needs, where ``modprobe`` looks for them."""
    parents = PurePosixPath(folder).parts
    for depth in range(1, len(parents) + 1):
        yield _Entry("/".join(parents[:depth]), stat.S_IFDIR | 0o755)
    for module in modules:
        yield _Entry(f"{folder}/{module.name}.ko", stat.S_IFREG | 0o644, module.data)
    lines = [f"{module.name}.ko: {' '.join(f'{need}.ko' for need in module.needs)}\n" for module in modules]
    yield _Entry(f"{folder}/modules.dep", stat.S_IFREG | 0o644, "".join(lines).encode())


def _cpio(entries: list[_Entry]) -> Iterator[bytes]:
    for inode, entry in enumerate([*entries, _Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        fields = [inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0]
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
        yield head + bytes(-len(head) % 4)
        yield entry.data + bytes(-len(entry.data) % 4)
