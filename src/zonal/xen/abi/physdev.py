"""Layouts and numbers of Xen's ``public/physdev.h``."""

from __future__ import annotations

import ctypes

HYPERVISOR_PHYSDEV_OP = 33
PHYSDEVOP_MAP_PIRQ = 13
MAP_PIRQ_TYPE_GSI = 1


class PhysdevMapPirq(ctypes.Structure):
    """``struct physdev_map_pirq``; ``pirq`` is -1 for any, and the one that was chosen afterwards."""

    _fields_ = (
        ("domid", ctypes.c_uint16),
        ("type", ctypes.c_int),
        ("index", ctypes.c_int),
        ("pirq", ctypes.c_int),
        ("bus", ctypes.c_int),
        ("devfn", ctypes.c_int),
        ("entry_nr", ctypes.c_int),
        ("table_base", ctypes.c_uint64),
    )
