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

_SYS_OPENAT2 = 437  # asm/unistd_64.h
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


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result
