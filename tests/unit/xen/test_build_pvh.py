"""Where a PVH domain finds everything, and what its ACPI tables say."""

from __future__ import annotations

import struct

import pytest

from zonal.errors import InvalidInputError
from zonal.xen.abi.hvm import XEN_HVM_MEMMAP_TYPE_RAM
from zonal.xen.build.acpi import acpi_tables
from zonal.xen.build.elf import PvhKernel, Segment
from zonal.xen.build.pvh_layout import HIGH, HOLE, plan_pvh_layout

MIB = 1 << 20
PAGE = 4096
KERNEL = PvhKernel((Segment(4096, 20 * MIB, 16 * MIB, 30 * MIB),), 16 * MIB + 0x100)
ADDRESS = 0xEFFF_C000


def table(tables: bytes, at: int) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from("<I", tables, at - ADDRESS + 4)
    found = tables[at - ADDRESS : at - ADDRESS + size]
    assert sum(found) & 0xFF == 0
    return found[:4], found


@pytest.mark.parametrize("vcpus", [1, 2, 7, 64])
def test_the_tables_lead_to_each_cpu(vcpus: int) -> None:
    tables = acpi_tables(vcpus, ADDRESS)
    assert len(tables) <= PAGE
    assert tables[:8] == b"RSD PTR "
    assert sum(tables[:20]) & 0xFF == 0
    assert sum(tables[:36]) & 0xFF == 0
    (xsdt_at,) = struct.unpack_from("<Q", tables, 24)
    signature, xsdt = table(tables, xsdt_at)
    assert signature == b"XSDT"
    found = dict(table(tables, at) for at in struct.unpack("<QQ", xsdt[36:]))
    fadt, madt = found[b"FACP"], found[b"APIC"]
    assert struct.unpack_from("<I", fadt, 112)[0] & 1 << 20  # HW_REDUCED_ACPI
    assert table(tables, struct.unpack_from("<Q", fadt, 140)[0])[0] == b"DSDT"
    cpus = [struct.unpack_from("<BBBBI", madt, at) for at in range(44, len(madt), 8)]
    assert cpus == [(0, 8, number, 2 * number, 1) for number in range(vcpus)]


@pytest.mark.parametrize("mebibytes", [64, 101, 3839, 3840, 3841, 9000])
def test_the_map_covers_all_memory_once_and_nothing_that_is_not_there(mebibytes: int) -> None:
    pages = mebibytes * MIB // PAGE
    layout = plan_pvh_layout(KERNEL, pages, 5 * MIB, pages)
    assert layout.low + layout.high == pages
    end = 0
    total = 0
    for address, size, _ in layout.memory_map():
        assert address == end or (address == HIGH and end == HOLE)
        end = address + size
        total += size
    assert total == pages * PAGE
    usable = [
        (address, address + size) for address, size, kind in layout.memory_map() if kind == XEN_HVM_MEMMAP_TYPE_RAM
    ]
    for region in (layout.kernel, layout.initrd):
        assert any(begin <= region.first * PAGE and region.end * PAGE <= end for begin, end in usable)
    for special in (layout.start_info, layout.acpi, layout.identity, layout.console, layout.store):
        assert not any(begin <= special * PAGE < end for begin, end in usable)
    assert layout.initrd.first >= layout.kernel.end


@pytest.mark.parametrize(("mebibytes", "initrd", "present"), [(40, 0, 40), (64, 20, 64), (512, 20, 40)])
def test_what_does_not_fit_is_refused(mebibytes: int, initrd: int, present: int) -> None:
    with pytest.raises(InvalidInputError, match="do not hold this kernel"):
        plan_pvh_layout(KERNEL, mebibytes * MIB // PAGE, initrd * MIB, present * MIB // PAGE)
