"""Layouts and numbers of Xen's ``public/sysctl.h``, interface version 0x15 (Xen 4.18 to 4.20)."""

from __future__ import annotations

import ctypes

XEN_SYSCTL_INTERFACE_VERSION = 0x15

XEN_SYSCTL_READCONSOLE = 1
XEN_SYSCTL_PHYSINFO = 3
XEN_SYSCTL_SCHED_ID = 4
XEN_SYSCTL_GETDOMAININFOLIST = 6

XEN_SYSCTL_PHYSCAP_HVM = 1 << 0
XEN_SYSCTL_PHYSCAP_PV = 1 << 1
XEN_SYSCTL_PHYSCAP_DIRECTIO = 1 << 2
XEN_SYSCTL_PHYSCAP_HAP = 1 << 3
XEN_SYSCTL_PHYSCAP_SHADOW = 1 << 4
XEN_SYSCTL_PHYSCAP_GNTTAB_V1 = 1 << 8
XEN_SYSCTL_PHYSCAP_GNTTAB_V2 = 1 << 9

# public/domctl.h
XEN_SCHEDULER_CREDIT = 5
XEN_SCHEDULER_CREDIT2 = 6
XEN_SCHEDULER_ARINC653 = 7
XEN_SCHEDULER_RTDS = 8
XEN_SCHEDULER_NULL = 9


class SysctlReadconsole(ctypes.Structure):
    """``struct xen_sysctl_readconsole``."""

    _fields_ = (
        ("clear", ctypes.c_uint8),
        ("incremental", ctypes.c_uint8),
        ("pad0", ctypes.c_uint8),
        ("pad1", ctypes.c_uint8),
        ("index", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("count", ctypes.c_uint32),
    )


class SysctlPhysinfo(ctypes.Structure):
    """``struct xen_sysctl_physinfo``."""

    _fields_ = (
        ("threads_per_core", ctypes.c_uint32),
        ("cores_per_socket", ctypes.c_uint32),
        ("nr_cpus", ctypes.c_uint32),
        ("max_cpu_id", ctypes.c_uint32),
        ("nr_nodes", ctypes.c_uint32),
        ("max_node_id", ctypes.c_uint32),
        ("cpu_khz", ctypes.c_uint32),
        ("capabilities", ctypes.c_uint32),
        ("arch_capabilities", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("total_pages", ctypes.c_uint64),
        ("free_pages", ctypes.c_uint64),
        ("scrub_pages", ctypes.c_uint64),
        ("outstanding_pages", ctypes.c_uint64),
        ("max_mfn", ctypes.c_uint64),
        ("hw_cap", ctypes.c_uint32 * 8),
    )


class SysctlSchedId(ctypes.Structure):
    """``struct xen_sysctl_sched_id``."""

    _fields_ = (("sched_id", ctypes.c_uint32),)


class SysctlGetdomaininfolist(ctypes.Structure):
    """``struct xen_sysctl_getdomaininfolist``; ``buffer`` points to ``DomctlGetdomaininfo`` entries."""

    _fields_ = (
        ("first_domain", ctypes.c_uint16),
        ("max_domains", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("num_domains", ctypes.c_uint32),
    )


class SysctlUnion(ctypes.Union):
    """The union ``u`` of ``struct xen_sysctl``."""

    _fields_ = (
        ("readconsole", SysctlReadconsole),
        ("physinfo", SysctlPhysinfo),
        ("sched_id", SysctlSchedId),
        ("getdomaininfolist", SysctlGetdomaininfolist),
        ("pad", ctypes.c_uint8 * 128),
    )


class Sysctl(ctypes.Structure):
    """``struct xen_sysctl``."""

    _fields_ = (("cmd", ctypes.c_uint32), ("interface_version", ctypes.c_uint32), ("u", SysctlUnion))
