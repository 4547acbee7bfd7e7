"""Lists of domains, by the structures that zonald makes and reads, on a stand-in for the hypervisor."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from benchmarks.simulation.doors import StandInHypervisor
from benchmarks.simulation.hypervisor import StandInXen
from benchmarks.simulation.line import Line

from zonal.xen import domctl
from zonal.xen.abi.domctl import SHUTDOWN_CRASH, XEN_DOMINF_SHUTDOWN, XEN_DOMINF_SHUTDOWNSHIFT
from zonal.xen.domctl import MAX_LISTED_DOMAINS, DomainLimits
from zonal.xen.hypercall import HypercallError, Hypervisor

CRASHED = XEN_DOMINF_SHUTDOWN | SHUTDOWN_CRASH << XEN_DOMINF_SHUTDOWNSHIFT


class Direct:
    """A line to a hypervisor in this process."""

    def __init__(self, xen: StandInXen) -> None:
        self._xen = xen
        self.memory = xen.memory

    def ask(self, operation: str, *arguments: Any) -> Any:
        return getattr(self._xen, operation)(*arguments)


@pytest.fixture
def xen() -> StandInXen:
    return StandInXen(lambda _: None, lambda _: None, lambda _: None)


@pytest.fixture
def hypervisor(xen: StandInXen) -> StandInHypervisor:
    return StandInHypervisor(cast("Line", Direct(xen)))


def handle(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_short_lists_say_what_the_long_one_does(xen: StandInXen, hypervisor: StandInHypervisor) -> None:
    for number in range(1, MAX_LISTED_DOMAINS + 10):
        domain_id = domctl.create_domain(hypervisor, handle(number), 1, DomainLimits())
        xen.domains[domain_id].info.tot_pages = 3 * number
    xen.domains[7].info.flags = CRASHED
    domctl.destroy_domain(hypervisor, 5)
    infos = domctl.list_domains(hypervisor)
    assert len(infos) == MAX_LISTED_DOMAINS + 9  # with the host's, and without the fifth
    assert domctl.domain_flags(hypervisor) == {info.domain_id: info.flags for info in infos}
    assert domctl.held_pages(hypervisor) == {info.handle: info.total_pages for info in infos}
    assert domctl.held_pages(hypervisor)[handle(9)] == 27
    assert domctl.domain_info(hypervisor, 5) is None
    crashed = domctl.domain_info(hypervisor, 7)
    assert crashed is not None
    assert crashed.shutdown_reason == SHUTDOWN_CRASH


def test_an_error_names_its_command_and_not_a_flag_of_the_same_number() -> None:
    class Refusing:
        @contextmanager
        def structure(self, layout: type[ctypes.Structure]) -> Generator[tuple[ctypes.Structure, int]]:
            yield layout(), 0

        def call(self, what: str, *_: int) -> int:
            raise HypercallError(what, errno.ESRCH)

    with pytest.raises(HypercallError, match="destroydomain of domain 7"):
        domctl.destroy_domain(cast("Hypervisor", Refusing()), 7)
