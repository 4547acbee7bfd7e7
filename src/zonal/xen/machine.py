"""What the hypervisor says of itself and of the machine, and its own console (``public/sysctl.h``, ``version.h``)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from zonal.xen.abi import sysctl as abi
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.abi.version import XEN_COMMANDLINE_LEN, XENVER_COMMANDLINE
from zonal.xen.abi.xen import HYPERVISOR_SYSCTL, HYPERVISOR_XEN_VERSION
from zonal.xen.domctl import xen_capabilities, xen_version
from zonal.xen.hypercall import Hypervisor

LOG_CHUNK = 64 << 10
"""Bytes of its console in one hypercall; the whole of it where it has its usual size of 16 KiB for each CPU or less."""

_SCHEDULERS = {
    abi.XEN_SCHEDULER_CREDIT: "credit",
    abi.XEN_SCHEDULER_CREDIT2: "credit2",
    abi.XEN_SCHEDULER_ARINC653: "arinc653",
    abi.XEN_SCHEDULER_RTDS: "rtds",
    abi.XEN_SCHEDULER_NULL: "null",
}
_FEATURES = {
    abi.XEN_SYSCTL_PHYSCAP_PV: "pv",
    abi.XEN_SYSCTL_PHYSCAP_HVM: "hvm",
    abi.XEN_SYSCTL_PHYSCAP_HAP: "hap",
    abi.XEN_SYSCTL_PHYSCAP_SHADOW: "shadow",
    abi.XEN_SYSCTL_PHYSCAP_DIRECTIO: "iommu",
    abi.XEN_SYSCTL_PHYSCAP_GNTTAB_V1: "gnttab-v1",
    abi.XEN_SYSCTL_PHYSCAP_GNTTAB_V2: "gnttab-v2",
}


@dataclass(frozen=True)
class Machine:
    """A machine as its hypervisor sees it; sizes in bytes."""

    version: str
    capabilities: str
    """The kinds of domain that it runs, such as "xen-3.0-x86_64 hvm-3.0-x86_64"."""
    command_line: str
    scheduler: str
    features: tuple[str, ...]
    """Of "pv", "hvm", "hap", "shadow", "iommu", "gnttab-v1", "gnttab-v2"."""
    cpus: int
    threads_per_core: int
    cores_per_socket: int
    nodes: int
    cpu_khz: int
    memory: int
    free: int
    """Given to no domain, that being scrubbed included."""
    scrubbing: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which kinds of zone it could run: "PV" in any case; "PVH" needs hardware that it has, with nested paging."""
        pv = ("PV",) if "pv" in self.features and "xen-3.0-x86_64" in self.capabilities else ()
        return (*pv, *(("PVH",) if {"hvm", "hap"} <= set(self.features) else ()))


@dataclass(frozen=True)
class LogPart:
    """A piece of the hypervisor's console, and where the next one begins."""

    data: bytes
    next_index: int


def read_machine(hypervisor: Hypervisor) -> Machine:
    """What there is now."""
    with _request(hypervisor, "physinfo", abi.XEN_SYSCTL_PHYSINFO) as (request, issue):
        issue()
        physical = request.u.physinfo
        with _request(hypervisor, "sched_id", abi.XEN_SYSCTL_SCHED_ID) as (scheduling, issue_scheduling):
            issue_scheduling()
            scheduler: int = scheduling.u.sched_id.sched_id
        return Machine(
            version=xen_version(hypervisor),
            capabilities=xen_capabilities(hypervisor),
            command_line=_command_line(hypervisor),
            scheduler=_SCHEDULERS.get(scheduler, f"number {scheduler}"),
            features=tuple(name for bit, name in _FEATURES.items() if physical.capabilities & bit),
            cpus=physical.nr_cpus,
            threads_per_core=physical.threads_per_core,
            cores_per_socket=physical.cores_per_socket,
            nodes=physical.nr_nodes,
            cpu_khz=physical.cpu_khz,
            memory=physical.total_pages * PAGE_SIZE,
            free=(physical.free_pages - physical.outstanding_pages) * PAGE_SIZE,
            scrubbing=physical.scrub_pages * PAGE_SIZE,
        )


def read_log(hypervisor: Hypervisor, *, index: int | None = None, clear: bool = False) -> LogPart:
    """What its console ring has, from ``index`` on or all of it; at most ``LOG_CHUNK`` bytes, none at the end.

    ``clear``: nothing of what is there now is given out again, to anybody.
    """
    with (
        hypervisor.buffer(LOG_CHUNK) as buffer,
        _request(hypervisor, "readconsole", abi.XEN_SYSCTL_READCONSOLE) as (request, issue),
    ):
        wanted = request.u.readconsole
        wanted.buffer = buffer.address
        wanted.count = LOG_CHUNK
        wanted.clear = clear
        if index is not None:
            wanted.incremental = 1
            wanted.index = index
        issue()
        with buffer.view() as view:
            return LogPart(bytes(view[: min(wanted.count, LOG_CHUNK)]), wanted.index)


def _command_line(hypervisor: Hypervisor) -> str:
    with hypervisor.buffer(XEN_COMMANDLINE_LEN) as buffer:
        hypervisor.call("xen_version", HYPERVISOR_XEN_VERSION, XENVER_COMMANDLINE, buffer.address)
        return bytes(buffer.view()).split(b"\0", 1)[0].decode("utf-8", "replace").strip()


@contextmanager
def _request(hypervisor: Hypervisor, name: str, command: int) -> Generator[tuple[abi.Sysctl, Callable[[], int]]]:
    with hypervisor.structure(abi.Sysctl) as (request, address):
        request.cmd = command
        request.interface_version = abi.XEN_SYSCTL_INTERFACE_VERSION
        yield request, lambda: hypervisor.call(f"sysctl {name}", HYPERVISOR_SYSCTL, address)
