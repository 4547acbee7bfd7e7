"""One zone's share of the machine as it lives: asked for, given, looked after, changed, and given back."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

from zonal.errors import InvalidInputError, ResourceExhaustedError, ZoneFailedError
from zonal.xen import domctl
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.domain import availability, domain_path
from zonal.xen.scheduling import set_affinity, set_share
from zonal.zones.balloon import Balloon, headroom
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.resources import MIB, Resources, check_cpuset
from zonal.zones.session import CallRefusedError, Session

log = logging.getLogger(__name__)

CALL_TIMEOUT = 60.0
ARRIVAL_TIMEOUT, ARRIVAL_PAUSE = 10.0, 0.02
"""Seconds that memory may take to be taken in, and between looks: the balloon driver tells nobody."""

# Linux gives what lies beyond a domain's first memory to those who map others' pages, which no zone does, rather than
# to its balloon driver, unless this is left out (arch_xen_unpopulated_init in arch/x86/xen/enlighten.c).
_ELASTIC_OPTION = "initcall_blacklist=unpopulated_init"


class ZoneResources:
    """See the module."""

    def __init__(self, host: XenHost, memory: HostMemory, owner: bytes, name: str, wanted: Resources) -> None:
        """``owner``: the handle of the zone's domain."""
        self.now = wanted
        self._host = host
        self._memory = memory
        self._owner = owner
        self._name = name
        self._domain_id = 0
        self._balloon = Balloon(host, memory, owner, name)
        self._attending: asyncio.Future[None] | None = None
        self._session: Session | None = None
        self._changing = asyncio.Lock()

    @property
    def command_line(self) -> str:
        """What the kernel is to be told besides."""
        return f" {_ELASTIC_OPTION}" if self.now.elastic else ""

    def begin(self, stack: AsyncExitStack) -> None:
        """Asks for the first memory. Raises ``ResourceExhaustedError``, ``InvalidInputError`` for CPUs that are not."""
        check_cpuset(self.now.cpuset, domctl.physical_info(self._host.hypervisor).max_cpu_id)
        self._memory.begin(self._owner, self.now.memory)
        stack.callback(self._end)

    def domain_made(self, domain_id: int) -> None:
        """The domain is there, and does not run yet. Raises ``ZonalError``."""
        self._domain_id = domain_id
        self._give(self.now, before=Resources(memory=self.now.memory))
        self._balloon.floor, self._balloon.ceiling = self.now.memory, self.now.ceiling
        self._balloon.begin(domain_id, self.now.memory)

    def take_over(self, stack: AsyncExitStack, domain_id: int) -> None:
        """A domain of an earlier daemon's, as it is."""
        self._domain_id = domain_id
        info = domctl.domain_info(self._host.hypervisor, domain_id)
        target = info.max_pages * PAGE_SIZE if info else self.now.memory
        self._memory.take_over(self._owner, target)
        stack.callback(self._end)
        self._balloon.floor, self._balloon.ceiling = self.now.memory, self.now.ceiling
        self._balloon.begin(domain_id, target)

    def become(self, owner: bytes, name: str) -> None:
        """The domain is another zone's from now on; ``owner`` is its new handle."""
        self._memory.become(self._owner, owner)
        self._balloon.become(owner, name)
        self._owner, self._name = owner, name

    def attend(self, stack: AsyncExitStack, session: Session) -> None:
        """From now on its memory is looked after, if there is need to, for as long as the stack is there."""
        self._session = session
        if self._attending is None:
            self._attend(session)

        async def finish() -> None:
            if self._attending is not None:
                self._attending.cancel()
                await asyncio.wait([self._attending])

        stack.push_async_callback(finish)

    async def change(self, wanted: Resources, session: Session) -> None:
        """Gives it more or less.

        Raises ``ResourceExhaustedError`` when that is not to be had, ``InvalidInputError`` for what the domain was not
        built for, and ``ZoneFailedError`` when its kernel does not bring its CPUs online.
        """
        async with self._changing:
            await self._check(wanted, session)
            before = self.now
            await self._balloon.set_limits(wanted.memory, wanted.ceiling)
            self._give(wanted, before=before)
            self.now = wanted
            if self._attending is not None and not self._attending.done():
                await self._balloon.tell(session)
            else:
                self._attend(session)
            if wanted.cpus != before.cpus:
                await self._set_online(wanted.cpus, session)

    async def _check(self, wanted: Resources, session: Session) -> None:
        path = domain_path(self._domain_id)
        most = await self._host.store.read_int(f"{path}/memory/static-max", 1, 1 << 40) * 1024
        if wanted.ceiling > most:
            raise InvalidInputError(
                f"zone {self._name} was started for at most {most // MIB} MiB of memory, and cannot have "
                f"{wanted.ceiling // MIB} MiB as it runs",
                hint="stop it, update it, and start it again",
            )
        info = domctl.domain_info(self._host.hypervisor, self._domain_id)
        built = info.max_vcpu_id + 1 if info else 0
        if wanted.cpus > built:
            raise InvalidInputError(
                f"zone {self._name} was started for at most {built} CPUs, and cannot have {wanted.cpus} as it runs",
                hint="stop it, update it, and start it again",
            )
        check_cpuset(wanted.cpuset, domctl.physical_info(self._host.hypervisor).max_cpu_id)
        if wanted.ceiling < self._balloon.target:
            said = await session.call("statistics", {}, CALL_TIMEOUT)
            available = said.get("memory_available") if isinstance(said, dict) else None
            held = info.total_pages * PAGE_SIZE if info else 0
            used = held - min(max(available, 0), held) if isinstance(available, int) else 0
            if used + headroom(wanted.ceiling) // 2 > wanted.ceiling:
                raise ResourceExhaustedError(
                    f"zone {self._name} uses {used // MIB} MiB of memory, too much for "
                    f"{wanted.ceiling // MIB} MiB at most",
                    hint="give it more, or have it use less first",
                )

    def _give(self, wanted: Resources, *, before: Resources) -> None:
        hypervisor = self._host.hypervisor
        if wanted.share != before.share:
            set_share(hypervisor, self._domain_id, wanted.share)
        if wanted.cpuset != before.cpuset:
            last = domctl.physical_info(hypervisor).max_cpu_id
            cpus = check_cpuset(wanted.cpuset, last) or range(last + 1)
            info = domctl.domain_info(hypervisor, self._domain_id)
            for vcpu in range(info.max_vcpu_id + 1 if info else 0):
                set_affinity(hypervisor, self._domain_id, vcpu, cpus)

    async def _set_online(self, count: int, session: Session) -> None:
        info = domctl.domain_info(self._host.hypervisor, self._domain_id)
        for vcpu in range(info.max_vcpu_id + 1 if info else 0):
            path = f"{domain_path(self._domain_id)}/cpu/{vcpu}/availability"
            await self._host.store.write(path, availability(online=vcpu < count))
        try:
            await session.call("cpus", {"count": count}, CALL_TIMEOUT)
        except CallRefusedError as error:
            raise ZoneFailedError(f"zone {self._name} cannot change its CPUs: {error.reason}") from error
        info = domctl.domain_info(self._host.hypervisor, self._domain_id)
        if info is not None and info.online_vcpus != count:
            raise ZoneFailedError(
                f"zone {self._name} has {info.online_vcpus} CPUs online, and not {count} as it was asked to",
                hint="its console may say why: zonal zone console ZONE",
            )

    async def arrived(self) -> None:
        """Until the zone has taken what it was given, within reason: who asks there how much there is, is to see it."""
        deadline = time.monotonic() + ARRIVAL_TIMEOUT
        while time.monotonic() < deadline:
            info = domctl.domain_info(self._host.hypervisor, self._domain_id)
            if info is None or info.total_pages * PAGE_SIZE >= self._balloon.target - MIB:
                return
            await asyncio.sleep(ARRIVAL_PAUSE)

    def _end(self) -> None:
        self._memory.end(self._owner)

    def _attend(self, session: Session) -> None:
        if self._balloon.elastic:
            self._attending = asyncio.ensure_future(self._balloon.attend(session))
            self._attending.add_done_callback(self._attended)

    def _attended(self, attending: asyncio.Future[None]) -> None:
        if not attending.cancelled() and (error := attending.exception()) is not None:
            log.error("zone %s: a fault of zonald's in what looks after its memory", self._name, exc_info=error)
