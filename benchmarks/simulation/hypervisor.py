"""The machine's hypervisor: domains with their memory, grants and event channels, as far as zonald can tell.

Memory is one sparse file. The frames of a domain are one after the other, so that whoever maps some of them maps a part
of that file.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from zonal.xen.abi import domctl as abi
from zonal.xen.abi import sysctl
from zonal.xen.abi.grant_table import GTF_PERMIT_ACCESS, GrantEntryV1
from zonal.xen.abi.memory import XENMEM_RESOURCE_GRANT_TABLE
from zonal.xen.abi.privcmd import PAGE_SIZE

FRAMES_SHIFT = 18
"""Frames that a domain can have, as a power of two: 1 GiB."""
GRANT_TABLE, SHARED_INFO = (1 << FRAMES_SHIFT) - 1, (1 << FRAMES_SHIFT) - 2
CPUS = 4
TOTAL_PAGES = 1 << 30
"""4 TiB: memory is not to be what ends the simulation."""

_ENTRY = ctypes.sizeof(GrantEntryV1)
_KEEP_SIZE_AND_PUNCH = 3  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE of linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Port:
    """The zone's end of an event channel; ``host`` is the port at the other end, 0 while there is none."""

    host: int = 0
    on_event: Callable[[], None] = lambda: None


@dataclass
class Domain:
    """One of them; ``info`` is what the hypervisor says of it."""

    id: int
    info: abi.DomctlGetdomaininfo
    ports: dict[int, Port] = field(default_factory=dict[int, Port])
    mapped: int = 0
    """Mappings of its pages that others have."""
    began: bool = False


class StandInXen:
    """See the module. Raises ``OSError`` with the number that Xen would answer."""

    def __init__(
        self, begin: Callable[[Domain], None], end: Callable[[Domain], None], raise_event: Callable[[int], None]
    ) -> None:
        """``begin`` and ``end`` are told of a domain that runs and that dies; ``raise_event`` of a host's port."""
        self.memory = os.memfd_create("machine", os.MFD_CLOEXEC)
        os.ftruncate(self.memory, 1 << (FRAMES_SHIFT + 15 + 12))
        self.domains: dict[int, Domain] = {}
        self._ids: list[int] = []
        self._last_id = 0
        self._given = 0
        self._begin = begin
        self._end = end
        self._raise_event = raise_event
        self._add(0, bytes(16), TOTAL_PAGES >> 10)

    def domctl(self, raw: bytes) -> bytes:
        """``struct xen_domctl``, in and out."""
        request = abi.Domctl.from_buffer_copy(raw)
        if request.cmd == abi.XEN_DOMCTL_CREATEDOMAIN:
            self._last_id += 1
            request.domain = self._last_id
            self._add(self._last_id, bytes(request.u.createdomain.handle), 0)
            self.domains[self._last_id].info.flags |= abi.XEN_DOMINF_PAUSED
            return bytes(request)
        domain = self._domain(request.domain)
        match request.cmd:
            case abi.XEN_DOMCTL_DESTROYDOMAIN:
                self._destroy(domain)
            case abi.XEN_DOMCTL_PAUSEDOMAIN:
                domain.info.flags |= abi.XEN_DOMINF_PAUSED
            case abi.XEN_DOMCTL_UNPAUSEDOMAIN:
                domain.info.flags &= ~abi.XEN_DOMINF_PAUSED
                if not domain.began:
                    domain.began = True
                    self._drop_image(domain)
                    self._begin(domain)
            case abi.XEN_DOMCTL_MAX_MEM:
                domain.info.max_pages = request.u.max_mem.max_memkb * 1024 // PAGE_SIZE
            case abi.XEN_DOMCTL_MAX_VCPUS:
                domain.info.max_vcpu_id = request.u.max_vcpus.max - 1
                domain.info.nr_online_vcpus = request.u.max_vcpus.max
            case (
                abi.XEN_DOMCTL_SETTSCINFO
                | abi.XEN_DOMCTL_HYPERCALL_INIT
                | abi.XEN_DOMCTL_SETVCPUCONTEXT
                | abi.XEN_DOMCTL_SCHEDULER_OP
            ):
                pass
            case _:
                raise OSError(errno.ENOSYS, "domctl")
        return bytes(request)

    def sysctl(self, raw: bytes) -> bytes:
        """``struct xen_sysctl``, in and out."""
        request = sysctl.Sysctl.from_buffer_copy(raw)
        if request.cmd == sysctl.XEN_SYSCTL_PHYSINFO:
            physical = request.u.physinfo
            physical.nr_cpus, physical.max_cpu_id, physical.nr_nodes = CPUS, CPUS - 1, 1
            physical.threads_per_core, physical.cores_per_socket, physical.cpu_khz = 1, CPUS, 2_000_000
            physical.capabilities = sysctl.XEN_SYSCTL_PHYSCAP_PV
            physical.total_pages, physical.free_pages = TOTAL_PAGES, TOTAL_PAGES - self._given
        elif request.cmd == sysctl.XEN_SYSCTL_SCHED_ID:
            request.u.sched_id.sched_id = abi.XEN_SCHEDULER_CREDIT2
        else:
            raise OSError(errno.ENOSYS, "sysctl")
        return bytes(request)

    def list_domains(self, first: int, most: int) -> bytes:
        """Of ``struct xen_domctl_getdomaininfo`` as many as there are from ``first`` on."""
        begin = bisect_left(self._ids, first)
        return b"".join(bytes(self.domains[each].info) for each in self._ids[begin : begin + most])

    def populate(self, domain_id: int, first: bytes, order: int) -> bytes:
        """The machine frames of extents that begin at pseudo-physical frames; both are arrays of u64."""
        domain = self._domain(domain_id)
        frames = struct.unpack(f"={len(first) // 8}Q", first)
        if frames and frames[-1] + (1 << order) > SHARED_INFO:
            raise OSError(errno.ENOMEM, "populate")
        self._given += len(frames) << order
        domain.info.tot_pages += len(frames) << order
        base = domain_id << FRAMES_SHIFT
        return struct.pack(f"={len(frames)}Q", *(base + frame for frame in frames))

    def resource_frame(self, domain_id: int, kind: int, _resource_id: int) -> int:
        """Where the domain's grant table is."""
        if kind != XENMEM_RESOURCE_GRANT_TABLE:
            raise OSError(errno.EOPNOTSUPP, "acquire_resource")
        return (self._domain(domain_id).id << FRAMES_SHIFT) + GRANT_TABLE

    def granted_frames(self, domain_id: int, references: tuple[int, ...]) -> list[int]:
        """The frames that a domain lets the host map. Raises ``OSError`` for a reference that grants nothing."""
        table = os.pread(self.memory, PAGE_SIZE, ((domain_id << FRAMES_SHIFT) + GRANT_TABLE) * PAGE_SIZE)
        frames: list[int] = []
        for reference in references:
            if not 0 <= reference < PAGE_SIZE // _ENTRY:
                raise OSError(errno.EINVAL, "map_grant_ref")
            entry = GrantEntryV1.from_buffer_copy(table, reference * _ENTRY)
            if not entry.flags & GTF_PERMIT_ACCESS or entry.domid:
                raise OSError(errno.EINVAL, "map_grant_ref")
            frames.append(entry.frame)
        return frames

    def grant(self, domain: Domain, first_reference: int, frames: list[int]) -> None:
        """The domain lets the host map these."""
        entries = [bytes(GrantEntryV1(flags=GTF_PERMIT_ACCESS, domid=0, frame=frame)) for frame in frames]
        place = ((domain.id << FRAMES_SHIFT) + GRANT_TABLE) * PAGE_SIZE + first_reference * _ENTRY
        os.pwrite(self.memory, b"".join(entries), place)

    def alloc_unbound(self, domain_id: int) -> int:
        """A new port of the domain's, for the host to bind to."""
        ports = self._domain(domain_id).ports
        number = max(ports, default=0) + 1
        ports[number] = Port()
        return number

    def notify_host(self, domain: Domain, number: int) -> None:
        """The domain raises an event."""
        port = domain.ports.get(number)
        if port is not None and port.host:
            self._raise_event(port.host)

    def unmapped(self, domain_id: int) -> None:
        """Somebody has given up a mapping of the domain's pages."""
        domain = self.domains.get(domain_id)
        if domain is not None:
            domain.mapped -= 1
            self._forget_if_gone(domain)

    def punch(self, first: int, count: int) -> None:
        """Frames lose what is in them, and take no memory any more."""
        if count <= 0:
            return
        offset, size = ctypes.c_longlong(first * PAGE_SIZE), ctypes.c_longlong(count * PAGE_SIZE)
        if _libc.fallocate64(self.memory, _KEEP_SIZE_AND_PUNCH, offset, size):
            raise OSError(ctypes.get_errno(), "fallocate")

    def _add(self, domain_id: int, handle: bytes, pages: int) -> None:
        info = abi.DomctlGetdomaininfo(domain=domain_id, tot_pages=pages, max_pages=pages, nr_online_vcpus=1)
        info.handle[:] = handle
        info.shared_info_frame = (domain_id << FRAMES_SHIFT) + SHARED_INFO
        self.domains[domain_id] = Domain(domain_id, info)
        self._ids.append(domain_id)
        self._given += pages

    def _domain(self, domain_id: int) -> Domain:
        domain = self.domains.get(domain_id)
        if domain is None:
            raise OSError(errno.ESRCH, "no such domain")
        return domain

    def _drop_image(self, domain: Domain) -> None:
        """No kernel runs, and so none of what was built is needed but the console's page and the store's."""
        base = domain.id << FRAMES_SHIFT
        begin = base
        for kept in sorted(self.granted_frames(domain.id, (0, 1))):
            self.punch(begin, kept - begin)
            begin = kept + 1
        self.punch(begin, base + domain.info.tot_pages - begin)

    def _destroy(self, domain: Domain) -> None:
        if not domain.info.flags & abi.XEN_DOMINF_DYING:
            domain.info.flags |= abi.XEN_DOMINF_DYING
            self._end(domain)
            self._given -= domain.info.tot_pages
            domain.info.tot_pages = 0
        self._forget_if_gone(domain)

    def _forget_if_gone(self, domain: Domain) -> None:
        if domain.info.flags & abi.XEN_DOMINF_DYING and not domain.mapped and domain.id in self.domains:
            del self.domains[domain.id]
            self._ids.remove(domain.id)
            self.punch(domain.id << FRAMES_SHIFT, 1 << FRAMES_SHIFT)
