"""A domain's part in the CPUs: weight and cap by credit2, and the physical CPUs that its own may run on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from zonal.errors import InvalidInputError, UnavailableError
from zonal.xen.abi import domctl as abi
from zonal.xen.domctl import domctl_request, physical_info
from zonal.xen.hypercall import HypercallError, Hypervisor

DEFAULT_WEIGHT = 256
"""Of every domain that nobody gave another (Xen, ``xen/common/sched/credit2.c``)."""


@dataclass(frozen=True)
class Share:
    """A domain's part in the CPUs by credit2: its weight beside other domains', and a cap in % of one CPU, 0: none."""

    weight: int = DEFAULT_WEIGHT
    cap: int = 0


def set_share(hypervisor: Hypervisor, domain_id: int, share: Share) -> None:
    """Sets a domain's share, for all its vCPUs together. Raises ``UnavailableError`` under another scheduler."""
    with _scheduler_op(hypervisor, abi.XEN_DOMCTL_SCHEDOP_PUTINFO, domain_id) as (credit2, issue):
        credit2.weight, credit2.cap = share.weight, share.cap
        issue()


def share_of(hypervisor: Hypervisor, domain_id: int) -> Share:
    """A domain's share. Raises ``UnavailableError`` under another scheduler."""
    with _scheduler_op(hypervisor, abi.XEN_DOMCTL_SCHEDOP_GETINFO, domain_id) as (credit2, issue):
        issue()
        return Share(credit2.weight, credit2.cap)


def set_affinity(hypervisor: Hypervisor, domain_id: int, vcpu: int, cpus: Iterable[int]) -> None:
    """The physical CPUs on which alone a vCPU may run. Raises ``InvalidInputError`` when none of them is there."""
    wanted = sum(1 << cpu for cpu in set(cpus))
    with _affinity(hypervisor, abi.XEN_DOMCTL_SETVCPUAFFINITY, domain_id, vcpu) as (bitmap, issue):
        bitmap[:] = (wanted & ((1 << 8 * len(bitmap)) - 1)).to_bytes(len(bitmap), "little")
        try:
            issue()
        except HypercallError as error:
            if error.errno != errno.EINVAL:
                raise
            raise InvalidInputError(
                "none of the CPUs to run on is there", hint="`zonal info` shows how many there are; they count from 0"
            ) from None


def affinity_of(hypervisor: Hypervisor, domain_id: int, vcpu: int) -> set[int]:
    """The numbers of the physical CPUs on which a vCPU may run; of any that will be there, too."""
    with _affinity(hypervisor, abi.XEN_DOMCTL_GETVCPUAFFINITY, domain_id, vcpu) as (bitmap, issue):
        issue()
        found = int.from_bytes(bitmap, "little")
        return {cpu for cpu in range(8 * len(bitmap)) if found >> cpu & 1}


@contextmanager
def _scheduler_op(
    hypervisor: Hypervisor, command: int, domain_id: int
) -> Generator[tuple[abi.DomctlSchedCredit2, Callable[[], None]]]:
    with domctl_request(hypervisor, abi.XEN_DOMCTL_SCHEDULER_OP, domain_id) as (request, issue):
        request.u.scheduler_op.sched_id = abi.XEN_SCHEDULER_CREDIT2
        request.u.scheduler_op.cmd = command

        def checked() -> None:
            try:
                issue()
            except HypercallError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise UnavailableError(
                    "the hypervisor's scheduler knows no weights and caps as credit2 has them",
                    hint="boot Xen with sched=credit2, its default",
                ) from None

        yield request.u.scheduler_op.u.credit2, checked


@contextmanager
def _affinity(
    hypervisor: Hypervisor, command: int, domain_id: int, vcpu: int
) -> Generator[tuple[memoryview, Callable[[], int]]]:
    size = physical_info(hypervisor).max_cpu_id // 8 + 1
    with (
        hypervisor.buffer(size) as buffer,
        domctl_request(hypervisor, command, domain_id) as (request, issue),
        buffer.view() as view,
    ):
        affinity = request.u.vcpuaffinity
        affinity.vcpu = vcpu
        affinity.flags = abi.XEN_VCPUAFFINITY_HARD
        affinity.cpumap_hard.bitmap = buffer.address
        affinity.cpumap_hard.nr_bits = 8 * size
        yield view, issue
