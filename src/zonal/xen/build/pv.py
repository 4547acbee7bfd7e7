"""Builds a paravirtualised domain's first memory image and first register state.

What Xen promises a PV kernel at its entry is written down in ``public/xen.h`` at ``struct start_info``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zonal.errors import InvalidInputError
from zonal.xen import domctl
from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from zonal.xen.abi.privcmd import PAGE_SHIFT, PAGE_SIZE
from zonal.xen.abi.xen import (
    FLAT_RING3_CS64,
    FLAT_RING3_SS64,
    MAX_GUEST_CMDLINE,
    SIF_MOD_START_PFN,
    SIF_VIRT_P2M_4TOOLS,
    VGCF_IN_KERNEL,
    VGCF_ONLINE,
    XEN_LEGACY_MAX_VCPUS,
    SharedInfo,
    StartInfo,
    VcpuGuestContext,
)
from zonal.xen.build.built import BuiltDomain
from zonal.xen.build.elf import PvKernel
from zonal.xen.build.kernel import KernelImage
from zonal.xen.build.layout import Layout, plan_layout
from zonal.xen.build.loading import load_file, load_kernel_file, write_frames
from zonal.xen.build.page_tables import Frames, kernel_tables, p2m_tables
from zonal.xen.hypercall import Hypervisor
from zonal.xen.memory import alloc_unbound, pin_l4_table, populate, seed_grants, set_memory_map

EFLAGS_IF = 1 << 9


def build_pv(
    hypervisor: Hypervisor,
    domain_id: int,
    kernel: KernelImage,
    *,
    memory: int,
    most_memory: int = 0,
    command_line: str = "",
    initrd: Path | None = None,
    host_id: int = 0,
) -> BuiltDomain:
    """Fills a new, empty domain with memory, a kernel and its start state; it then only wants to be unpaused.

    ``memory`` in bytes; ``most_memory``, if greater, is what the domain may grow to. Raises ``InvalidInputError`` for
    what can not fit, ``ResourceExhaustedError`` when the machine has too little memory. Undoes nothing: whoever
    created the domain destroys it.
    """
    line = command_line.encode()
    if len(line) >= MAX_GUEST_CMDLINE:
        raise InvalidInputError(
            f"a kernel command line of {len(line)} bytes, at most {MAX_GUEST_CMDLINE - 1} are allowed"
        )
    pv = kernel.pv
    if pv is None:
        raise InvalidInputError(
            f"kernel {kernel.path.name} cannot run paravirtualised: it has no entry for it",
            hint="a kernel needs CONFIG_XEN_PV=y; or use --virt pvh, where the hardware can",
        )
    initrd_size = initrd.stat().st_size if initrd else 0
    layout = plan_layout(pv, memory // PAGE_SIZE, initrd_size)
    domctl.set_max_memory(hypervisor, domain_id, memory)
    frames = populate(hypervisor, domain_id, layout.pages)
    if most_memory > memory:
        set_memory_map(hypervisor, domain_id, most_memory)
    store_port = alloc_unbound(hypervisor, domain_id, host_id)
    console_port = alloc_unbound(hypervisor, domain_id, host_id)
    built = BuiltDomain(
        store_frame=int(frames[layout.store]),
        store_port=store_port,
        console_frame=int(frames[layout.console]),
        console_port=console_port,
    )
    info = domctl.domain_info(hypervisor, domain_id)
    assert info is not None, "the domain that is being built has gone"
    start = _start_info(layout, pv, built, info.shared_info_frame, domctl.xen_version(hypervisor))
    start.cmd_line = line
    start.mod_len = initrd_size
    load_kernel_file(hypervisor, domain_id, kernel.path, pv, frames[layout.kernel.first : layout.kernel.end])
    _write_boot_pages(hypervisor, domain_id, pv, layout, frames, start)
    if initrd:
        load_file(hypervisor, domain_id, initrd, frames[layout.initrd.first : layout.initrd.end])
    _init_shared_info(hypervisor, domain_id, info.shared_info_frame)
    l4_frame = int(frames[layout.tables.first])
    pin_l4_table(hypervisor, domain_id, l4_frame)
    if pv.hypercall_page is not None:
        page = (pv.hypercall_page - pv.virtual_base) >> PAGE_SHIFT
        domctl.init_hypercall_page(hypervisor, domain_id, int(frames[page]))
    seed_grants(
        hypervisor,
        domain_id,
        {
            GNTTAB_RESERVED_CONSOLE: (host_id, built.console_frame),
            GNTTAB_RESERVED_XENSTORE: (host_id, built.store_frame),
        },
    )
    domctl.set_native_tsc(hypervisor, domain_id)
    domctl.set_vcpu_context(hypervisor, domain_id, 0, _first_context(pv, layout, l4_frame))
    return built


def _start_info(
    layout: Layout, kernel: PvKernel, built: BuiltDomain, shared_info_frame: int, version: str
) -> StartInfo:
    base = kernel.virtual_base
    flags = SIF_VIRT_P2M_4TOOLS
    if kernel.initrd_by_frame:
        mod_start = layout.initrd.first
        flags |= SIF_MOD_START_PFN
    else:
        mod_start = base + (layout.initrd.first << PAGE_SHIFT)
    p2m_region = layout.p2m
    mfn_list = base + (p2m_region.first << PAGE_SHIFT) if kernel.p2m_base is None else kernel.p2m_base
    short = ".".join(version.split(".")[:2])
    return StartInfo(
        magic=f"xen-{short}-x86_64".encode(),
        nr_pages=layout.pages,
        shared_info=shared_info_frame << PAGE_SHIFT,
        flags=flags,
        store_mfn=built.store_frame,
        store_evtchn=built.store_port,
        console_mfn=built.console_frame,
        console_evtchn=built.console_port,
        pt_base=base + (layout.tables.first << PAGE_SHIFT),
        nr_pt_frames=layout.tables.count,
        mfn_list=mfn_list,
        mod_start=mod_start if layout.initrd.count else 0,
        first_p2m_pfn=layout.p2m_tables.first if kernel.p2m_base is not None else 0,
        nr_p2m_frames=layout.p2m_tables.count + layout.p2m.count if kernel.p2m_base is not None else 0,
    )


def _write_boot_pages(
    hypervisor: Hypervisor,
    domain_id: int,
    kernel: PvKernel,
    layout: Layout,
    frames: Frames,
    start: StartInfo,
) -> None:
    tables = kernel_tables(layout, kernel.virtual_base, frames)
    p2m = np.zeros(layout.p2m.count * PAGE_SIZE // 8, dtype=np.uint64)
    p2m[: layout.pages] = frames
    # Behind its end the list holds INVALID_P2M_ENTRY (~0), not frame 0, which is somebody's.
    p2m[layout.pages :] = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    if kernel.p2m_base is not None:
        own, index, entry = p2m_tables(layout, kernel.p2m_base, frames)
        tables[0][index] = entry
        write_frames(
            hypervisor,
            domain_id,
            frames[layout.p2m_tables.first : layout.p2m_tables.end],
            own.reshape(-1).view(np.uint8),
        )
    write_frames(hypervisor, domain_id, frames[layout.p2m.first : layout.p2m.end], p2m.view(np.uint8))
    boot = layout.boot
    with hypervisor.map_frames(domain_id, frames[boot.first : boot.end]) as pages:
        target = pages.array()
        target[:] = 0
        info = np.frombuffer(bytes(start), dtype=np.uint8)
        target[: len(info)] = info
        offset = (layout.tables.first - boot.first) << PAGE_SHIFT
        target[offset : offset + tables.nbytes] = tables.reshape(-1).view(np.uint8)
        del target


def _init_shared_info(hypervisor: Hypervisor, domain_id: int, frame: int) -> None:
    shared = SharedInfo()
    for vcpu in range(XEN_LEGACY_MAX_VCPUS):
        shared.vcpu_info[vcpu].evtchn_upcall_mask = 1  # no upcalls before the kernel asks for them
    write_frames(
        hypervisor, domain_id, np.array([frame], dtype=np.uint64), np.frombuffer(bytes(shared), dtype=np.uint8)
    )


def _first_context(kernel: PvKernel, layout: Layout, l4_frame: int) -> VcpuGuestContext:
    base = kernel.virtual_base
    context = VcpuGuestContext()
    stack_top = base + ((layout.stack + 1) << PAGE_SHIFT)
    registers = context.user_regs
    registers.rip = kernel.entry
    registers.rsp = stack_top
    registers.rsi = base + (layout.start_info << PAGE_SHIFT)
    registers.rflags = EFLAGS_IF
    registers.cs = FLAT_RING3_CS64
    for selector in ("ss", "ds", "es", "fs", "gs"):
        setattr(registers, selector, FLAT_RING3_SS64)
    context.kernel_ss = FLAT_RING3_SS64
    context.kernel_sp = stack_top
    context.flags = VGCF_IN_KERNEL | VGCF_ONLINE
    context.ctrlreg[3] = l4_frame << PAGE_SHIFT
    context.debugreg[6] = 0xFFFF_0FF0
    context.debugreg[7] = 0x0000_0400
    return context
