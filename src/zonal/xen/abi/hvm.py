"""Layouts and numbers for PVH: ``public/hvm/*.h`` and ``public/arch-x86/hvm/{start_info,save}.h``."""

from __future__ import annotations

import ctypes
from typing import TypeVar

HYPERVISOR_HVM_OP = 34
HVMOP_SET_PARAM = 0

HVM_PARAM_STORE_PFN = 1
HVM_PARAM_STORE_EVTCHN = 2
HVM_PARAM_IDENT_PT = 12
HVM_PARAM_CONSOLE_PFN = 17
HVM_PARAM_CONSOLE_EVTCHN = 18
HVM_PARAM_TRIPLE_FAULT_REASON = 31

XEN_HVM_START_MAGIC_VALUE = 0x336EC578
XEN_HVM_START_VERSION = 1
XEN_HVM_MEMMAP_TYPE_RAM = 1
XEN_HVM_MEMMAP_TYPE_RESERVED = 2
XEN_HVM_MEMMAP_TYPE_ACPI = 3

HVM_SAVE_END = 0
HVM_SAVE_HEADER = 1
HVM_SAVE_CPU = 2
HVM_SAVE_MTRR = 14
MTRR_WRITE_BACK = 6
MTRR_ENABLE = 1 << 11
"""Of IA32_MTRR_DEF_TYPE (Intel SDM, volume 3, 12.11.2.1)."""


class HvmParam(ctypes.Structure):
    """``struct xen_hvm_param``."""

    _fields_ = (
        ("domid", ctypes.c_uint16),
        ("pad", ctypes.c_uint16),
        ("index", ctypes.c_uint32),
        ("value", ctypes.c_uint64),
    )


class HvmStartInfo(ctypes.Structure):
    """``struct hvm_start_info``: what a PVH kernel finds at the address in %ebx; addresses are physical."""

    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("version", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("nr_modules", ctypes.c_uint32),
        ("modlist_paddr", ctypes.c_uint64),
        ("cmdline_paddr", ctypes.c_uint64),
        ("rsdp_paddr", ctypes.c_uint64),
        ("memmap_paddr", ctypes.c_uint64),
        ("memmap_entries", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class HvmModlistEntry(ctypes.Structure):
    """``struct hvm_modlist_entry``: an initrd."""

    _fields_ = (
        ("paddr", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("cmdline_paddr", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
    )


class HvmMemmapTableEntry(ctypes.Structure):
    """``struct hvm_memmap_table_entry``; sizes in bytes."""

    _fields_ = (
        ("addr", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("type", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
    )


class HvmSaveDescriptor(ctypes.Structure):
    """``struct hvm_save_descriptor``: goes before each record; ``length`` in bytes, without itself."""

    _fields_ = (("typecode", ctypes.c_uint16), ("instance", ctypes.c_uint16), ("length", ctypes.c_uint32))


_Integer = TypeVar("_Integer", type[ctypes.c_uint32], type[ctypes.c_uint64])


def _each(prefix: str, names: str, suffix: str, kind: _Integer) -> list[tuple[str, _Integer]]:
    return [(f"{prefix}{name}{suffix}", kind) for name in names.split()]


class HvmHwCpu(ctypes.Structure):
    """``struct hvm_hw_cpu``: the registers of a vCPU."""

    _fields_ = (
        ("fpu_regs", ctypes.c_uint8 * 512),
        *_each("r", "ax bx cx dx bp si di sp 8 9 10 11 12 13 14 15 ip flags", "", ctypes.c_uint64),
        *_each("cr", "0 2 3 4", "", ctypes.c_uint64),
        *_each("dr", "0 1 2 3 6 7", "", ctypes.c_uint64),
        *_each("", "cs ds es fs gs ss tr ldtr", "_sel", ctypes.c_uint32),
        *_each("", "cs ds es fs gs ss tr ldtr idtr gdtr", "_limit", ctypes.c_uint32),
        *_each("", "cs ds es fs gs ss tr ldtr idtr gdtr", "_base", ctypes.c_uint64),
        *_each("", "cs ds es fs gs ss tr ldtr", "_arbytes", ctypes.c_uint32),
        *_each("sysenter_", "cs esp eip", "", ctypes.c_uint64),
        ("shadow_gs", ctypes.c_uint64),
        *_each("msr_", "flags lstar star cstar syscall_mask efer tsc_aux", "", ctypes.c_uint64),
        ("tsc", ctypes.c_uint64),
        ("pending_event", ctypes.c_uint32),
        ("error_code", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad0", ctypes.c_uint32),
    )


class HvmHwMtrr(ctypes.Structure):
    """``struct hvm_hw_mtrr``: which memory may be cached, and how."""

    _fields_ = (
        ("msr_pat_cr", ctypes.c_uint64),
        ("msr_mtrr_var", ctypes.c_uint64 * 16),
        ("msr_mtrr_fixed", ctypes.c_uint64 * 11),
        ("msr_mtrr_cap", ctypes.c_uint64),
        ("msr_mtrr_def_type", ctypes.c_uint64),
    )
