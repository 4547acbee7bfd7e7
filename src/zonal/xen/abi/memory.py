"""Layouts and numbers of Xen's ``public/memory.h``."""

from __future__ import annotations

import ctypes

XENMEM_POPULATE_PHYSMAP = 6

XENMEM_RESOURCE_GRANT_TABLE = 1
XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED = 0


class MemoryReservation(ctypes.Structure):
    """``struct xen_memory_reservation``; ``extent_start`` points to frame numbers (u64)."""

    _fields_ = (
        ("extent_start", ctypes.c_uint64),
        ("nr_extents", ctypes.c_uint64),
        ("extent_order", ctypes.c_uint),
        ("mem_flags", ctypes.c_uint),
        ("domid", ctypes.c_uint16),
    )
