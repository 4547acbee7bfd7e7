"""The system calls that Python's os module lacks, by ctypes.

ctypes takes 45 ms to import in an emulated host, less than three runs of busybox's mount, and gives exact errors.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_BIND, MS_MOVE, MS_REC, MS_PRIVATE, MS_RELATIME = 1024, 4096, 8192, 16384, 1 << 18, 1 << 21
"""linux/mount.h"""
MNT_DETACH = 2
"""umount2(2)"""
RB_POWER_OFF = 0x4321FEDC
"""sys/reboot.h"""

_SYS_INIT_MODULE, _SYS_SETNS, _SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_OPENAT2 = 175, 308, 428, 429, 437  # asm/unistd_64.h
_SYS_MOUNT_SETATTR = 442
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000  # linux/sched.h
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000  # linux/fcntl.h
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4  # linux/mount.h
_MOUNT_ATTR_IDMAP = 0x100000  # linux/mount.h
_RESOLVE_IN_ROOT = 0x10  # linux/openat2.h
_RESOLVE_NO_MAGICLINKS = 0x02

_libc = ctypes.CDLL(None, use_errno=True)
# Set by hand: int is the default result, and the arguments are given as the right C types below.
_libc.syscall.restype = ctypes.c_long


def mount(source: str, target: str, fstype: str, flags: int = 0, options: str = "") -> None:
    """mount(2); raises ``OSError`` that names the target."""
    arguments = [text.encode() for text in (source, target, fstype)]
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode()), target)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2); raises ``OSError``."""
    _check(_libc.umount2(target.encode(), flags), target)


def load_module(data: bytes) -> None:
    """init_module(2); raises ``OSError``, ``FileExistsError`` when it is loaded already."""
    arguments = [ctypes.c_long(_SYS_INIT_MODULE), data, ctypes.c_ulong(len(data)), b""]
    _check(_libc.syscall(*arguments), "init_module")


def reboot(command: int) -> None:
    """reboot(2) with one of glibc's RB_ constants; raises ``OSError``."""
    _check(_libc.reboot(ctypes.c_uint(command)), "reboot")


def open_in_root(root_fd: int, path: str, flags: int) -> int:
    """openat2(2) with ``path`` resolved as if ``root_fd`` were "/": no symbolic link or ".." leads out of it."""
    how = b"".join(
        number.to_bytes(8, "little")  # struct open_how of linux/openat2.h: flags, mode, resolve
        for number in (flags | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    )
    arguments: list[Any] = [ctypes.c_long(_SYS_OPENAT2), ctypes.c_int(root_fd), path.encode(), how]
    return _check(_libc.syscall(*arguments, ctypes.c_size_t(len(how))), path)


def clone_mount(path: str) -> int:
    """open_tree(2): a copy of the mount at ``path``, from there on down, that is not yet anywhere; a descriptor."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC
    arguments = [ctypes.c_long(_SYS_OPEN_TREE), ctypes.c_int(_AT_FDCWD), path.encode(), ctypes.c_uint(flags)]
    return _check(_libc.syscall(*arguments), path)


def move_mount(tree: int, target: str) -> None:
    """move_mount(2): what ``clone_mount`` gave, at ``target`` from now on. Raises ``OSError``."""
    arguments: list[Any] = [ctypes.c_long(_SYS_MOVE_MOUNT), ctypes.c_int(tree), b"", ctypes.c_int(_AT_FDCWD)]
    _check(_libc.syscall(*arguments, target.encode(), ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)), target)


def map_ids(tree: int, namespace: int) -> None:
    """mount_setattr(2): ids of what ``clone_mount`` gave are those of a user namespace, as a descriptor.

    Raises ``OSError``: not every file system can have that.
    """
    # struct mount_attr of linux/mount.h: what to set, what to clear, propagation, the namespace.
    attributes = b"".join(number.to_bytes(8, "little") for number in (_MOUNT_ATTR_IDMAP, 0, 0, namespace))
    arguments: list[Any] = [ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_int(tree), b"", ctypes.c_uint(_AT_EMPTY_PATH)]
    _check(_libc.syscall(*arguments, attributes, ctypes.c_size_t(len(attributes))), "mount_setattr")


def unshare_users() -> None:
    """unshare(2): a user namespace of its own for the calling process. Raises ``OSError``."""
    _check(_libc.unshare(ctypes.c_int(_CLONE_NEWUSER)), "unshare")


def raise_hard_limit(number: int, least: int) -> None:
    """prlimit(2): the caller's hard limit, which its children get, is ``least`` or more. Raises ``OSError``."""
    limits = (ctypes.c_uint64 * 2)()  # struct rlimit64: soft, hard
    _check(_libc.prlimit64(0, number, None, limits), "prlimit")
    if limits[1] < least:
        limits[1] = least
        _check(_libc.prlimit64(0, number, limits, None), "prlimit")


def enter_root(path: str) -> None:
    """Makes a directory root and working directory, for good. Raises ``OSError``."""
    os.chroot(path)
    os.chdir("/")


def enter_mounts_of(pid: int) -> None:
    """setns(2) to a process's mount namespace, whose root is root and working directory from then on.

    Raises ``OSError``.
    """
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        arguments = [ctypes.c_long(_SYS_SETNS), ctypes.c_int(namespace), ctypes.c_int(_CLONE_NEWNS)]
        _check(_libc.syscall(*arguments), f"mount namespace of {pid}")
    finally:
        os.close(namespace)


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result
