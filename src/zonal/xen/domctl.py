"""Controlling domains: create, configure, start, look at, destroy (``public/domctl.h``, ``public/sysctl.h``)."""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from zonal.errors import ResourceExhaustedError, UnavailableError
from zonal.xen.abi import domctl as abi
from zonal.xen.abi import hvm, sysctl
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.abi.version import (
    XEN_CAPABILITIES_INFO_LEN,
    XEN_EXTRAVERSION_LEN,
    XENVER_CAPABILITIES,
    XENVER_EXTRAVERSION,
    XENVER_VERSION,
)
from zonal.xen.abi.xen import (
    DOMID_FIRST_RESERVED,
    HYPERVISOR_DOMCTL,
    HYPERVISOR_SYSCTL,
    HYPERVISOR_XEN_VERSION,
    VcpuGuestContext,
)
from zonal.xen.hypercall import HypercallError, Hypervisor
from zonal.xen.virt import Virt

MAX_LISTED_DOMAINS = 1024
"""Domains asked for in one hypercall; a longer list takes several."""


@dataclass(frozen=True)
class DomainLimits:
    """What a domain may at most use of the hypervisor's own memory.

    ``maptrack_frames`` is how many pages of bookkeeping it may have for grants that it maps itself: none for a zone
    that serves nobody.
    """

    event_channels: int = 1023
    grant_frames: int = 64
    maptrack_frames: int = 0


@dataclass(frozen=True)
class DomainInfo:
    """What the hypervisor says of a domain: ``struct xen_domctl_getdomaininfo``."""

    domain_id: int
    handle: bytes
    flags: int
    total_pages: int
    max_pages: int
    shared_info_frame: int
    cpu_time_ns: int
    online_vcpus: int
    max_vcpu_id: int

    @property
    def dying(self) -> bool:
        """Being destroyed; its memory may still be in use by others."""
        return bool(self.flags & abi.XEN_DOMINF_DYING)

    @property
    def paused(self) -> bool:
        """Paused by control software."""
        return bool(self.flags & abi.XEN_DOMINF_PAUSED)

    @property
    def shutdown_reason(self) -> int | None:
        """``SHUTDOWN_*`` of ``public/sched.h`` once the domain has shut itself down, or None."""
        return shutdown_reason(self.flags)


def shutdown_reason(flags: int) -> int | None:
    """``SHUTDOWN_*`` in the flags of a domain that has shut itself down, or None."""
    if not flags & abi.XEN_DOMINF_SHUTDOWN:
        return None
    return (flags >> abi.XEN_DOMINF_SHUTDOWNSHIFT) & abi.XEN_DOMINF_SHUTDOWNMASK


@dataclass(frozen=True)
class PhysicalInfo:
    """The machine under the hypervisor."""

    cpus: int
    max_cpu_id: int
    total_bytes: int
    free_bytes: int


def xen_version(hypervisor: Hypervisor) -> str:
    """The hypervisor's version, such as "4.20.4"."""
    number = hypervisor.call("xen_version", HYPERVISOR_XEN_VERSION, XENVER_VERSION)
    with hypervisor.buffer(XEN_EXTRAVERSION_LEN) as buffer:
        hypervisor.call("xen_version", HYPERVISOR_XEN_VERSION, XENVER_EXTRAVERSION, buffer.address)
        extra = bytes(buffer.view()).split(b"\0", 1)[0].decode("ascii", "replace")
    return f"{number >> 16}.{number & 0xFFFF}{extra}"


def xen_capabilities(hypervisor: Hypervisor) -> str:
    """The kinds of domain that it runs, such as "xen-3.0-x86_64 hvm-3.0-x86_64"."""
    with hypervisor.buffer(XEN_CAPABILITIES_INFO_LEN) as buffer:
        hypervisor.call("xen_version", HYPERVISOR_XEN_VERSION, XENVER_CAPABILITIES, buffer.address)
        return bytes(buffer.view()).split(b"\0", 1)[0].decode("ascii", "replace").strip()


def check_interface(hypervisor: Hypervisor) -> None:
    """Raises ``UnavailableError`` when this hypervisor speaks another version of domctl or sysctl than we do."""
    try:
        physical_info(hypervisor)
        list_domains(hypervisor, first=0, most=1)
    except HypercallError as error:
        if error.errno != errno.EACCES:
            raise
        raise UnavailableError(
            f"Xen {xen_version(hypervisor)} speaks another control interface than domctl "
            f"{abi.XEN_DOMCTL_INTERFACE_VERSION:#x} and sysctl {sysctl.XEN_SYSCTL_INTERFACE_VERSION:#x}",
            hint="use Xen 4.20",
        ) from None


def physical_info(hypervisor: Hypervisor) -> PhysicalInfo:
    """CPUs and memory of the machine; free memory counts what is being scrubbed."""
    with _sysctl(hypervisor, sysctl.XEN_SYSCTL_PHYSINFO) as (request, issue):
        issue()
        info = request.u.physinfo
        return PhysicalInfo(
            cpus=info.nr_cpus,
            max_cpu_id=info.max_cpu_id,
            total_bytes=info.total_pages * PAGE_SIZE,
            free_bytes=(info.free_pages - info.outstanding_pages) * PAGE_SIZE,
        )


def create_domain(
    hypervisor: Hypervisor,
    handle: bytes,
    vcpus: int,
    limits: DomainLimits,
    virt: Virt = Virt.PV,
    *,
    iommu: bool = False,
) -> int:
    """Creates a domain with no memory, paused, and returns its id.

    ``handle``: 16 bytes, the UUID that Xen's tools show; ``iommu``: whether devices may be assigned to it. Raises
    ``ResourceExhaustedError``, and ``UnavailableError`` for a kind that this machine does not run.
    """
    with domctl_request(hypervisor, abi.XEN_DOMCTL_CREATEDOMAIN, 0) as (request, issue):
        create = request.u.createdomain
        create.handle[:] = handle
        create.max_vcpus = vcpus
        create.max_evtchn_port = limits.event_channels
        create.max_grant_frames = limits.grant_frames
        create.max_maptrack_frames = limits.maptrack_frames
        create.grant_opts = 1  # XEN_DOMCTL_GRANT_version(1): Linux uses no other for PV
        if virt == Virt.PVH:
            create.flags = abi.XEN_DOMCTL_CDF_HVM | abi.XEN_DOMCTL_CDF_HAP
            create.emulation_flags = abi.XEN_X86_EMU_LAPIC
        else:
            # A timer chip for Linux to measure its CPU by. Without one it reads a missing port 100,000 times before it
            # gives up, and each read is a trap: a tenth of the start.
            create.emulation_flags = abi.XEN_X86_EMU_PIT
        if iommu:
            create.flags |= abi.XEN_DOMCTL_CDF_IOMMU
        try:
            issue()
        except HypercallError as error:
            if error.errno == errno.ENOMEM:
                raise ResourceExhaustedError(
                    "the hypervisor has no memory left for another domain", hint="stop a zone, or see `zonal info`"
                ) from None
            if virt == Virt.PVH and error.errno in (errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP):
                raise UnavailableError(
                    "this machine runs no PVH domains", hint="they need VT-x or SVM with nested paging; use --virt pv"
                ) from None
            raise
        return request.domain


def destroy_domain(hypervisor: Hypervisor, domain_id: int) -> None:
    """Kills a domain and frees its memory; returns when the hypervisor has done so, which takes ms per 100 MiB."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_DESTROYDOMAIN, domain_id) as (_, issue):
        while True:
            try:
                issue()
            except HypercallError as error:
                # Freeing memory is done in portions; the hypervisor asks to be called again.
                if error.errno == errno.EAGAIN or error.errno == errno.EBUSY:
                    continue
                raise
            return


def pause_domain(hypervisor: Hypervisor, domain_id: int) -> None:
    """Stops all vCPUs of a domain; counted, each pause wants its own unpause."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_PAUSEDOMAIN, domain_id) as (_, issue):
        issue()


def unpause_domain(hypervisor: Hypervisor, domain_id: int) -> None:
    """Takes back one pause; a new domain has one."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_UNPAUSEDOMAIN, domain_id) as (_, issue):
        issue()


def set_max_memory(hypervisor: Hypervisor, domain_id: int, size: int) -> None:
    """The most memory that a domain may hold from now on, in bytes; what it holds beyond that already, it keeps."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_MAX_MEM, domain_id) as (request, issue):
        request.u.max_mem.max_memkb = size // 1024
        issue()


def set_handle(hypervisor: Hypervisor, domain_id: int, handle: bytes) -> None:
    """Gives a domain another handle, 16 bytes."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_SETDOMAINHANDLE, domain_id) as (request, issue):
        request.u.setdomainhandle.handle[:] = handle
        issue()


def set_max_vcpus(hypervisor: Hypervisor, domain_id: int, vcpus: int) -> None:
    """Allocates the vCPUs that the domain was created for."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_MAX_VCPUS, domain_id) as (request, issue):
        request.u.max_vcpus.max = vcpus
        issue()


def set_native_tsc(hypervisor: Hypervisor, domain_id: int) -> None:
    """Lets the domain read the time stamp counter without a trap; fitting since zones do not migrate."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_SETTSCINFO, domain_id) as (request, issue):
        request.u.tsc_info.tsc_mode = abi.TSC_MODE_NEVER_EMULATE
        issue()


def set_paging_pool(hypervisor: Hypervisor, domain_id: int, size: int) -> None:
    """What the hypervisor may use for the tables of a PVH domain's memory, in bytes; whole pages.

    Raises ``ResourceExhaustedError``.
    """
    with domctl_request(hypervisor, abi.XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, domain_id) as (request, issue):
        request.u.paging_mempool.size = size
        try:
            issue()
        except HypercallError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise ResourceExhaustedError(
                f"the hypervisor has no memory left for the tables of domain {domain_id}", hint="stop a zone"
            ) from None


def set_hvm_parameter(hypervisor: Hypervisor, domain_id: int, index: int, value: int) -> None:
    """One of a PVH domain's ``HVM_PARAM_*``."""
    with hypervisor.structure(hvm.HvmParam) as (request, address):
        request.domid, request.index, request.value = domain_id, index, value
        what = f"set parameter {index} of domain {domain_id}"
        hypervisor.call(what, hvm.HYPERVISOR_HVM_OP, hvm.HVMOP_SET_PARAM, address)


def get_hvm_context(hypervisor: Hypervisor, domain_id: int) -> bytes:
    """The state of a PVH domain, as records with a ``struct hvm_save_descriptor`` before each."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_GETHVMCONTEXT, domain_id) as (request, issue):
        issue()  # without a buffer it tells the size
        size = int(request.u.hvmcontext.size)
        with hypervisor.buffer(size) as buffer:
            request.u.hvmcontext.buffer = buffer.address
            issue()
            with buffer.view() as view:
                return bytes(view[: request.u.hvmcontext.size])


def set_hvm_context(hypervisor: Hypervisor, domain_id: int, context: bytes) -> None:
    """Sets what records it has: a header first, an end last."""
    with (
        hypervisor.buffer(len(context)) as buffer,
        domctl_request(hypervisor, abi.XEN_DOMCTL_SETHVMCONTEXT, domain_id) as (request, issue),
    ):
        with buffer.view() as view:
            view[:] = context
        request.u.hvmcontext.size = len(context)
        request.u.hvmcontext.buffer = buffer.address
        issue()


def init_hypercall_page(hypervisor: Hypervisor, domain_id: int, frame: int) -> None:
    """Fills the domain's page ``frame`` (machine frame number) with hypercall entry points."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_HYPERCALL_INIT, domain_id) as (request, issue):
        request.u.hypercall_init.gmfn = frame
        issue()


def set_vcpu_context(hypervisor: Hypervisor, domain_id: int, vcpu: int, context: VcpuGuestContext) -> None:
    """Sets the whole register state of a vCPU."""
    with (
        hypervisor.buffer(ctypes.sizeof(context)) as buffer,
        domctl_request(hypervisor, abi.XEN_DOMCTL_SETVCPUCONTEXT, domain_id) as (request, issue),
    ):
        with buffer.view() as view:
            view[:] = memoryview(context).cast("B")
        request.u.vcpucontext.vcpu = vcpu
        request.u.vcpucontext.ctxt = buffer.address
        issue()


def domain_info(hypervisor: Hypervisor, domain_id: int) -> DomainInfo | None:
    """What the hypervisor knows of a domain, or None when there is no such domain."""
    found = list_domains(hypervisor, first=domain_id, most=1)
    return found[0] if found and found[0].domain_id == domain_id else None


def list_domains(hypervisor: Hypervisor, *, first: int = 0, most: int | None = None) -> list[DomainInfo]:
    """Every domain from id ``first`` on, in order of ids, at most ``most``."""
    size = ctypes.sizeof(abi.DomctlGetdomaininfo)
    return [
        _info(abi.DomctlGetdomaininfo.from_buffer_copy(raw, begin))
        for raw in _raw_infos(hypervisor, first, most)
        for begin in range(0, len(raw), size)
    ]


def domain_flags(hypervisor: Hypervisor) -> dict[int, int]:
    """The flags of each domain, by its id; of a thousand domains in a small part of the time of a list."""
    return dict(entry for raw in _raw_infos(hypervisor, 0, None) for entry in _FLAGS.iter_unpack(raw))


def held_pages(hypervisor: Hypervisor) -> dict[bytes, int]:
    """How many pages each domain has, by its handle; as quickly."""
    return {handle: pages for raw in _raw_infos(hypervisor, 0, None) for pages, handle in _HELD.iter_unpack(raw)}


def _raw_infos(hypervisor: Hypervisor, first: int, most: int | None) -> Generator[bytes]:
    """Arrays of ``struct xen_domctl_getdomaininfo``, in order of the domains' ids."""
    size = ctypes.sizeof(abi.DomctlGetdomaininfo)
    listed = 0
    while first < DOMID_FIRST_RESERVED and (most is None or listed < most):
        batch = MAX_LISTED_DOMAINS if most is None else min(most - listed, MAX_LISTED_DOMAINS)
        with (
            hypervisor.buffer(batch * size) as buffer,
            _sysctl(hypervisor, sysctl.XEN_SYSCTL_GETDOMAININFOLIST) as (request, issue),
        ):
            wanted = request.u.getdomaininfolist
            wanted.first_domain = first
            wanted.max_domains = batch
            wanted.buffer = buffer.address
            issue()
            found = min(wanted.num_domains, batch)
            with buffer.view() as view:
                raw = bytes(view[: found * size])
        yield raw
        if found < batch:
            return
        listed += found
        first = abi.DomctlGetdomaininfo.from_buffer_copy(raw, (found - 1) * size).domain + 1


def _info(info: abi.DomctlGetdomaininfo) -> DomainInfo:
    return DomainInfo(
        domain_id=info.domain,
        handle=bytes(info.handle),
        flags=info.flags,
        total_pages=info.tot_pages,
        max_pages=info.max_pages,
        shared_info_frame=info.shared_info_frame,
        cpu_time_ns=info.cpu_time,
        online_vcpus=info.nr_online_vcpus,
        max_vcpu_id=info.max_vcpu_id,
    )


class Issue:
    """Issues a prepared control request."""

    def __init__(self, hypervisor: Hypervisor, what: str, op: int, address: int) -> None:
        self._hypervisor = hypervisor
        self._what = what
        self._op = op
        self._address = address

    def __call__(self) -> int:
        """Raises ``HypercallError``."""
        return self._hypervisor.call(self._what, self._op, self._address)


@contextmanager
def domctl_request(hypervisor: Hypervisor, command: int, domain_id: int) -> Generator[tuple[abi.Domctl, Issue]]:
    """A control request for a domain, to be filled in and issued."""
    with hypervisor.structure(abi.Domctl) as (request, address):
        request.cmd = command
        request.interface_version = abi.XEN_DOMCTL_INTERFACE_VERSION
        request.domain = domain_id
        name = _COMMANDS.get(command, str(command))
        yield request, Issue(hypervisor, f"domctl {name} of domain {domain_id}", HYPERVISOR_DOMCTL, address)


@contextmanager
def _sysctl(hypervisor: Hypervisor, command: int) -> Generator[tuple[sysctl.Sysctl, Issue]]:
    with hypervisor.structure(sysctl.Sysctl) as (request, address):
        request.cmd = command
        request.interface_version = sysctl.XEN_SYSCTL_INTERFACE_VERSION
        yield request, Issue(hypervisor, f"sysctl {command}", HYPERVISOR_SYSCTL, address)


_Info = abi.DomctlGetdomaininfo
_FLAGS = struct.Struct(f"=H {_Info.flags.offset - 2}x I {ctypes.sizeof(_Info) - _Info.flags.offset - 4}x")
"""Of each domain its id and its flags."""
_HELD = struct.Struct(
    f"={_Info.tot_pages.offset}x Q {_Info.handle.offset - _Info.tot_pages.offset - 8}x 16s "
    f"{ctypes.sizeof(_Info) - _Info.handle.offset - 16}x"
)
"""Of each domain how many pages it has, and its handle."""

_NO_COMMANDS = tuple(f"XEN_DOMCTL_{kind}_" for kind in ("INTERFACE", "SCHEDOP", "CDF", "DEV"))
_COMMANDS = {
    value: name.removeprefix("XEN_DOMCTL_").lower()
    for name, value in vars(abi).items()
    if name.startswith("XEN_DOMCTL_") and not name.startswith(_NO_COMMANDS)
}
