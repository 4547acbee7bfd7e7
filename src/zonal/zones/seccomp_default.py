"""Which system calls a container may make when nothing is said: docker's choice, made from the kernel's own list.

What a program needs is allowed. What acts on the whole kernel (its clock, modules, mounts, swap, keys …), or has often
been a way into it, is refused with EPERM, as a kernel refuses those without the capability; where a capability stands
for it, whoever has that may call. clone3 is said not to be there at all, since what it is asked for lies in memory,
where no filter looks; C libraries then use clone. So is what a newer kernel has and this list does not know.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from zonal.zones.bpf import ALLOW, ERRNO, Condition, Verdict
from zonal.zones.system_calls import CALLS_32, CALLS_64

EPERM, ENOSYS = 1, 38

_GUARDED: Final = {
    # By the capabilities any of which opens the calls.
    ("CAP_SYS_ADMIN", "CAP_BPF"): "bpf",
    ("CAP_SYS_ADMIN", "CAP_PERFMON"): "perf_event_open",
    ("CAP_SYS_ADMIN", "CAP_SYSLOG"): "syslog",
    ("CAP_SYS_ADMIN",): (
        "fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie lsm_get_self_attr lsm_list_modules "
        "lsm_set_self_attr mount mount_setattr move_mount open_tree quotactl quotactl_fd setdomainname sethostname "
        "setns statmount umount umount2 unshare"
    ),
    ("CAP_DAC_READ_SEARCH",): "open_by_handle_at",
    ("CAP_SYS_BOOT",): "reboot",
    ("CAP_SYS_CHROOT",): "chroot",
    ("CAP_SYS_MODULE",): "delete_module finit_module init_module",
    ("CAP_SYS_NICE",): "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ("CAP_SYS_PACCT",): "acct",
    ("CAP_SYS_PTRACE",): "kcmp pidfd_getfd process_madvise",
    ("CAP_SYS_RAWIO",): "ioperm iopl",
    ("CAP_SYS_TIME",): "clock_settime clock_settime64 settimeofday stime",
    ("CAP_SYS_TTY_CONFIG",): "vhangup",
}
_CLOSED: Final = {
    "keys, which are not kept apart by container": "add_key keyctl request_key",
    "the machine as a whole": "kexec_file_load kexec_load pivot_root swapoff swapon",
    "ways into kernels, again and again": "io_uring_enter io_uring_register io_uring_setup userfaultfd",
    "where others' memory is": "migrate_pages move_pages",
    "long gone, or of no use to anybody": (
        "_sysctl afs_syscall bdflush break create_module ftime get_kernel_syms getpmsg gtty idle lock mpx nfsservctl "
        "prof profil putpmsg query_module security stty sysfs tuxcall ulimit uselib ustat vm86 vm86old vserver"
    ),
}
_NAMESPACES: Final = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET of linux/sched.h."""
_AF_VSOCK: Final = 40
_PERSONALITIES: Final = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""PER_LINUX, PER_LINUX32, UNAME26 with either, and the question which it is (linux/personality.h)."""


def default_verdicts(capabilities: Collection[str]) -> tuple[dict[int, Verdict], dict[int, Verdict], int]:
    """Those on 64-bit and 32-bit calls, by number, and what is said of all others, for who has ``capabilities``."""
    held = set(capabilities)
    refused = Verdict(ERRNO | EPERM)
    special: dict[str, Verdict] = dict.fromkeys(" ".join(_CLOSED.values()).split(), refused)
    for guards, names in _GUARDED.items():
        if not held.intersection(guards):
            special |= dict.fromkeys(names.split(), refused)
    special["personality"] = _allowed_if(*((Condition(0, "EQ", value),) for value in _PERSONALITIES))
    special["socket"] = _allowed_if((Condition(0, "NE", _AF_VSOCK),))
    if "CAP_SYS_ADMIN" not in held:
        special["clone"] = _allowed_if((Condition(0, "MASKED_EQ", _NAMESPACES, 0),))
        special["clone3"] = Verdict(ERRNO | ENOSYS)
    allowed = Verdict(ALLOW)
    wide = {number: special.get(name, allowed) for name, number in CALLS_64.items()}
    narrow = {number: special.get(name, allowed) for name, number in CALLS_32.items()}
    return wide, narrow, ERRNO | ENOSYS


def _allowed_if(*alternatives: tuple[Condition, ...]) -> Verdict:
    return Verdict(ERRNO | EPERM, tuple((conditions, ALLOW) for conditions in alternatives))
