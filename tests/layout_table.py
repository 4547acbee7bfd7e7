"""Which of our structures mirrors which of the public headers': what the layout tests compare."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

from zonal.xen.abi import domctl, event_channel, grant_table, hvm, memory, physdev, privcmd, sysctl, xen


@dataclass(frozen=True)
class Mirror:
    """``ours`` mirrors C's ``name``; ``renamed`` maps our field to C's, or to "" where C has none of its own."""

    ours: type[ctypes.Structure]
    name: str
    renamed: dict[str, str] = field(default_factory=dict[str, str])


STABLE_HEADERS = [
    *("xen/xen.h", "xen/memory.h", "xen/event_channel.h", "xen/grant_table.h", "xen/sys/privcmd.h"),
    "xen/physdev.h",
    *("xen/hvm/hvm_op.h", "xen/hvm/params.h", "xen/hvm/save.h", "xen/arch-x86/hvm/start_info.h"),
]
STABLE = [
    Mirror(privcmd.PrivcmdHypercall, "privcmd_hypercall_t"),
    Mirror(privcmd.PrivcmdMmapBatchV2, "privcmd_mmapbatch_v2_t"),
    Mirror(privcmd.PrivcmdMmapResource, "privcmd_mmap_resource_t"),
    Mirror(xen.MmuextOp, "struct mmuext_op"),
    Mirror(
        xen.StartInfo,
        "struct start_info",
        {"console_mfn": "console.domU.mfn", "console_evtchn": "console.domU.evtchn"},
    ),
    Mirror(xen.VcpuInfo, "struct vcpu_info", {"arch_cr2": "arch.cr2", "arch_pad": "arch.pad"}),
    Mirror(xen.ArchSharedInfo, "struct arch_shared_info"),
    Mirror(xen.SharedInfo, "struct shared_info"),
    Mirror(xen.CpuUserRegs, "struct cpu_user_regs", {"pad0": "", "pad1": ""}),
    Mirror(xen.TrapInfo, "struct trap_info"),
    Mirror(xen.VcpuGuestContext, "struct vcpu_guest_context"),
    Mirror(xen.XenctlBitmap, "struct xenctl_bitmap"),
    Mirror(memory.MemoryMap, "struct xen_memory_map"),
    Mirror(memory.ForeignMemoryMap, "struct xen_foreign_memory_map"),
    Mirror(memory.MemoryReservation, "struct xen_memory_reservation"),
    Mirror(memory.PodTarget, "struct xen_pod_target"),
    Mirror(hvm.HvmParam, "struct xen_hvm_param"),
    Mirror(hvm.HvmStartInfo, "struct hvm_start_info"),
    Mirror(hvm.HvmModlistEntry, "struct hvm_modlist_entry"),
    Mirror(hvm.HvmMemmapTableEntry, "struct hvm_memmap_table_entry"),
    Mirror(hvm.HvmSaveDescriptor, "struct hvm_save_descriptor"),
    Mirror(hvm.HvmHwCpu, "struct hvm_hw_cpu"),
    Mirror(hvm.HvmHwMtrr, "struct hvm_hw_mtrr"),
    Mirror(grant_table.GrantEntryV1, "struct grant_entry_v1"),
    Mirror(event_channel.EvtchnAllocUnbound, "struct evtchn_alloc_unbound"),
    Mirror(physdev.PhysdevMapPirq, "struct physdev_map_pirq"),
]
STABLE_NUMBERS = {
    "IOCTL_PRIVCMD_HYPERCALL": privcmd.IOCTL_PRIVCMD_HYPERCALL,
    "IOCTL_PRIVCMD_MMAPBATCH_V2": privcmd.IOCTL_PRIVCMD_MMAPBATCH_V2,
    "IOCTL_PRIVCMD_MMAP_RESOURCE": privcmd.IOCTL_PRIVCMD_MMAP_RESOURCE,
    "__HYPERVISOR_memory_op": xen.HYPERVISOR_MEMORY_OP,
    "__HYPERVISOR_xen_version": xen.HYPERVISOR_XEN_VERSION,
    "__HYPERVISOR_hvm_op": hvm.HYPERVISOR_HVM_OP,
    "HVMOP_set_param": hvm.HVMOP_SET_PARAM,
    "HVM_PARAM_STORE_PFN": hvm.HVM_PARAM_STORE_PFN,
    "HVM_PARAM_STORE_EVTCHN": hvm.HVM_PARAM_STORE_EVTCHN,
    "HVM_PARAM_IDENT_PT": hvm.HVM_PARAM_IDENT_PT,
    "HVM_PARAM_CONSOLE_PFN": hvm.HVM_PARAM_CONSOLE_PFN,
    "HVM_PARAM_CONSOLE_EVTCHN": hvm.HVM_PARAM_CONSOLE_EVTCHN,
    "HVM_PARAM_TRIPLE_FAULT_REASON": hvm.HVM_PARAM_TRIPLE_FAULT_REASON,
    "XEN_HVM_START_MAGIC_VALUE": hvm.XEN_HVM_START_MAGIC_VALUE,
    "XEN_HVM_MEMMAP_TYPE_RAM": hvm.XEN_HVM_MEMMAP_TYPE_RAM,
    "XEN_HVM_MEMMAP_TYPE_RESERVED": hvm.XEN_HVM_MEMMAP_TYPE_RESERVED,
    "XEN_HVM_MEMMAP_TYPE_ACPI": hvm.XEN_HVM_MEMMAP_TYPE_ACPI,
    "HVM_SAVE_CODE(END)": hvm.HVM_SAVE_END,
    "HVM_SAVE_CODE(HEADER)": hvm.HVM_SAVE_HEADER,
    "HVM_SAVE_CODE(CPU)": hvm.HVM_SAVE_CPU,
    "HVM_SAVE_CODE(MTRR)": hvm.HVM_SAVE_MTRR,
    "XENMEM_set_pod_target": memory.XENMEM_SET_POD_TARGET,
    "XENMEMF_populate_on_demand": memory.XENMEMF_POPULATE_ON_DEMAND,
    "__HYPERVISOR_mmuext_op": xen.HYPERVISOR_MMUEXT_OP,
    "__HYPERVISOR_event_channel_op": xen.HYPERVISOR_EVENT_CHANNEL_OP,
    "__HYPERVISOR_sysctl": xen.HYPERVISOR_SYSCTL,
    "__HYPERVISOR_domctl": xen.HYPERVISOR_DOMCTL,
    "DOMID_FIRST_RESERVED": xen.DOMID_FIRST_RESERVED,
    "DOMID_IO": xen.DOMID_IO,
    "DOMID_INVALID": domctl.DOMID_INVALID,
    "__HYPERVISOR_physdev_op": physdev.HYPERVISOR_PHYSDEV_OP,
    "PHYSDEVOP_map_pirq": physdev.PHYSDEVOP_MAP_PIRQ,
    "MAP_PIRQ_TYPE_GSI": physdev.MAP_PIRQ_TYPE_GSI,
    "MMUEXT_PIN_L4_TABLE": xen.MMUEXT_PIN_L4_TABLE,
    "SIF_MOD_START_PFN": xen.SIF_MOD_START_PFN,
    "SIF_VIRT_P2M_4TOOLS": xen.SIF_VIRT_P2M_4TOOLS,
    "MAX_GUEST_CMDLINE": xen.MAX_GUEST_CMDLINE,
    "XEN_LEGACY_MAX_VCPUS": xen.XEN_LEGACY_MAX_VCPUS,
    "FLAT_RING3_CS64": xen.FLAT_RING3_CS64,
    "FLAT_RING3_SS64": xen.FLAT_RING3_SS64,
    "VGCF_in_kernel": xen.VGCF_IN_KERNEL,
    "VGCF_online": xen.VGCF_ONLINE,
    "XENMEM_populate_physmap": memory.XENMEM_POPULATE_PHYSMAP,
    "XENMEM_set_memory_map": memory.XENMEM_SET_MEMORY_MAP,
    "XENMEM_resource_grant_table": memory.XENMEM_RESOURCE_GRANT_TABLE,
    "XENMEM_resource_grant_table_id_shared": memory.XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
    "GNTTAB_RESERVED_CONSOLE": grant_table.GNTTAB_RESERVED_CONSOLE,
    "GNTTAB_RESERVED_XENSTORE": grant_table.GNTTAB_RESERVED_XENSTORE,
    "GTF_permit_access": grant_table.GTF_PERMIT_ACCESS,
    "EVTCHNOP_alloc_unbound": event_channel.EVTCHNOP_ALLOC_UNBOUND,
}

CONTROL_HEADERS = ["xen/domctl.h", "xen/sysctl.h", "xen/sched.h"]
_EMULATION = {"emulation_flags": "arch_config.emulation_flags", "misc_flags": "arch_config.misc_flags"}
CONTROL = [
    Mirror(
        domctl.DomctlCreatedomain,
        "struct xen_domctl_createdomain",
        {"emulation_flags": "arch.emulation_flags", "misc_flags": "arch.misc_flags"},
    ),
    Mirror(domctl.DomctlGetdomaininfo, "struct xen_domctl_getdomaininfo", _EMULATION),
    Mirror(domctl.DomctlMaxMem, "struct xen_domctl_max_mem"),
    Mirror(domctl.DomctlVcpucontext, "struct xen_domctl_vcpucontext"),
    Mirror(domctl.DomctlMaxVcpus, "struct xen_domctl_max_vcpus"),
    Mirror(domctl.DomctlHypercallInit, "struct xen_domctl_hypercall_init"),
    Mirror(domctl.DomctlTscInfo, "struct xen_domctl_tsc_info"),
    Mirror(domctl.DomctlHvmcontext, "struct xen_domctl_hvmcontext"),
    Mirror(domctl.DomctlPagingMempool, "struct xen_domctl_paging_mempool"),
    Mirror(domctl.DomctlIrqPermission, "struct xen_domctl_irq_permission"),
    Mirror(domctl.DomctlIomemPermission, "struct xen_domctl_iomem_permission"),
    Mirror(domctl.DomctlIoportPermission, "struct xen_domctl_ioport_permission"),
    Mirror(
        domctl.DomctlAssignDevice,
        "struct xen_domctl_assign_device",
        {"machine_sbdf": "u.pci.machine_sbdf", "pad": ""},
    ),
    Mirror(domctl.DomctlVcpuaffinity, "struct xen_domctl_vcpuaffinity"),
    Mirror(domctl.DomctlSchedCredit2, "struct xen_domctl_sched_credit2"),
    Mirror(domctl.DomctlSchedulerOp, "struct xen_domctl_scheduler_op"),
    Mirror(domctl.Domctl, "struct xen_domctl", {"pad": "_pad"}),
    Mirror(sysctl.SysctlReadconsole, "struct xen_sysctl_readconsole"),
    Mirror(sysctl.SysctlPhysinfo, "struct xen_sysctl_physinfo"),
    Mirror(sysctl.SysctlSchedId, "struct xen_sysctl_sched_id"),
    Mirror(sysctl.SysctlGetdomaininfolist, "struct xen_sysctl_getdomaininfolist"),
    Mirror(sysctl.Sysctl, "struct xen_sysctl"),
]
CONTROL_NUMBERS = {
    "XEN_DOMCTL_INTERFACE_VERSION": domctl.XEN_DOMCTL_INTERFACE_VERSION,
    "XEN_SYSCTL_INTERFACE_VERSION": sysctl.XEN_SYSCTL_INTERFACE_VERSION,
    **{
        f"XEN_DOMCTL_{name}": getattr(domctl, f"XEN_DOMCTL_{name.upper()}")
        for name in (
            "createdomain",
            "destroydomain",
            "pausedomain",
            "unpausedomain",
            "getdomaininfo",
            "max_mem",
            "setvcpuaffinity",
            "getvcpuaffinity",
            "scheduler_op",
            "SCHEDOP_putinfo",
            "SCHEDOP_getinfo",
            "setvcpucontext",
            "max_vcpus",
            "hypercall_init",
            "gethvmcontext",
            "sethvmcontext",
            "settscinfo",
            "set_paging_mempool_size",
            "irq_permission",
            "iomem_permission",
            "ioport_permission",
            "assign_device",
            "test_assign_device",
            "deassign_device",
        )
    },
    "XEN_SCHEDULER_CREDIT2": domctl.XEN_SCHEDULER_CREDIT2,
    "XEN_VCPUAFFINITY_HARD": domctl.XEN_VCPUAFFINITY_HARD,
    "XEN_DOMINF_dying": domctl.XEN_DOMINF_DYING,
    "XEN_DOMINF_shutdown": domctl.XEN_DOMINF_SHUTDOWN,
    "XEN_DOMINF_paused": domctl.XEN_DOMINF_PAUSED,
    "XEN_DOMINF_blocked": domctl.XEN_DOMINF_BLOCKED,
    "XEN_DOMINF_running": domctl.XEN_DOMINF_RUNNING,
    "XEN_DOMINF_shutdownshift": domctl.XEN_DOMINF_SHUTDOWNSHIFT,
    "XEN_DOMINF_shutdownmask": domctl.XEN_DOMINF_SHUTDOWNMASK,
    "XEN_DOMCTL_CDF_hvm": domctl.XEN_DOMCTL_CDF_HVM,
    "XEN_DOMCTL_CDF_hap": domctl.XEN_DOMCTL_CDF_HAP,
    "XEN_DOMCTL_CDF_iommu": domctl.XEN_DOMCTL_CDF_IOMMU,
    "XEN_DOMCTL_DEV_RDM_RELAXED": domctl.XEN_DOMCTL_DEV_RDM_RELAXED,
    "XEN_X86_EMU_LAPIC": domctl.XEN_X86_EMU_LAPIC,
    "XEN_X86_EMU_PIT": domctl.XEN_X86_EMU_PIT,
    "SHUTDOWN_poweroff": domctl.SHUTDOWN_POWEROFF,
    "SHUTDOWN_crash": domctl.SHUTDOWN_CRASH,
    "XEN_SYSCTL_readconsole": sysctl.XEN_SYSCTL_READCONSOLE,
    "XEN_SYSCTL_physinfo": sysctl.XEN_SYSCTL_PHYSINFO,
    "XEN_SYSCTL_sched_id": sysctl.XEN_SYSCTL_SCHED_ID,
    "XEN_SYSCTL_getdomaininfolist": sysctl.XEN_SYSCTL_GETDOMAININFOLIST,
    **{
        f"XEN_SYSCTL_PHYSCAP_{name}": getattr(sysctl, f"XEN_SYSCTL_PHYSCAP_{name.upper()}")
        for name in ("hvm", "pv", "directio", "hap", "shadow", "gnttab_v1", "gnttab_v2")
    },
    **{
        f"XEN_SCHEDULER_{name}": getattr(sysctl, f"XEN_SCHEDULER_{name}")
        for name in ("CREDIT", "CREDIT2", "ARINC653", "RTDS", "NULL")
    },
}


def expressions(mirrors: list[Mirror]) -> dict[str, int]:
    """Each C expression that must hold for our layouts, and its value by them."""
    expected: dict[str, int] = {}
    for mirror in mirrors:
        expected[f"sizeof({mirror.name})"] = ctypes.sizeof(mirror.ours)
        for entry in mirror.ours._fields_:
            name = mirror.renamed.get(entry[0], entry[0])
            if name:
                expected[f"offsetof({mirror.name}, {name})"] = getattr(mirror.ours, entry[0]).offset
    return expected
