"""Layouts and numbers of Xen's ``public/grant_table.h`` that a domain's builder needs (version 1 entries)."""

from __future__ import annotations

import ctypes

GNTTAB_RESERVED_CONSOLE = 0
GNTTAB_RESERVED_XENSTORE = 1
GTF_PERMIT_ACCESS = 1


class GrantEntryV1(ctypes.Structure):
    """``struct grant_entry_v1``."""

    _fields_ = (("flags", ctypes.c_uint16), ("domid", ctypes.c_uint16), ("frame", ctypes.c_uint32))
