"""Page tables of a new PV domain, as numpy arrays: entries hold machine frames, tables are mapped read-only.

A PV guest's tables are used by the processor as they are, so the hypervisor insists that no table is writable
through any mapping (``public/xen.h``, ``HYPERVISOR_mmu_update``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zonal.xen.abi.privcmd import PAGE_SHIFT
from zonal.xen.build.layout import ENTRIES, Layout, Region, level_spans

PRESENT = 1 << 0
WRITABLE = 1 << 1
USER = 1 << 2
ACCESSED = 1 << 5
DIRTY = 1 << 6

_TABLE_BITS = PRESENT | WRITABLE | USER | ACCESSED | DIRTY
_PAGE_BITS = PRESENT | WRITABLE | USER | ACCESSED

Frames = npt.NDArray[np.uint64]


def kernel_tables(layout: Layout, virtual_base: int, frames: Frames) -> Frames:
    """The tables of the initial mapping: ``virtual_base`` on, pseudo-physical frames 0 to ``layout.mapped_end``.

    ``frames``: shape (pages,), the machine frame of each pseudo-physical one. Returns shape (tables, 512), in the
    order of ``layout.tables``: the level-4 table first, then levels 3, 2 and 1.
    """
    mapped = min(layout.mapped_end, layout.pages)
    entries = (frames[:mapped] << np.uint64(PAGE_SHIFT)) | np.uint64(_PAGE_BITS)
    for tables in (layout.tables, layout.p2m_tables):
        entries[tables.first : min(tables.end, mapped)] &= np.uint64(~WRITABLE & (1 << 64) - 1)
    return _tree(virtual_base, layout.mapped_end, entries, layout.tables, frames)


def p2m_tables(layout: Layout, p2m_base: int, frames: Frames) -> tuple[Frames, int, int]:
    """The tables that map the frame list at ``p2m_base``, but for the level-4 table, which is the kernel's.

    Returns the tables, shape (tables, 512), in the order of ``layout.p2m_tables``; and the index and value of the
    one entry of the level-4 table that leads to them.
    """
    pages = frames[layout.p2m.first : layout.p2m.end]
    entries = (pages << np.uint64(PAGE_SHIFT)) | np.uint64(_PAGE_BITS)
    # As _tree puts the level-4 table first, the region begins one frame early; that table's content is the entry.
    region = Region(layout.p2m_tables.first - 1, layout.p2m_tables.count + 1)
    tables = _tree(p2m_base, layout.p2m.count, entries, region, frames)
    index = int(np.flatnonzero(tables[0])[0])
    return tables[1:], index, int(tables[0][index])


def _tree(virtual: int, count: int, entries: Frames, region: Region, frames: Frames) -> Frames:
    """Four levels of tables that map ``count`` pages from ``virtual`` on; ``entries`` are those of level 1."""
    spans = level_spans(virtual, count)
    tables = np.zeros((region.count, ENTRIES), dtype=np.uint64)
    flat = tables.reshape(-1)
    starts: list[int] = []
    position = 0
    for _, number in reversed(spans):
        starts.insert(0, position)
        position += number
    first_page = (virtual & (1 << 48) - 1) >> PAGE_SHIFT
    offset = starts[0] * ENTRIES + first_page - spans[0][0] * ENTRIES
    flat[offset : offset + len(entries)] = entries
    for level in range(1, 4):
        below_first, below_count = spans[level - 1]
        begin = region.first + starts[level - 1]
        links = (frames[begin : begin + below_count] << np.uint64(PAGE_SHIFT)) | np.uint64(_TABLE_BITS)
        offset = starts[level] * ENTRIES + below_first - spans[level][0] * ENTRIES
        flat[offset : offset + below_count] = links
    return tables
