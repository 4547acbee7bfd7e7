"""What a domain is permitted of a PCI function: the IOMMU's view of it, each I/O port, page of memory and interrupt.

Source: ``public/domctl.h`` and ``public/physdev.h``.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

from zonal.errors import UnavailableError, WrongStateError
from zonal.xen.abi import domctl as abi
from zonal.xen.abi import physdev
from zonal.xen.abi.privcmd import PAGE_SHIFT, PAGE_SIZE
from zonal.xen.abi.xen import DOMID_IO
from zonal.xen.domctl import domctl_request
from zonal.xen.hypercall import HypercallError, Hypervisor
from zonal.xen.pci.address import PciAddress
from zonal.xen.pci.functions import PciFunction, Region

_NO_LINE = (0, 255)
"""What a function without an interrupt line has in its place."""
_NO_IOMMU = (errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def check_assignable(hypervisor: Hypervisor, address: PciAddress) -> None:
    """Raises ``WrongStateError`` for one that a domain has, ``UnavailableError`` for one that no IOMMU confines."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_TEST_ASSIGN_DEVICE, abi.DOMID_INVALID) as (request, issue):
        request.u.assign_device.machine_sbdf = address.sbdf
        with _refusals(address):
            issue()


def quarantine(hypervisor: Hypervisor, address: PciAddress) -> None:
    """Takes it from the host in the IOMMU as well: until a domain has it, it reaches no memory.

    Raises as ``check_assignable``.
    """
    with _refusals(address):
        _assign(hypervisor, address, DOMID_IO)


def end_quarantine(hypervisor: Hypervisor, address: PciAddress) -> None:
    """Gives it back to the host; one that was in none is fine."""
    with domctl_request(hypervisor, abi.XEN_DOMCTL_DEASSIGN_DEVICE, DOMID_IO) as (request, issue):
        request.u.assign_device.machine_sbdf = address.sbdf
        try:
            issue()
        except HypercallError as error:
            if error.errno not in (*_NO_IOMMU, errno.ESRCH):
                raise


def permit(hypervisor: Hypervisor, domain_id: int, function: PciFunction, *, confined: bool) -> None:
    """Permits a domain that was just created all of a function. It all ends with the domain.

    ``confined``: by the IOMMU; the domain was then created for it. Raises ``HypercallError``.
    """
    for region in function.regions:
        _permit_region(hypervisor, domain_id, region)
    if function.interrupt not in _NO_LINE:
        _permit_interrupt(hypervisor, domain_id, _map_interrupt(hypervisor, domain_id, function.interrupt))
    if confined:
        _assign(hypervisor, function.address, domain_id)


def _assign(hypervisor: Hypervisor, address: PciAddress, domain_id: int) -> None:
    with domctl_request(hypervisor, abi.XEN_DOMCTL_ASSIGN_DEVICE, domain_id) as (request, issue):
        request.u.assign_device.machine_sbdf = address.sbdf
        # Memory that firmware reserved for the device, such as a graphics stolen page, is no reason to refuse.
        request.u.assign_device.flags = abi.XEN_DOMCTL_DEV_RDM_RELAXED if domain_id != DOMID_IO else 0
        issue()


def _permit_region(hypervisor: Hypervisor, domain_id: int, region: Region) -> None:
    if region.ports:
        with domctl_request(hypervisor, abi.XEN_DOMCTL_IOPORT_PERMISSION, domain_id) as (request, issue):
            ports = request.u.ioport_permission
            ports.first_port, ports.nr_ports, ports.allow_access = region.first, region.size, 1
            issue()
        return
    first = region.first >> PAGE_SHIFT
    end = (region.first + region.size + PAGE_SIZE - 1) >> PAGE_SHIFT
    with domctl_request(hypervisor, abi.XEN_DOMCTL_IOMEM_PERMISSION, domain_id) as (request, issue):
        pages = request.u.iomem_permission
        pages.first_mfn, pages.nr_mfns, pages.allow_access = first, end - first, 1
        issue()


def _map_interrupt(hypervisor: Hypervisor, domain_id: int, line: int) -> int:
    with hypervisor.structure(physdev.PhysdevMapPirq) as (request, address):
        request.domid, request.type = domain_id, physdev.MAP_PIRQ_TYPE_GSI
        request.index = request.pirq = line
        what = f"map interrupt {line} for domain {domain_id}"
        hypervisor.call(what, physdev.HYPERVISOR_PHYSDEV_OP, physdev.PHYSDEVOP_MAP_PIRQ, address)
        return request.pirq


def _permit_interrupt(hypervisor: Hypervisor, domain_id: int, pirq: int) -> None:
    with domctl_request(hypervisor, abi.XEN_DOMCTL_IRQ_PERMISSION, domain_id) as (request, issue):
        request.u.irq_permission.pirq, request.u.irq_permission.allow_access = pirq, 1
        issue()


@contextmanager
def _refusals(address: PciAddress) -> Generator[None]:
    """What Xen's refusals to give a function to a domain mean."""
    try:
        yield
    except HypercallError as error:
        if error.errno == errno.EBUSY:
            raise WrongStateError(
                f"PCI device {address} belongs to another domain", hint="stop the zone that has it"
            ) from None
        if error.errno in _NO_IOMMU:
            raise UnavailableError(
                f"no IOMMU confines PCI device {address}: whoever has it could read and write all of the machine's "
                "memory",
                hint="enable VT-d or AMD-Vi in the firmware; or, where that is no matter, --insecure-no-iommu",
            ) from None
        raise
