"""Layouts and numbers of Xen's ``public/memory.h``."""

from __future__ import annotations

import ctypes

XENMEM_POPULATE_PHYSMAP = 6
XENMEM_SET_MEMORY_MAP = 13
XENMEM_SET_POD_TARGET = 16
XENMEMF_POPULATE_ON_DEMAND = 1 << 16

E820_RAM = 1

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


class PodTarget(ctypes.Structure):
    """``struct xen_pod_target``, in pages."""

    _fields_ = (
        ("target_pages", ctypes.c_uint64),
        ("tot_pages", ctypes.c_uint64),
        ("pod_cache_pages", ctypes.c_uint64),
        ("pod_entries", ctypes.c_uint64),
        ("domid", ctypes.c_uint16),
    )


class MemoryMap(ctypes.Structure):
    """``struct xen_memory_map``; ``buffer`` points to ``E820Entry`` entries."""

    _fields_ = (("nr_entries", ctypes.c_uint), ("buffer", ctypes.c_uint64))


class ForeignMemoryMap(ctypes.Structure):
    """``struct xen_foreign_memory_map``."""

    _fields_ = (("domid", ctypes.c_uint16), ("map", MemoryMap))


class E820Entry(ctypes.Structure):
    """What the BIOS call INT 15h, E820h gives, as ``public/memory.h`` asks for: 20 bytes, without padding."""

    _pack_ = 1
    _fields_ = (("addr", ctypes.c_uint64), ("size", ctypes.c_uint64), ("type", ctypes.c_uint32))
