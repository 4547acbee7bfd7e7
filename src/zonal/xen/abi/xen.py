"""Layouts and numbers of Xen's ``public/xen.h`` and ``public/arch-x86/xen.h`` (64-bit)."""

from __future__ import annotations

import ctypes

HYPERVISOR_MEMORY_OP = 12
HYPERVISOR_XEN_VERSION = 17
HYPERVISOR_CONSOLE_IO = 18
HYPERVISOR_MMUEXT_OP = 26
HYPERVISOR_EVENT_CHANNEL_OP = 32
HYPERVISOR_SYSCTL = 35
HYPERVISOR_DOMCTL = 36

DOMID_SELF = 0x7FF0
DOMID_FIRST_RESERVED = 0x7FF0
DOMID_IO = 0x7FF1
"""Stands for the machine's input and output; it holds devices that no domain has."""

MMUEXT_PIN_L4_TABLE = 3

SIF_MOD_START_PFN = 1 << 3
SIF_VIRT_P2M_4TOOLS = 1 << 4
MAX_GUEST_CMDLINE = 1024
XEN_LEGACY_MAX_VCPUS = 32

FLAT_RING3_CS64 = 0xE033
FLAT_RING3_SS64 = 0xE02B

VGCF_IN_KERNEL = 1 << 2
VGCF_ONLINE = 1 << 5

HYPERVISOR_VIRT_START = 0xFFFF_8000_0000_0000
HYPERVISOR_VIRT_END = 0xFFFF_8800_0000_0000


class MmuextOp(ctypes.Structure):
    """``struct mmuext_op``; ``arg1`` is a frame number or a linear address, ``arg2`` depends on the command."""

    _fields_ = (("cmd", ctypes.c_uint), ("arg1", ctypes.c_uint64), ("arg2", ctypes.c_uint64))


class XenctlBitmap(ctypes.Structure):
    """``struct xenctl_bitmap``; ``bitmap`` points to bytes, the lowest bit first."""

    _fields_ = (("bitmap", ctypes.c_uint64), ("nr_bits", ctypes.c_uint32))


class StartInfo(ctypes.Structure):
    """``struct start_info``: what a PV kernel finds at the address in %rsi when it starts."""

    _fields_ = (
        ("magic", ctypes.c_char * 32),
        ("nr_pages", ctypes.c_uint64),
        ("shared_info", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("store_mfn", ctypes.c_uint64),
        ("store_evtchn", ctypes.c_uint32),
        ("console_mfn", ctypes.c_uint64),
        ("console_evtchn", ctypes.c_uint32),
        ("pt_base", ctypes.c_uint64),
        ("nr_pt_frames", ctypes.c_uint64),
        ("mfn_list", ctypes.c_uint64),
        ("mod_start", ctypes.c_uint64),
        ("mod_len", ctypes.c_uint64),
        ("cmd_line", ctypes.c_char * MAX_GUEST_CMDLINE),
        ("first_p2m_pfn", ctypes.c_uint64),
        ("nr_p2m_frames", ctypes.c_uint64),
    )


class VcpuInfo(ctypes.Structure):
    """``struct vcpu_info``, 64 bytes; of its time only the size matters here."""

    _fields_ = (
        ("evtchn_upcall_pending", ctypes.c_uint8),
        ("evtchn_upcall_mask", ctypes.c_uint8),
        ("evtchn_pending_sel", ctypes.c_uint64),
        ("arch_cr2", ctypes.c_uint64),
        ("arch_pad", ctypes.c_uint64),
        ("time", ctypes.c_uint8 * 32),
    )


class ArchSharedInfo(ctypes.Structure):
    """``struct arch_shared_info``."""

    _fields_ = (
        ("max_pfn", ctypes.c_uint64),
        ("pfn_to_mfn_frame_list_list", ctypes.c_uint64),
        ("nmi_reason", ctypes.c_uint64),
        ("p2m_cr3", ctypes.c_uint64),
        ("p2m_vaddr", ctypes.c_uint64),
        ("p2m_generation", ctypes.c_uint64),
    )


class SharedInfo(ctypes.Structure):
    """``struct shared_info``."""

    _fields_ = (
        ("vcpu_info", VcpuInfo * XEN_LEGACY_MAX_VCPUS),
        ("evtchn_pending", ctypes.c_uint64 * 64),
        ("evtchn_mask", ctypes.c_uint64 * 64),
        ("wc_version", ctypes.c_uint32),
        ("wc_sec", ctypes.c_uint32),
        ("wc_nsec", ctypes.c_uint32),
        ("wc_sec_hi", ctypes.c_uint32),
        ("arch", ArchSharedInfo),
    )


class CpuUserRegs(ctypes.Structure):
    """``struct cpu_user_regs`` of ``arch-x86/xen-x86_64.h``; a selector and its padding share eight bytes."""

    _fields_ = (
        *((name, ctypes.c_uint64) for name in ("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8")),
        *((name, ctypes.c_uint64) for name in ("rax", "rcx", "rdx", "rsi", "rdi")),
        ("error_code", ctypes.c_uint32),
        ("entry_vector", ctypes.c_uint32),
        ("rip", ctypes.c_uint64),
        ("cs", ctypes.c_uint16),
        ("pad0", ctypes.c_uint16),
        ("saved_upcall_mask", ctypes.c_uint8),
        ("pad1", ctypes.c_uint8 * 3),
        ("rflags", ctypes.c_uint64),
        ("rsp", ctypes.c_uint64),
        *((name, ctypes.c_uint64) for name in ("ss", "es", "ds", "fs", "gs")),
    )


class TrapInfo(ctypes.Structure):
    """``struct trap_info``."""

    _fields_ = (
        ("vector", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("cs", ctypes.c_uint16),
        ("address", ctypes.c_uint64),
    )


class VcpuGuestContext(ctypes.Structure):
    """``struct vcpu_guest_context``: the whole state in which a PV vCPU starts."""

    _fields_ = (
        ("fpu_ctxt", ctypes.c_uint8 * 512),
        ("flags", ctypes.c_uint64),
        ("user_regs", CpuUserRegs),
        ("trap_ctxt", TrapInfo * 256),
        ("ldt_base", ctypes.c_uint64),
        ("ldt_ents", ctypes.c_uint64),
        ("gdt_frames", ctypes.c_uint64 * 16),
        ("gdt_ents", ctypes.c_uint64),
        ("kernel_ss", ctypes.c_uint64),
        ("kernel_sp", ctypes.c_uint64),
        ("ctrlreg", ctypes.c_uint64 * 8),
        ("debugreg", ctypes.c_uint64 * 8),
        ("event_callback_eip", ctypes.c_uint64),
        ("failsafe_callback_eip", ctypes.c_uint64),
        ("syscall_callback_eip", ctypes.c_uint64),
        ("vm_assist", ctypes.c_uint64),
        ("fs_base", ctypes.c_uint64),
        ("gs_base_kernel", ctypes.c_uint64),
        ("gs_base_user", ctypes.c_uint64),
    )
