"""Layouts and ioctl numbers of ``linux/include/uapi/xen/privcmd.h``."""

from __future__ import annotations

import ctypes

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT


class PrivcmdHypercall(ctypes.Structure):
    """``struct privcmd_hypercall``."""

    _fields_ = (("op", ctypes.c_uint64), ("arg", ctypes.c_uint64 * 5))


class PrivcmdMmapBatchV2(ctypes.Structure):
    """``struct privcmd_mmapbatch_v2``: map foreign frames at an address within a mapping of privcmd."""

    _fields_ = (
        ("num", ctypes.c_uint),
        ("dom", ctypes.c_uint16),
        ("addr", ctypes.c_uint64),
        ("arr", ctypes.c_uint64),
        ("err", ctypes.c_uint64),
    )


class PrivcmdMmapResource(ctypes.Structure):
    """``struct privcmd_mmap_resource``: map a resource of a domain, such as its grant table."""

    _fields_ = (
        ("dom", ctypes.c_uint16),
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("idx", ctypes.c_uint32),
        ("num", ctypes.c_uint64),
        ("addr", ctypes.c_uint64),
    )


def _ioc_none(number: int, size: int) -> int:
    """``_IOC(_IOC_NONE, 'P', number, size)`` of ``asm-generic/ioctl.h``."""
    return (size << 16) | (ord("P") << 8) | number


IOCTL_PRIVCMD_HYPERCALL = _ioc_none(0, ctypes.sizeof(PrivcmdHypercall))
IOCTL_PRIVCMD_MMAPBATCH_V2 = _ioc_none(4, ctypes.sizeof(PrivcmdMmapBatchV2))
IOCTL_PRIVCMD_MMAP_RESOURCE = _ioc_none(7, ctypes.sizeof(PrivcmdMmapResource))
