"""Where everything goes in a new PVH domain's memory, by physical address.

::

    0        16 MiB                                                                         (hole)   4 GiB
    │ RAM     │ kernel │ initrd │ RAM … │ start info │ ACPI │ identity │ console │ store │           │ more RAM …

The last five pages below the hole are not for the kernel's own use, and the map of memory that it is given says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from zonal.errors import InvalidInputError
from zonal.xen.abi.hvm import XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED
from zonal.xen.abi.privcmd import PAGE_SHIFT, PAGE_SIZE
from zonal.xen.build.elf import PvhKernel
from zonal.xen.build.layout import Region
from zonal.xen.hypercall import frames_for

HOLE = 0xF000_0000
"""Where what is not RAM may be: the local APICs, and what Linux maps of Xen's."""
HIGH = 1 << 32
_PAGES_AT_THE_END = 5


@dataclass(frozen=True)
class PvhLayout:
    """The plan, in guest frame numbers."""

    low: int
    """Frames below the hole."""
    high: int
    """Frames from 4 GiB on."""
    kernel: Region
    initrd: Region

    @property
    def first_special(self) -> int:
        """The first frame that is not for the kernel's own use."""
        return self.low - _PAGES_AT_THE_END

    @property
    def start_info(self) -> int:
        """What the kernel is told."""
        return self.first_special

    @property
    def acpi(self) -> int:
        """Its tables."""
        return self.first_special + 1

    @property
    def identity(self) -> int:
        """A page directory that maps 4 GiB to itself: old VT-x needs one while the kernel has paging off."""
        return self.first_special + 2

    @property
    def console(self) -> int:
        """The console's ring."""
        return self.first_special + 3

    @property
    def store(self) -> int:
        """The store's ring."""
        return self.first_special + 4

    def memory_map(self) -> list[tuple[int, int, int]]:
        """Address, size in bytes, and type of each stretch."""
        ram, acpi, reserved = XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_ACPI, XEN_HVM_MEMMAP_TYPE_RESERVED
        first = self.first_special << PAGE_SHIFT
        entries = [
            (0, first, ram),
            (first, PAGE_SIZE, reserved),
            (first + PAGE_SIZE, PAGE_SIZE, acpi),
            (first + 2 * PAGE_SIZE, 3 * PAGE_SIZE, reserved),
        ]
        return entries + ([(HIGH, self.high << PAGE_SHIFT, ram)] if self.high else [])


def plan_pvh_layout(kernel: PvhKernel, pages: int, initrd_size: int, present: int) -> PvhLayout:
    """Plans the memory of a domain of ``pages`` frames, of which it has ``present`` at first.

    ``initrd_size`` in bytes, 0 for none. Raises ``InvalidInputError`` when it does not fit.
    """
    low = min(pages, HOLE >> PAGE_SHIFT)
    first = kernel.first_physical >> PAGE_SHIFT
    region = Region(first, frames_for(kernel.end_physical) - first)
    initrd = Region(region.end, frames_for(initrd_size)) if initrd_size else Region(0, 0)
    end = max(region.end, initrd.end)
    if end > low - _PAGES_AT_THE_END or region.count + initrd.count + _PAGES_AT_THE_END > present:
        raise InvalidInputError(
            f"{present * PAGE_SIZE >> 20} MiB of memory do not hold this kernel with its initrd: "
            f"{-(-end * PAGE_SIZE >> 20)} MiB are needed to start, more to run",
            hint="ask for more memory",
        )
    return PvhLayout(low, pages - low, region, initrd)
