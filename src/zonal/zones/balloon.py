"""A zone's memory between its floor and its ceiling: more before it runs out, less once it does not use it.

The hypervisor holds the zone to what it was given; the kernel's balloon driver takes that, or gives it back; the agent
says how much is in use, and holds the workload back, not long, while more is on its way. See docs/resources.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from zonal.errors import ZonalError
from zonal.xen import domctl
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.domain import domain_path
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.memory_report import MemoryReport
from zonal.zones.session import CallRefusedError, Session

log = logging.getLogger(__name__)

MIB = 1 << 20
CALL_TIMEOUT = 60.0
STALLED = 0.1
"""The part of the time that tasks may wait for memory before there is to be more of it."""
PATIENCE_NS = 10_000_000_000
"""Memory that a zone does not use is left to it for so long after it was last short of some."""
LEAST_STEP = 8 * MIB
"""What is less is not worth giving back."""


@dataclass(frozen=True)
class Reading:
    """How a zone stands: sizes in bytes, ``stalled`` the part of the time since the last reading, 0 to 1."""

    target: int
    """What it was last given."""
    held: int
    """What it has, by the hypervisor's word."""
    available: int
    stalled: float
    idle: bool
    """Whether it was not short of memory for a while."""


def headroom(target: int) -> int:
    """Bytes that a zone of this size is to have available."""
    return min(max(24 * MIB, target // 5), 512 * MIB)


def next_target(now: Reading, floor: int, ceiling: int) -> int:
    """What the zone is to have, in bytes; ``now.target`` when that is as it should be."""
    if now.target < floor:
        return floor
    if now.target > ceiling:
        return ceiling
    wanted = headroom(now.target)
    if now.held < now.target - MIB:
        return now.target  # more is on its way, and not yet available
    if now.available < wanted or now.stalled > STALLED:
        more = max(now.target // 2, 2 * wanted - now.available)
        return min(ceiling, (now.target + more) // MIB * MIB)
    excess = (now.available - 2 * wanted) // 2
    if now.idle and excess >= LEAST_STEP and now.held <= now.target + MIB:
        # By halves: what was counted as available is partly cache that somebody may miss.
        return max(floor, -(-(now.target - excess) // MIB) * MIB)
    return now.target


class Balloon:
    """Of one zone; ``attend`` is for a task of its session's."""

    def __init__(self, host: XenHost, memory: HostMemory, owner: bytes, name: str) -> None:
        self.floor = 0
        self.ceiling = 0
        self._host = host
        self._memory = memory
        self._owner = owner
        self._name = name
        self._domain_id = 0
        self._target = 0
        self._report: MemoryReport | None = None
        self._before: tuple[int, int] | None = None
        """When the last report came, and how long tasks had waited by then; in ns."""
        self._short_ns = 0
        """When it was last short of memory."""
        self._come = asyncio.Event()
        self._changing = asyncio.Lock()

    @property
    def target(self) -> int:
        """What the zone was last given."""
        return self._target

    def begin(self, domain_id: int, target: int) -> None:
        """The domain is there, with ``target`` bytes."""
        self._domain_id, self._target = domain_id, target
        self._short_ns = time.monotonic_ns()

    def become(self, owner: bytes, name: str) -> None:
        """The domain is another zone's from now on."""
        self._owner, self._name = owner, name

    async def attend(self, session: Session) -> None:
        """Follows the zone's reports; returns when its agent cannot say anything, or no more."""
        session.on_memory = self._take
        try:
            await self.tell(session)
            while True:
                await self._come.wait()
                self._come.clear()
                report, self._report = self._report, None
                if report is not None:
                    await self._follow(session, report)
        except CallRefusedError as error:
            log.info("zone %s: its memory stays as it is: %s", self._name, error)
        except ZonalError as error:
            log.info("zone %s: its memory is no longer looked after: %s", self._name, error)
        finally:
            session.on_memory = None

    async def set_limits(self, floor: int, ceiling: int) -> None:
        """Another floor and ceiling; what the zone has is brought between them.

        Raises ``ResourceExhaustedError``, and nothing has changed, when that takes more than there is.
        """
        async with self._changing:
            target = min(max(self._target, floor), ceiling)
            self._memory.resize_wholly(self._owner, target)
            self.floor, self.ceiling = floor, ceiling
            await self._set(target)

    async def tell(self, session: Session) -> None:
        """Says to the agent what the zone has, and whether there may be more."""
        more = self._target < self.ceiling and self._memory.room() >= LEAST_STEP
        await session.call("memory", {"target": self._target, "more": more, "elastic": self.elastic}, CALL_TIMEOUT)

    @property
    def elastic(self) -> bool:
        """Whether there is anything to look after."""
        return self.floor < self.ceiling

    def _take(self, report: MemoryReport) -> None:
        # Only the latest counts, so a zone that reports without end costs no more than one that does not; but that it
        # waits for an answer is not to be forgotten.
        if self._report is not None and self._report.pressed:
            report = MemoryReport(report.available, report.stalled_ns, pressed=True)
        self._report = report
        self._come.set()

    async def _follow(self, session: Session, report: MemoryReport) -> None:
        async with self._changing:
            info = domctl.domain_info(self._host.hypervisor, self._domain_id)
            if info is None or info.dying:
                return
            now = self._reading(report, info.total_pages * PAGE_SIZE)
            wanted = next_target(now, self.floor, self.ceiling)
            if wanted > self._target:
                self._short_ns = time.monotonic_ns()
            given = self._memory.resize(self._owner, wanted) if wanted != self._target else wanted
            changed = given not in (0, self._target)
            if changed:
                log.debug("zone %s: %d MiB of memory, %s", self._name, given // MIB, now)
                await self._set(given)
        if changed or report.pressed:
            await self.tell(session)

    def _reading(self, report: MemoryReport, held: int) -> Reading:
        now_ns = time.monotonic_ns()
        stalled = 0.0
        if self._before is not None and now_ns > self._before[0]:
            stalled = min(1.0, max(0, report.stalled_ns - self._before[1]) / (now_ns - self._before[0]))
        self._before = (now_ns, report.stalled_ns)
        if report.pressed and stalled > STALLED:
            self._short_ns = now_ns
        idle = not report.pressed and now_ns - self._short_ns >= PATIENCE_NS
        return Reading(self._target, held, min(report.available, held), stalled, idle)

    async def _set(self, target: int) -> None:
        # The limit first: a balloon driver that is refused a page waits for a second, and then for longer.
        domctl.set_max_memory(self._host.hypervisor, self._domain_id, target)
        self._target = target
        await self._host.store.write(f"{domain_path(self._domain_id)}/memory/target", str(target // 1024))
