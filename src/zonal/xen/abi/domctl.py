"""Layouts and numbers of Xen's ``public/domctl.h``, interface version 0x17 (Xen 4.19 and 4.20)."""

from __future__ import annotations

import ctypes

from zonal.xen.abi.xen import XenctlBitmap

XEN_DOMCTL_INTERFACE_VERSION = 0x17

XEN_DOMCTL_CREATEDOMAIN = 1
XEN_DOMCTL_DESTROYDOMAIN = 2
XEN_DOMCTL_PAUSEDOMAIN = 3
XEN_DOMCTL_UNPAUSEDOMAIN = 4
XEN_DOMCTL_GETDOMAININFO = 5
XEN_DOMCTL_SETVCPUAFFINITY = 9
XEN_DOMCTL_MAX_MEM = 11
XEN_DOMCTL_SETVCPUCONTEXT = 12
XEN_DOMCTL_MAX_VCPUS = 15
XEN_DOMCTL_SCHEDULER_OP = 16
XEN_DOMCTL_SETDOMAINHANDLE = 17
XEN_DOMCTL_IRQ_PERMISSION = 19
XEN_DOMCTL_IOMEM_PERMISSION = 20
XEN_DOMCTL_IOPORT_PERMISSION = 21
XEN_DOMCTL_HYPERCALL_INIT = 22
XEN_DOMCTL_GETVCPUAFFINITY = 25
XEN_DOMCTL_GETHVMCONTEXT = 33
XEN_DOMCTL_SETHVMCONTEXT = 34
XEN_DOMCTL_ASSIGN_DEVICE = 37
XEN_DOMCTL_TEST_ASSIGN_DEVICE = 45
XEN_DOMCTL_DEASSIGN_DEVICE = 47
XEN_DOMCTL_SETTSCINFO = 60
XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE = 86

XEN_DOMINF_DYING = 1 << 0
XEN_DOMINF_SHUTDOWN = 1 << 2
XEN_DOMINF_PAUSED = 1 << 3
XEN_DOMINF_BLOCKED = 1 << 4
XEN_DOMINF_RUNNING = 1 << 5
XEN_DOMINF_SHUTDOWNSHIFT = 16
XEN_DOMINF_SHUTDOWNMASK = 255

# public/sched.h: why a domain has shut down.
SHUTDOWN_POWEROFF = 0
SHUTDOWN_REBOOT = 1
SHUTDOWN_SUSPEND = 2
SHUTDOWN_CRASH = 3
SHUTDOWN_WATCHDOG = 4

TSC_MODE_NEVER_EMULATE = 2

XEN_SCHEDULER_CREDIT2 = 6
XEN_DOMCTL_SCHEDOP_PUTINFO = 0
XEN_DOMCTL_SCHEDOP_GETINFO = 1
XEN_VCPUAFFINITY_HARD = 1 << 0
XEN_DOMCTL_CDF_HVM = 1 << 0
XEN_DOMCTL_CDF_HAP = 1 << 1
XEN_DOMCTL_CDF_IOMMU = 1 << 5
XEN_DOMCTL_DEV_RDM_RELAXED = 1
DOMID_INVALID = 0x7FF4
"""Stands for no domain (``public/xen.h``)."""

XEN_X86_EMU_LAPIC = 1 << 0
"""The one emulated device that a PVH domain has (``public/arch-x86/xen.h``)."""
XEN_X86_EMU_PIT = 1 << 8
"""The one emulated device that a PV domain may have (``public/arch-x86/xen.h``)."""


class DomctlCreatedomain(ctypes.Structure):
    """``struct xen_domctl_createdomain``; negative frame limits mean the hypervisor's default."""

    _fields_ = (
        ("ssidref", ctypes.c_uint32),
        ("handle", ctypes.c_uint8 * 16),
        ("flags", ctypes.c_uint32),
        ("iommu_opts", ctypes.c_uint32),
        ("max_vcpus", ctypes.c_uint32),
        ("max_evtchn_port", ctypes.c_uint32),
        ("max_grant_frames", ctypes.c_int32),
        ("max_maptrack_frames", ctypes.c_int32),
        ("grant_opts", ctypes.c_uint32),
        ("altp2m_opts", ctypes.c_uint32),
        ("vmtrace_size", ctypes.c_uint32),
        ("cpupool_id", ctypes.c_uint32),
        ("emulation_flags", ctypes.c_uint32),
        ("misc_flags", ctypes.c_uint32),
    )


class DomctlGetdomaininfo(ctypes.Structure):
    """``struct xen_domctl_getdomaininfo``."""

    _fields_ = (
        ("domain", ctypes.c_uint16),
        ("pad1", ctypes.c_uint16),
        ("flags", ctypes.c_uint32),
        ("tot_pages", ctypes.c_uint64),
        ("max_pages", ctypes.c_uint64),
        ("outstanding_pages", ctypes.c_uint64),
        ("shr_pages", ctypes.c_uint64),
        ("paged_pages", ctypes.c_uint64),
        ("shared_info_frame", ctypes.c_uint64),
        ("cpu_time", ctypes.c_uint64),
        ("nr_online_vcpus", ctypes.c_uint32),
        ("max_vcpu_id", ctypes.c_uint32),
        ("ssidref", ctypes.c_uint32),
        ("handle", ctypes.c_uint8 * 16),
        ("cpupool", ctypes.c_uint32),
        ("gpaddr_bits", ctypes.c_uint8),
        ("pad2", ctypes.c_uint8 * 7),
        ("emulation_flags", ctypes.c_uint32),
        ("misc_flags", ctypes.c_uint32),
    )


class DomctlSetdomainhandle(ctypes.Structure):
    """``struct xen_domctl_setdomainhandle``."""

    _fields_ = (("handle", ctypes.c_uint8 * 16),)


class DomctlMaxMem(ctypes.Structure):
    """``struct xen_domctl_max_mem``, in KiB."""

    _fields_ = (("max_memkb", ctypes.c_uint64),)


class DomctlVcpucontext(ctypes.Structure):
    """``struct xen_domctl_vcpucontext``; ``ctxt`` points to a ``vcpu_guest_context``."""

    _fields_ = (("vcpu", ctypes.c_uint32), ("ctxt", ctypes.c_uint64))


class DomctlMaxVcpus(ctypes.Structure):
    """``struct xen_domctl_max_vcpus``."""

    _fields_ = (("max", ctypes.c_uint32),)


class DomctlHypercallInit(ctypes.Structure):
    """``struct xen_domctl_hypercall_init``."""

    _fields_ = (("gmfn", ctypes.c_uint64),)


class DomctlHvmcontext(ctypes.Structure):
    """``struct xen_domctl_hvmcontext``; ``buffer`` points to ``size`` bytes of records."""

    _fields_ = (("size", ctypes.c_uint32), ("buffer", ctypes.c_uint64))


class DomctlPagingMempool(ctypes.Structure):
    """``struct xen_domctl_paging_mempool``, in bytes."""

    _fields_ = (("size", ctypes.c_uint64),)


class DomctlTscInfo(ctypes.Structure):
    """``struct xen_domctl_tsc_info``."""

    _fields_ = (
        ("tsc_mode", ctypes.c_uint32),
        ("gtsc_khz", ctypes.c_uint32),
        ("incarnation", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("elapsed_nsec", ctypes.c_uint64),
    )


class DomctlVcpuaffinity(ctypes.Structure):
    """``struct xen_domctl_vcpuaffinity``."""

    _fields_ = (
        ("vcpu", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpumap_hard", XenctlBitmap),
        ("cpumap_soft", XenctlBitmap),
    )


class DomctlSchedCredit2(ctypes.Structure):
    """``struct xen_domctl_sched_credit2``; ``cap`` in per cent of one CPU, 0 for none."""

    _fields_ = (("weight", ctypes.c_uint16), ("cap", ctypes.c_uint16))


class DomctlSchedulerUnion(ctypes.Union):
    """The union ``u`` of ``struct xen_domctl_scheduler_op``."""

    _fields_ = (("credit2", DomctlSchedCredit2), ("pad", ctypes.c_uint64 * 2))


class DomctlSchedulerOp(ctypes.Structure):
    """``struct xen_domctl_scheduler_op``."""

    _fields_ = (("sched_id", ctypes.c_uint32), ("cmd", ctypes.c_uint32), ("u", DomctlSchedulerUnion))


class DomctlIrqPermission(ctypes.Structure):
    """``struct xen_domctl_irq_permission``."""

    _fields_ = (("pirq", ctypes.c_uint32), ("allow_access", ctypes.c_uint8), ("pad", ctypes.c_uint8 * 3))


class DomctlIomemPermission(ctypes.Structure):
    """``struct xen_domctl_iomem_permission``, in pages."""

    _fields_ = (("first_mfn", ctypes.c_uint64), ("nr_mfns", ctypes.c_uint64), ("allow_access", ctypes.c_uint8))


class DomctlIoportPermission(ctypes.Structure):
    """``struct xen_domctl_ioport_permission``."""

    _fields_ = (("first_port", ctypes.c_uint32), ("nr_ports", ctypes.c_uint32), ("allow_access", ctypes.c_uint8))


class DomctlAssignDevice(ctypes.Structure):
    """``struct xen_domctl_assign_device`` of a PCI function; its union has a longer member, for device trees."""

    _fields_ = (
        ("dev", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("machine_sbdf", ctypes.c_uint32),
        ("pad", ctypes.c_uint32 * 3),
    )


class DomctlUnion(ctypes.Union):
    """The union ``u`` of ``struct xen_domctl``."""

    _fields_ = (
        ("createdomain", DomctlCreatedomain),
        ("getdomaininfo", DomctlGetdomaininfo),
        ("max_mem", DomctlMaxMem),
        ("setdomainhandle", DomctlSetdomainhandle),
        ("vcpucontext", DomctlVcpucontext),
        ("max_vcpus", DomctlMaxVcpus),
        ("vcpuaffinity", DomctlVcpuaffinity),
        ("scheduler_op", DomctlSchedulerOp),
        ("hypercall_init", DomctlHypercallInit),
        ("tsc_info", DomctlTscInfo),
        ("hvmcontext", DomctlHvmcontext),
        ("paging_mempool", DomctlPagingMempool),
        ("irq_permission", DomctlIrqPermission),
        ("iomem_permission", DomctlIomemPermission),
        ("ioport_permission", DomctlIoportPermission),
        ("assign_device", DomctlAssignDevice),
        ("pad", ctypes.c_uint8 * 128),
    )


class Domctl(ctypes.Structure):
    """``struct xen_domctl``."""

    _fields_ = (
        ("cmd", ctypes.c_uint32),
        ("interface_version", ctypes.c_uint32),
        ("domain", ctypes.c_uint16),
        ("pad", ctypes.c_uint16 * 3),
        ("u", DomctlUnion),
    )
