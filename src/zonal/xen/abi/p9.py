"""The rings of 9pfs on Xen: ``io/9pfs.h``, ``struct xen_9pfs_data_intf`` (made by macros of ``io/ring.h``).

A page with indices as 32-bit items, and granted pages for data: the first half, "in", carries replies to the zone, the
second, "out", its requests.
"""

from __future__ import annotations

from typing import Final

IN_CONS: Final = 0
IN_PROD: Final = 1
OUT_CONS: Final = 16
OUT_PROD: Final = 17
RING_ORDER: Final = 32
"""log2 of the number of data pages."""
REFERENCES: Final = 33
"""The grants of the data pages, from here on."""

PAGE_ORDER_MAX: Final = 9
"""What Linux's driver uses at most (``XEN_9PFS_RING_ORDER``)."""
RINGS_MAX: Final = 2
"""What Linux's driver uses (``XEN_9PFS_NUM_RINGS``); it takes no backend that offers fewer."""
