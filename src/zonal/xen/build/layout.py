"""Where everything goes in a new PV domain's memory, by pseudo-physical frame number.

In order: the kernel, at the addresses that it asks for; the start info, store and console pages; the page tables of
the initial mapping; the boot stack; room to the next 4 MiB; then, outside of the initial mapping when the kernel can
do with that, the page tables of the frame list, the frame list, and the initrd. The rules are Xen's for a PV guest
(``public/xen.h``, "Bootstrap memory layout" at ``struct start_info``).
"""

from __future__ import annotations

from dataclasses import dataclass

from zonal.errors import InvalidInputError
from zonal.xen.abi.privcmd import PAGE_SHIFT, PAGE_SIZE
from zonal.xen.build.elf import PvKernel
from zonal.xen.hypercall import frames_for

ENTRIES = 512
"""Entries of a page table of any level."""

_MAPPING_ALIGNMENT = 4 << 20
_MAPPING_SLACK = 512 << 10


@dataclass(frozen=True)
class Region:
    """``count`` consecutive frames from pseudo-physical frame ``first`` on."""

    first: int
    count: int

    @property
    def end(self) -> int:
        """The frame after the last."""
        return self.first + self.count


@dataclass(frozen=True)
class Layout:
    """The plan; frame numbers are pseudo-physical, ``mapped_end`` is the frame at which the initial mapping ends."""

    pages: int
    kernel: Region
    start_info: int
    store: int
    console: int
    tables: Region
    stack: int
    mapped_end: int
    p2m_tables: Region
    p2m: Region
    initrd: Region

    @property
    def boot(self) -> Region:
        """Start info to boot stack: one stretch, written at once."""
        return Region(self.start_info, self.stack + 1 - self.start_info)


def plan_layout(kernel: PvKernel, pages: int, initrd_size: int) -> Layout:
    """Plans the memory of a domain of ``pages`` frames; ``initrd_size`` in bytes, 0 for none.

    Raises ``InvalidInputError`` when it does not fit.
    """
    kernel_first = kernel.first_physical >> PAGE_SHIFT
    kernel_region = Region(kernel_first, frames_for(kernel.end_physical) - kernel_first)
    p2m_size = frames_for(pages * 8)
    cursor = kernel_region.end
    initrd = Region(0, 0)
    if initrd_size and not kernel.initrd_by_frame:
        initrd = Region(cursor, frames_for(initrd_size))
        cursor = initrd.end
    p2m = p2m_tables = Region(0, 0)
    if kernel.p2m_base is None:
        p2m = Region(cursor, p2m_size)
        cursor = p2m.end
    start_info, store, console = cursor, cursor + 1, cursor + 2
    tables, mapped_end = _tables(kernel.virtual_base, console + 1)
    cursor = tables.end + 1
    if kernel.p2m_base is not None:
        p2m_tables = Region(cursor, table_count(kernel.p2m_base, p2m_size) - 1)  # the L4 is the kernel mapping's
        p2m = Region(p2m_tables.end, p2m_size)
        cursor = p2m.end
    if initrd_size and kernel.initrd_by_frame:
        initrd = Region(cursor, frames_for(initrd_size))
        cursor = initrd.end
    if cursor > pages:
        raise InvalidInputError(
            f"{pages * PAGE_SIZE >> 20} MiB of memory do not hold this kernel with its initrd: "
            f"{-(-cursor * PAGE_SIZE >> 20)} MiB are needed to start, more to run",
            hint="ask for more memory",
        )
    return Layout(
        pages=pages,
        kernel=kernel_region,
        start_info=start_info,
        store=store,
        console=console,
        tables=tables,
        stack=tables.end,
        mapped_end=mapped_end,
        p2m_tables=p2m_tables,
        p2m=p2m,
        initrd=initrd,
    )


def level_spans(virtual: int, frames: int) -> list[tuple[int, int]]:
    """For levels 1 to 4, the first table needed and how many, to map ``frames`` frames from ``virtual`` on.

    Tables of a level are numbered from address 0: a level-1 table covers 2 MiB, level 2 1 GiB, level 3 512 GiB.
    """
    first_page = (virtual & (1 << 48) - 1) >> PAGE_SHIFT
    last_page = first_page + frames - 1
    spans: list[tuple[int, int]] = []
    for level in range(1, 5):
        first, last = first_page >> 9 * level, last_page >> 9 * level
        spans.append((first, last - first + 1))
    return spans


def table_count(virtual: int, frames: int) -> int:
    """How many page tables of all levels map ``frames`` frames from ``virtual`` on."""
    return sum(count for _, count in level_spans(virtual, frames))


def _tables(virtual_base: int, first: int) -> tuple[Region, int]:
    """The tables that map everything up to and with themselves, the stack, and the slack; and where that ends."""
    count = 0
    while True:
        stack_end = (first + count + 1) << PAGE_SHIFT
        end = -(-(stack_end + _MAPPING_SLACK) // _MAPPING_ALIGNMENT) * _MAPPING_ALIGNMENT >> PAGE_SHIFT
        needed = table_count(virtual_base, end)
        if needed <= count:
            return Region(first, count), end
        count = needed
