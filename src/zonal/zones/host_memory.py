"""The machine's memory that zones may have: what each was promised, and a reserve that stays free.

The hypervisor knows what is free now. A zone that grows, or that is being built, was promised more than it holds: so
everybody who gives memory to a zone asks here first.
"""

from __future__ import annotations

from collections.abc import Mapping

from zonal.errors import ResourceExhaustedError
from zonal.xen import domctl
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.hypercall import Hypervisor

MIB = 1 << 20
OVERHEAD = 2 * MIB
"""What the hypervisor takes for a domain itself: its structures, page-table bookkeeping and grant tables."""


class Promises:
    """Who was promised how many bytes; arithmetic alone."""

    def __init__(self, reserve: int) -> None:
        self.reserve = reserve
        self._promised: dict[bytes, int] = {}

    def room(self, free: int, held: Mapping[bytes, int]) -> int:
        """Bytes that can still be promised, with ``free`` bytes free and so many ``held`` by each."""
        outstanding = sum(max(0, size - held.get(owner, 0)) for owner, size in self._promised.items())
        return max(0, free - self.reserve - outstanding)

    def of(self, owner: bytes) -> int:
        """What it was promised."""
        return self._promised.get(owner, 0)

    def set(self, owner: bytes, size: int) -> None:
        """It is promised ``size`` bytes in all, from now on."""
        self._promised[owner] = size

    def forget(self, owner: bytes) -> None:
        """It is promised nothing."""
        self._promised.pop(owner, None)


class HostMemory:
    """See the module. Owners go by their domains' handles, 16 bytes. No call waits: nothing is given to two."""

    def __init__(self, hypervisor: Hypervisor, reserve: int) -> None:
        """``reserve``: bytes that no zone gets."""
        self._hypervisor = hypervisor
        self._promises = Promises(reserve)

    @property
    def reserve(self) -> int:
        """Bytes that no zone gets."""
        return self._promises.reserve

    def room(self) -> int:
        """Bytes that zones can still be given."""
        held = {handle: pages * PAGE_SIZE for handle, pages in domctl.held_pages(self._hypervisor).items()}
        return self._promises.room(domctl.physical_info(self._hypervisor).free_bytes, held)

    def begin(self, owner: bytes, size: int) -> None:
        """Promises a new domain its first memory. Raises ``ResourceExhaustedError``."""
        room = self.room()
        if size + OVERHEAD > room:
            raise self._refusal(size, room)
        self._promises.set(owner, size)

    def take_over(self, owner: bytes, size: int) -> None:
        """A domain that is there may have ``size`` bytes, by an earlier daemon's word."""
        self._promises.set(owner, size)

    def resize(self, owner: bytes, size: int) -> int:
        """Promises ``size`` bytes instead of what was promised, or as many as there are; gives how many.

        A domain that does not run has nothing to be resized: 0.
        """
        before = self._promises.of(owner)
        if not before:
            return 0
        given = size if size <= before else min(size, before + self.room() // MIB * MIB)
        self._promises.set(owner, given)
        return given

    def resize_wholly(self, owner: bytes, size: int) -> None:
        """The same, but for all of it. Raises ``ResourceExhaustedError``."""
        before = self._promises.of(owner)
        if size > before and size - before > (room := self.room()):
            raise self._refusal(size - before, room)
        self._promises.set(owner, size)

    def become(self, before: bytes, owner: bytes) -> None:
        """A domain has another owner, with what it was promised."""
        self._promises.set(owner, self._promises.of(before))
        self._promises.forget(before)

    def end(self, owner: bytes) -> None:
        """A domain is gone."""
        self._promises.forget(owner)

    def _refusal(self, size: int, room: int) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"{-(-size // MIB)} MiB of memory are asked for, and {room // MIB} MiB are free; the host keeps "
            f"{self.reserve // MIB} MiB",
            hint="ask for less with -m, or stop a zone: zonal zone ls",
        )
