"""What the server's process gives up before it serves: all but the files that it was handed.

After that it sees no file system but through its descriptors, has no network, and can neither start a program nor open
a socket; of root's rights it keeps those over files, without the one by which a file can be opened by its number
(CAP_DAC_READ_SEARCH, open_by_handle_at(2)).
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 16384, 1 << 18
_MNT_DETACH = 2
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 24, 38, 22
_SECCOMP_MODE_FILTER = 2
_CAP_VERSION_3 = 0x20080522
_CAPABILITIES = (0, 1, 3, 4, 31)
"""CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_SETFCAP: linux/capability.h"""
_CAP_LAST = 63
_AUDIT_ARCH_X86_64 = 0xC000003E
_SYS_PIVOT_ROOT, _SYS_CAPSET = 155, 126
_ALLOWED = (
    *(0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 24, 25, 28, 32, 35, 39, 44, 45, 46, 47),
    *(60, 72, 73, 74, 75, 76, 77, 79, 89, 90, 91, 92, 93, 94, 95, 98, 131, 137, 138, 186, 188, 189, 190, 191, 192, 193),
    *(194, 195, 196, 197, 198, 199, 201, 202, 204, 217, 228, 229, 230, 231, 234, 257, 258, 259, 260, 262, 263, 264),
    *(265, 266, 267, 268, 269, 270, 271, 280, 285, 288, 291, 295, 296, 302, 316, 318, 327, 328, 332, 437, 452),
)
"""Reading, writing and naming files, memory, signals, clocks, and messages on sockets that are there already; nothing
that makes a process, a socket or a mount. asm/unistd_64.h"""
_MAX_DESCRIPTORS = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def confine() -> None:
    """Gives it up, for good. Raises ``OSError``; then the process must not serve."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = min(_MAX_DESCRIPTORS, int(open("/proc/sys/fs/nr_open").read()))  # noqa: PTH123, SIM115 - no pathlib here
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    except ValueError:  # a host whose root may not have more: then it is as many as that
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.umask(0)
    _check(_libc.unshare(_CLONE_NEWNS | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWNET))
    _leave_files()
    for capability in range(_CAP_LAST + 1):
        if capability not in _CAPABILITIES and _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            break  # the kernel's last one
    kept = sum(1 << capability for capability in _CAPABILITIES)
    header, sets = struct.pack("=Ii", _CAP_VERSION_3, 0), struct.pack("=6I", kept, kept, 0, 0, 0, 0)
    _check(_libc.syscall(ctypes.c_long(_SYS_CAPSET), header, sets))
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _filter_calls()


def _leave_files() -> None:
    """An empty file system for a root; open descriptors stay good."""
    _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    flags = _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    _check(_libc.mount(b"none", b"/run", b"tmpfs", ctypes.c_ulong(flags), b"size=4k"))
    os.chdir("/run")
    # The new root over the old one, which then lies beneath and is let go: pivot_root(2).
    _check(_libc.syscall(ctypes.c_long(_SYS_PIVOT_ROOT), b".", b"."))
    _check(_libc.umount2(b".", _MNT_DETACH))
    os.chdir("/")


def _filter_calls() -> None:
    """seccomp(2): calls that are not needed fail with EPERM."""
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JGE|K, BPF_RET|K
    allow, refuse, kill = 0x7FFF0000, 0x00050001, 0x80000000  # SECCOMP_RET_ALLOW, _ERRNO | EPERM, _KILL_PROCESS
    program = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT_ARCH_X86_64), (give, 0, 0, kill), (load, 0, 0, 0)]
    program.append((at_least, len(_ALLOWED), 0, 0x40000000))  # calls of the x32 ABI: on to the refusal
    program += [(equal, len(_ALLOWED) - at, 0, number) for at, number in enumerate(_ALLOWED)]
    program += [(give, 0, 0, refuse), (give, 0, 0, allow)]
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(code)
    header = struct.pack("=H6xQ", len(program), ctypes.addressof(buffer))
    _check(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
