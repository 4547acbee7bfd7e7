"""Builds a PVH domain's first memory image and first register state.

What Xen promises a PVH kernel at its entry is written down in ``docs/misc/pvh.pandoc`` of Xen and in
``public/arch-x86/hvm/start_info.h``: 32-bit flat segments, paging off, %ebx the address of the start info.
"""

from __future__ import annotations

import ctypes
from collections.abc import Generator
from pathlib import Path

import numpy as np

from zonal.errors import InvalidInputError, UnavailableError
from zonal.xen import domctl
from zonal.xen.abi.domctl import SHUTDOWN_CRASH
from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from zonal.xen.abi.hvm import (
    HVM_PARAM_CONSOLE_EVTCHN,
    HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_IDENT_PT,
    HVM_PARAM_STORE_EVTCHN,
    HVM_PARAM_STORE_PFN,
    HVM_PARAM_TRIPLE_FAULT_REASON,
    HVM_SAVE_CPU,
    HVM_SAVE_END,
    HVM_SAVE_HEADER,
    HVM_SAVE_MTRR,
    MTRR_ENABLE,
    MTRR_WRITE_BACK,
    XEN_HVM_START_MAGIC_VALUE,
    XEN_HVM_START_VERSION,
    HvmHwCpu,
    HvmHwMtrr,
    HvmMemmapTableEntry,
    HvmModlistEntry,
    HvmSaveDescriptor,
    HvmStartInfo,
)
from zonal.xen.abi.privcmd import PAGE_SHIFT, PAGE_SIZE
from zonal.xen.abi.xen import MAX_GUEST_CMDLINE
from zonal.xen.build.acpi import acpi_tables
from zonal.xen.build.built import BuiltDomain
from zonal.xen.build.kernel import KernelImage
from zonal.xen.build.layout import Region
from zonal.xen.build.loading import Bytes, Frames, load_file, load_kernel_file, write_frames
from zonal.xen.build.pvh_layout import HIGH, PvhLayout, plan_pvh_layout
from zonal.xen.hypercall import Hypervisor
from zonal.xen.memory import alloc_unbound, populate, populate_on_demand, seed_grants, set_demand_target

_CR0 = 1 << 4 | 1 << 0  # ET, PE
_CODE, _DATA, _TASK = 0xC9B, 0xC93, 0x8B
"""Access rights: 4 GiB, 32 bits, present, accessed; code that may be read, data that may be written, a busy TSS."""
_DR6, _DR7 = 0xFFFF_0FF0, 0x400
_PDE_IDENTITY = 0b1110_0111
"""Present, writable, user's, accessed, dirty, 4 MiB."""


def build_pvh(
    hypervisor: Hypervisor,
    domain_id: int,
    kernel: KernelImage,
    *,
    memory: int,
    most_memory: int = 0,
    vcpus: int = 1,
    command_line: str = "",
    initrd: Path | None = None,
    host_id: int = 0,
) -> BuiltDomain:
    """Fills a new, empty domain with memory, a kernel and its start state; it then only wants to be unpaused.

    ``memory`` in bytes; ``most_memory``, if greater, is what the domain may grow to: it sees that much from the start,
    finds frames there on demand, and its balloon driver gives back at once what is more than ``memory``. Raises
    ``InvalidInputError`` for what can not fit, ``ResourceExhaustedError`` when the machine has too little memory.
    Undoes nothing: whoever created the domain destroys it.
    """
    line = command_line.encode()
    if len(line) >= MAX_GUEST_CMDLINE:
        raise InvalidInputError(
            f"a kernel command line of {len(line)} bytes, at most {MAX_GUEST_CMDLINE - 1} are allowed"
        )
    if kernel.pvh is None:
        raise InvalidInputError(
            f"kernel {kernel.path.name} cannot run as PVH: it has no entry for it",
            hint="a kernel needs CONFIG_PVH=y; or use --virt pv",
        )
    initrd_size = initrd.stat().st_size if initrd else 0
    pages = max(memory, most_memory) // PAGE_SIZE
    layout = plan_pvh_layout(kernel.pvh, pages, initrd_size, memory // PAGE_SIZE)
    domctl.set_paging_pool(hypervisor, domain_id, paging_pool(pages * PAGE_SIZE, vcpus))
    domctl.set_max_memory(hypervisor, domain_id, memory)
    fill = populate if most_memory <= memory else populate_on_demand
    if most_memory > memory:
        set_demand_target(hypervisor, domain_id, memory // PAGE_SIZE)
    fill(hypervisor, domain_id, layout.low)
    if layout.high:
        fill(hypervisor, domain_id, layout.high, first=HIGH >> PAGE_SHIFT)
    load_kernel_file(hypervisor, domain_id, kernel.path, kernel.pvh, _frames(layout.kernel))
    if initrd:
        load_file(hypervisor, domain_id, initrd, _frames(layout.initrd))
    _write_special_pages(hypervisor, domain_id, layout, _start_info(layout, line, initrd_size), vcpus)
    built = BuiltDomain(
        store_frame=layout.store,
        store_port=alloc_unbound(hypervisor, domain_id, host_id),
        console_frame=layout.console,
        console_port=alloc_unbound(hypervisor, domain_id, host_id),
    )
    _set_parameters(hypervisor, domain_id, layout, built)
    seed_grants(
        hypervisor,
        domain_id,
        {
            GNTTAB_RESERVED_CONSOLE: (host_id, built.console_frame),
            GNTTAB_RESERVED_XENSTORE: (host_id, built.store_frame),
        },
    )
    domctl.set_native_tsc(hypervisor, domain_id)
    _set_registers(hypervisor, domain_id, kernel.pvh.entry, layout.start_info << PAGE_SHIFT, vcpus)
    return built


def paging_pool(memory: int, vcpus: int) -> int:
    """Bytes that the hypervisor may use for the tables of a domain's memory.

    Every 2 MiB need one table if they are mapped page by page; twice that leaves room for what Linux maps besides.
    """
    return (256 + 16 * vcpus + (memory >> 20)) * PAGE_SIZE


def _frames(region: Region) -> Frames:
    return np.arange(region.first, region.end, dtype=np.uint64)


def _start_info(layout: PvhLayout, line: bytes, initrd_size: int) -> bytes:
    """The page: start info, list of modules, map of memory, command line."""
    at = layout.start_info << PAGE_SHIFT
    modules = b""
    if layout.initrd.count:
        modules = bytes(HvmModlistEntry(paddr=layout.initrd.first << PAGE_SHIFT, size=initrd_size))
    entries = layout.memory_map()
    table = b"".join(bytes(HvmMemmapTableEntry(addr=addr, size=size, type=kind)) for addr, size, kind in entries)
    modules_at = at + ctypes.sizeof(HvmStartInfo)
    table_at = modules_at + len(modules)
    info = HvmStartInfo(
        magic=XEN_HVM_START_MAGIC_VALUE,
        version=XEN_HVM_START_VERSION,
        nr_modules=1 if modules else 0,
        modlist_paddr=modules_at if modules else 0,
        cmdline_paddr=table_at + len(table),
        rsdp_paddr=layout.acpi << PAGE_SHIFT,
        memmap_paddr=table_at,
        memmap_entries=len(entries),
    )
    return bytes(info) + modules + table + line + b"\0"


def _write_special_pages(hypervisor: Hypervisor, domain_id: int, layout: PvhLayout, start: bytes, vcpus: int) -> None:
    identity = (np.arange(1024, dtype=np.uint32) << np.uint32(22)) | np.uint32(_PDE_IDENTITY)
    pages = np.zeros((5, PAGE_SIZE), dtype=np.uint8)
    contents: tuple[Bytes, ...] = (
        np.frombuffer(start, dtype=np.uint8),
        np.frombuffer(acpi_tables(vcpus, layout.acpi << PAGE_SHIFT), dtype=np.uint8),
        identity.view(np.uint8),
    )
    for page, content in zip(pages, contents, strict=False):
        page[: len(content)] = content
    write_frames(hypervisor, domain_id, _frames(Region(layout.first_special, 5)), pages.reshape(-1))


def _set_parameters(hypervisor: Hypervisor, domain_id: int, layout: PvhLayout, built: BuiltDomain) -> None:
    for index, value in (
        (HVM_PARAM_STORE_PFN, built.store_frame),
        (HVM_PARAM_STORE_EVTCHN, built.store_port),
        (HVM_PARAM_CONSOLE_PFN, built.console_frame),
        (HVM_PARAM_CONSOLE_EVTCHN, built.console_port),
        (HVM_PARAM_IDENT_PT, layout.identity << PAGE_SHIFT),
        (HVM_PARAM_TRIPLE_FAULT_REASON, SHUTDOWN_CRASH),
    ):
        domctl.set_hvm_parameter(hypervisor, domain_id, index, value)


def _set_registers(hypervisor: Hypervisor, domain_id: int, entry: int, start_info: int, vcpus: int) -> None:
    """The first vCPU's registers; and all memory is cached, on each of them.

    Every call takes all vCPUs down, the last one brings the first up.
    """
    records = dict(_records(domctl.get_hvm_context(hypervisor, domain_id)))
    header = records.get((HVM_SAVE_HEADER, 0))
    if header is None:
        raise UnavailableError("the hypervisor's record of a PVH domain has no header", hint="use Xen 4.20")
    for vcpu in range(vcpus):
        if (mtrr := records.get((HVM_SAVE_MTRR, vcpu))) is not None and len(mtrr) == ctypes.sizeof(HvmHwMtrr):
            ranges = HvmHwMtrr.from_buffer_copy(mtrr)
            ranges.msr_mtrr_def_type = MTRR_WRITE_BACK | MTRR_ENABLE
            domctl.set_hvm_context(hypervisor, domain_id, _context(header, (HVM_SAVE_MTRR, vcpu), bytes(ranges)))
    cpu = HvmHwCpu(cr0=_CR0, dr6=_DR6, dr7=_DR7)
    cpu.rip, cpu.rbx, cpu.rflags = entry, start_info, 1 << 1
    for name, rights in (("cs", _CODE), ("ds", _DATA), ("es", _DATA), ("ss", _DATA)):
        setattr(cpu, f"{name}_limit", 0xFFFF_FFFF)
        setattr(cpu, f"{name}_arbytes", rights)
    cpu.tr_limit, cpu.tr_arbytes = 0x67, _TASK
    domctl.set_hvm_context(hypervisor, domain_id, _context(header, (HVM_SAVE_CPU, 0), bytes(cpu)))


def _records(context: bytes) -> Generator[tuple[tuple[int, int], bytes]]:
    """Type and instance of each record, and the record."""
    position = 0
    while position + ctypes.sizeof(HvmSaveDescriptor) <= len(context):
        head = HvmSaveDescriptor.from_buffer_copy(context, position)
        position += ctypes.sizeof(HvmSaveDescriptor)
        yield (head.typecode, head.instance), context[position : position + head.length]
        position += head.length


def _context(header: bytes, key: tuple[int, int], record: bytes) -> bytes:
    parts = (((HVM_SAVE_HEADER, 0), header), (key, record), ((HVM_SAVE_END, 0), b""))
    return b"".join(
        bytes(HvmSaveDescriptor(typecode=kind, instance=instance, length=len(data))) + data
        for (kind, instance), data in parts
    )
