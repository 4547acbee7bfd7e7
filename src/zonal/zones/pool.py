"""Zones that are booted ahead of time: empty, of chosen sizes, and given to the next run that fits.

A pool is kept full in the background, within a budget of memory, while nobody waits for a zone, or has just got one.
What was taken is never put back: a zone that somebody has used is used by nobody else. A daemon that leaves destroys
its pool, and one that was killed leaves domains that the next one knows by their handles, and destroys.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from zonal.errors import ResourceExhaustedError, ZonalError
from zonal.xen.devices.vbd import Disk, plan_vbd
from zonal.zones.boot_files import BootFiles
from zonal.zones.calm import Calm
from zonal.zones.greeting import Greeting
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.machine import Machine
from zonal.zones.phases import PhaseClock
from zonal.zones.pool_plan import PoolCounts, PoolPlan, check_plan
from zonal.zones.resources import Resources
from zonal.zones.shares import DRIVERS
from zonal.zones.sources import BootSource
from zonal.zones.watching import while_watching

log = logging.getLogger(__name__)

POOL_ID = "7a6f6e616c2d7761"
"""Begins the ids of machines in a pool, and so the handles of their domains: "zonal-wa" in hexadecimal."""
SYSTEM_DISK = "xvda"
_RETRY_SECONDS = 10.0
"""After a machine that could not be made."""


@dataclass
class WarmMachine:
    """One of a pool: a machine whose agent was met, and all that it stands on."""

    machine: Machine
    stack: AsyncExitStack
    boot: BootFiles
    greeting: Greeting
    size: Resources
    folder: Path
    watching: asyncio.Task[None] | None = None

    def fits(self, wanted: Resources) -> bool:
        """Whether it can be made into a zone with these resources, without too much to be given back first."""
        return (
            wanted.vcpus <= self.size.vcpus
            and self.size.memory // 2 <= wanted.ceiling <= self.size.ceiling
            and (self.size.elastic or not wanted.elastic)
        )

    def distance(self, wanted: Resources) -> int:
        """How much would have to change, in bytes."""
        return abs(self.size.memory - wanted.memory) + abs(self.size.ceiling - wanted.ceiling)


class Pool:
    """See the module."""

    def __init__(
        self,
        host: XenHost,
        memory: HostMemory,
        source: BootSource,
        folder: Path,
        lives: asyncio.TaskGroup,
        *,
        agent_timeout: float,
        calm: Calm,
    ) -> None:
        """``folder`` is the pool's own, which is filled while there is ``calm``."""
        self.plan = PoolPlan()
        self.counts = PoolCounts()
        self._host = host
        self._memory = memory
        self._source = source
        self._folder = folder
        self._lives = lives
        self._agent_timeout = agent_timeout
        self._calm = calm
        self._warm: list[WarmMachine] = []
        self._changed = asyncio.Event()
        self._filling: asyncio.Task[None] | None = None

    @property
    def warm(self) -> Sequence[Resources]:
        """The sizes of those that are there."""
        return [each.size for each in self._warm]

    async def boot_files(self, virt: str = "") -> BootFiles:
        """What its machines boot: the default kernel, or the one that can do what a pod may come to ask of it.

        Raises as ``BootSource.boot_files``.
        """
        return await self._source.boot_files("", DRIVERS, virt)

    async def begin(self, plan: PoolPlan) -> None:
        """From now on it is kept as planned; what is too much goes."""
        self.plan = check_plan(plan)
        if self._filling is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._filling = self._lives.create_task(self._fill(), name="pool")
        for each in self._surplus():
            await self._discard(each)
        self._changed.set()

    def take(self, boot: BootFiles, wanted: Resources) -> WarmMachine | None:
        """One that fits, which is the caller's from now on: it closes its stack, or gives it to another."""
        fitting = [each for each in self._warm if each.boot == boot and each.fits(wanted)]
        if not fitting:
            self.counts.missed += any(_fits(size.resources, wanted) for size in self.plan.sizes)
            return None
        chosen = min(fitting, key=lambda each: each.distance(wanted))
        self._warm.remove(chosen)
        self.counts.taken += 1
        self._changed.set()
        if chosen.watching is not None:
            chosen.watching.cancel()
        return chosen

    async def give_way(self, size: int) -> None:
        """Gives up machines until there is so much memory for somebody else, or none are left."""
        while self._warm and self._memory.room() < size:
            await self._discard(self._warm[-1])

    async def leave(self) -> None:
        """Destroys all of it."""
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.wait([self._filling])
        await asyncio.gather(*(self._discard(each) for each in tuple(self._warm)))

    def _surplus(self) -> list[WarmMachine]:
        left = {size.resources: size.count for size in self.plan.sizes}
        surplus: list[WarmMachine] = []
        for each in self._warm:
            if left.get(each.size, 0) > 0:
                left[each.size] -= 1
            else:
                surplus.append(each)
        return surplus

    def _missing(self) -> Resources | None:
        have = [each.size for each in self._warm]
        for size in self.plan.sizes:
            if have.count(size.resources) < size.count:
                return size.resources
        return None

    async def _fill(self) -> None:
        while True:
            self._changed.clear()
            missing = self._missing()
            if missing is None:
                await self._changed.wait()
                continue
            await self._calm.wait()
            try:
                made = await self._make(missing)
            except ZonalError as error:
                # No memory is no fault: the pool is for what nobody else needs.
                level = logging.DEBUG if isinstance(error, ResourceExhaustedError) else logging.WARNING
                log.log(level, "no zone could be booted ahead of time: %s", error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_SECONDS):
                        await self._changed.wait()
                continue
            self._warm.append(made)
            made.watching = self._lives.create_task(self._watch(made), name=f"warm {made.machine.name}")
            for each in self._surplus():
                await self._discard(each)

    async def _make(self, size: Resources) -> WarmMachine:
        zone_id = POOL_ID + secrets.token_hex(24)
        folder = self._folder / zone_id
        begun = time.monotonic_ns()
        boot = await self.boot_files()
        machine = Machine(
            *(self._host, self._memory, zone_id, f"warm-{zone_id[16:24]}", size, folder, PhaseClock(begun)),
            agent_timeout=self._agent_timeout,
        )
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            machine.open_log(stack)
            loop = stack.enter_context(self._host.loops.acquire(boot.system_image))
            disk = Disk(SYSTEM_DISK, loop.path, loop.device)
            domain = await machine.make(stack, boot, [partial(plan_vbd, disk=disk)])
            await domain.start()
            async with while_watching(machine.watch()):
                greeting = await machine.meet(stack)
            self.counts.ready_ns = [*self.counts.ready_ns[-99:], time.monotonic_ns() - begun]
            return WarmMachine(machine, stack.pop_all(), boot, greeting, size, folder)

    async def _watch(self, warm: WarmMachine) -> None:
        """Of one that nobody has taken: it may end by itself."""
        try:
            await warm.machine.watch()
        except ZonalError as error:
            log.warning("a zone that was booted ahead of time is lost: %s", error)
            self.counts.lost += 1
            warm.watching = None
            await self._discard(warm)
            self._changed.set()

    async def _discard(self, warm: WarmMachine) -> None:
        if warm in self._warm:
            self._warm.remove(warm)
        if warm.watching is not None:
            warm.watching.cancel()
        try:
            await warm.stack.aclose()
        except ZonalError as error:
            log.warning("a zone that was booted ahead of time cannot be removed: %s", error)


def _fits(size: Resources, wanted: Resources) -> bool:
    return wanted.vcpus <= size.vcpus and size.memory // 2 <= wanted.ceiling <= size.ceiling
