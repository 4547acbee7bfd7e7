"""A domain's memory: giving it frames, pinning its page tables, seeding its grants."""

from __future__ import annotations

import ctypes
import errno
from typing import TYPE_CHECKING

import numpy as np

from zonal.errors import ResourceExhaustedError
from zonal.xen.abi.event_channel import EVTCHNOP_ALLOC_UNBOUND, EvtchnAllocUnbound
from zonal.xen.abi.grant_table import GTF_PERMIT_ACCESS, GrantEntryV1
from zonal.xen.abi.memory import (
    E820_RAM,
    XENMEM_POPULATE_PHYSMAP,
    XENMEM_RESOURCE_GRANT_TABLE,
    XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
    XENMEM_SET_MEMORY_MAP,
    XENMEM_SET_POD_TARGET,
    XENMEMF_POPULATE_ON_DEMAND,
    E820Entry,
    ForeignMemoryMap,
    MemoryReservation,
    PodTarget,
)
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.abi.xen import (
    HYPERVISOR_EVENT_CHANNEL_OP,
    HYPERVISOR_MEMORY_OP,
    HYPERVISOR_MMUEXT_OP,
    MMUEXT_PIN_L4_TABLE,
    MmuextOp,
)
from zonal.xen.hypercall import HypercallError, Hypervisor

if TYPE_CHECKING:
    import numpy.typing as npt

SUPERPAGE_ORDER = 9
"""Extents of 2 MiB: 512 times fewer entries to hand over, and memory that stays together."""

_EXTENTS_PER_CALL = 1 << 15


def populate(hypervisor: Hypervisor, domain_id: int, pages: int, *, first: int = 0) -> npt.NDArray[np.uint64]:
    """Gives a domain ``pages`` frames, pseudo-physical ``first`` and on.

    Returns shape (pages,), of a PV domain the machine frame of each, of a PVH one its own. Extents of 2 MiB where the
    machine still has them, single pages for the rest. The machine-to-physical table is set by the hypervisor. Raises
    ``ResourceExhaustedError`` when the machine has not enough memory. Source: ``XENMEM_populate_physmap`` of
    ``public/memory.h``.
    """
    large = pages >> SUPERPAGE_ORDER
    starts = np.uint64(first) + (np.arange(large, dtype=np.uint64) << np.uint64(SUPERPAGE_ORDER))
    got = _populate_extents(hypervisor, domain_id, starts, SUPERPAGE_ORDER)
    frames = (got[:, np.newaxis] + np.arange(1 << SUPERPAGE_ORDER, dtype=np.uint64)).reshape(-1)
    done = len(frames)
    if done < pages:
        rest = np.arange(first + done, first + pages, dtype=np.uint64)
        single = _populate_extents(hypervisor, domain_id, rest, 0)
        frames = np.concatenate([frames, single])
    if len(frames) < pages:
        raise ResourceExhaustedError(
            f"the machine has no {pages * PAGE_SIZE >> 20} MiB left for domain {domain_id}: "
            f"{len(frames) * PAGE_SIZE >> 20} MiB could be had",
            hint="ask for less memory, or stop a zone",
        )
    return frames


def populate_on_demand(hypervisor: Hypervisor, domain_id: int, pages: int, *, first: int = 0) -> None:
    """Gives a PVH domain ``pages`` guest frames from ``first`` on, which get memory when they are touched.

    It comes out of what ``set_demand_target`` has set aside. Source: ``XENMEMF_populate_on_demand``.
    """
    large = pages >> SUPERPAGE_ORDER
    starts = np.uint64(first) + (np.arange(large, dtype=np.uint64) << np.uint64(SUPERPAGE_ORDER))
    rest = np.arange(first + (large << SUPERPAGE_ORDER), first + pages, dtype=np.uint64)
    for extents, order in ((starts, SUPERPAGE_ORDER), (rest, 0)):
        got = _populate_extents(hypervisor, domain_id, extents, order, XENMEMF_POPULATE_ON_DEMAND)
        if len(got) < len(extents):
            raise ResourceExhaustedError(
                f"the hypervisor cannot keep a map of {pages * PAGE_SIZE >> 20} MiB for domain {domain_id}",
                hint="ask for less memory, or stop a zone",
            )


def set_demand_target(hypervisor: Hypervisor, domain_id: int, pages: int) -> None:
    """Sets memory aside for what is populated on demand (``XENMEM_set_pod_target``).

    Raises ``ResourceExhaustedError``.
    """
    with hypervisor.structure(PodTarget) as (request, address):
        request.target_pages = pages
        request.domid = domain_id
        what = f"set memory aside for domain {domain_id}"
        try:
            hypervisor.call(what, HYPERVISOR_MEMORY_OP, XENMEM_SET_POD_TARGET, address)
        except HypercallError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise ResourceExhaustedError(
                f"the machine has no {pages * PAGE_SIZE >> 20} MiB left for domain {domain_id}",
                hint="ask for less memory, or stop a zone",
            ) from None


def set_memory_map(hypervisor: Hypervisor, domain_id: int, size: int) -> None:
    """Tells a new domain that it may come to have memory up to ``size`` bytes (``XENMEM_set_memory_map``).

    What it has no frames for is Linux's to fill with its balloon driver.
    """
    with (
        hypervisor.structure(E820Entry) as (entry, entry_address),
        hypervisor.structure(ForeignMemoryMap) as (request, address),
    ):
        entry.addr, entry.size, entry.type = 0, size, E820_RAM
        request.domid = domain_id
        request.map.nr_entries = 1
        request.map.buffer = entry_address
        what = f"set the memory map of domain {domain_id}"
        hypervisor.call(what, HYPERVISOR_MEMORY_OP, XENMEM_SET_MEMORY_MAP, address)


def pin_l4_table(hypervisor: Hypervisor, domain_id: int, frame: int) -> None:
    """Has the hypervisor check a whole tree of page tables and hold on to it (``MMUEXT_PIN_L4_TABLE``)."""
    with hypervisor.structure(MmuextOp) as (request, address):
        request.cmd = MMUEXT_PIN_L4_TABLE
        request.arg1 = frame
        hypervisor.call(f"pin page tables of domain {domain_id}", HYPERVISOR_MMUEXT_OP, address, 1, 0, domain_id)


def alloc_unbound(hypervisor: Hypervisor, domain_id: int, remote_id: int) -> int:
    """A new event channel of ``domain_id`` that ``remote_id`` may bind to; returns its port there."""
    with hypervisor.structure(EvtchnAllocUnbound) as (request, address):
        request.dom = domain_id
        request.remote_dom = remote_id
        what = f"allocate an event channel of domain {domain_id}"
        hypervisor.call(what, HYPERVISOR_EVENT_CHANNEL_OP, EVTCHNOP_ALLOC_UNBOUND, address)
        return request.port


def seed_grants(hypervisor: Hypervisor, domain_id: int, entries: dict[int, tuple[int, int]]) -> None:
    """Writes grants into a new domain's table on its behalf: reference → (domain that may map it, frame).

    Source: ``struct grant_entry_v1`` of ``public/grant_table.h``, through ``XENMEM_acquire_resource``.
    """
    with hypervisor.map_resource(
        domain_id, XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED, 0, 1
    ) as table:
        size = ctypes.sizeof(GrantEntryV1)
        for reference, (allowed_id, frame) in entries.items():
            entry = GrantEntryV1(flags=GTF_PERMIT_ACCESS, domid=allowed_id, frame=frame)
            table.memory[reference * size : (reference + 1) * size] = bytes(entry)


def _populate_extents(
    hypervisor: Hypervisor, domain_id: int, first: npt.NDArray[np.uint64], order: int, flags: int = 0
) -> npt.NDArray[np.uint64]:
    """The base machine frames of as many extents as could be had, from the first on."""
    parts: list[npt.NDArray[np.uint64]] = []
    for begin in range(0, len(first), _EXTENTS_PER_CALL):
        part = first[begin : begin + _EXTENTS_PER_CALL]
        with (
            hypervisor.buffer(part.nbytes) as extents,
            hypervisor.structure(MemoryReservation) as (request, address),
        ):
            with extents.view() as view:
                view[:] = part.tobytes()
            request.extent_start = extents.address
            request.nr_extents = len(part)
            request.extent_order = order
            request.mem_flags = flags
            request.domid = domain_id
            try:
                done = hypervisor.call("populate memory", HYPERVISOR_MEMORY_OP, XENMEM_POPULATE_PHYSMAP, address)
            except HypercallError as error:
                if error.errno != errno.ENOMEM:
                    raise
                done = 0
            with extents.view() as view:
                parts.append(np.frombuffer(bytes(view[: done * 8]), dtype=np.uint64))
        if done < len(part):
            break
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)
