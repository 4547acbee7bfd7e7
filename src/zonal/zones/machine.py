"""A zone's domain with the agent in it: made or taken over, met, watched, and destroyed when its stack unwinds.

It knows nothing of workloads. One that was booted ahead of time is given to a zone by ``become``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Never

from zonal.errors import DeadlineError, WrongStateError, ZonalError, ZoneFailedError
from zonal.xen import domctl
from zonal.xen.abi.domctl import SHUTDOWN_CRASH
from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from zonal.xen.channel import Channel
from zonal.xen.console import Console
from zonal.xen.console_log import ConsoleLog
from zonal.xen.domain import (
    DevicePlan,
    Domain,
    DomainConfig,
    GivenFunction,
    create_domain,
    destroy_domain,
    domain_path,
)
from zonal.xen.domctl import DomainLimits
from zonal.xen.hypercall import HypercallError
from zonal.zones.boot_files import BootFiles
from zonal.zones.greeting import Greeting
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.phases import PhaseClock
from zonal.zones.resources import Resources
from zonal.zones.session import Session, open_session
from zonal.zones.zone_resources import ZoneResources

log = logging.getLogger(__name__)

CONSOLE_LOG = "console.log"
DEVICES_COMMAND_LINE = " iommu=soft swiotlb=8192"
"""A PCI device reaches memory by the machine's addresses: 16 MiB in one piece there are for what is not."""


def domain_uuid(zone_id: str) -> uuid.UUID:
    """A zone's domain has the first half of the zone's id for a handle: so it is known again, come what may."""
    return uuid.UUID(hex=zone_id[:32])


class Machine:
    """See the module."""

    def __init__(
        self,
        host: XenHost,
        memory: HostMemory,
        zone_id: str,
        name: str,
        resources: Resources,
        folder: Path,
        clock: PhaseClock,
        *,
        agent_timeout: float,
    ) -> None:
        """``folder``: for the console's log; ``agent_timeout``: seconds from the first instruction to the HELLO."""
        self.name = name
        self.domain_id = 0
        self.session: Session | None = None
        self.console_log: ConsoleLog | None = None
        self.console_begin = 0
        """Bytes of the console's file that are of earlier runs."""
        self.clock = clock
        self.resources = ZoneResources(host, memory, domain_uuid(zone_id).bytes, name, resources)
        self.leaving: Callable[[], bool] = bool
        """Whether the daemon goes and leaves the domain running."""
        self.doomed: Callable[[], str] = str
        """Why somebody had it destroyed; empty if nobody did."""
        self.before_destroying: Callable[[], Awaitable[None]] | None = None
        """Gives up what holds pages of the domain."""
        self.gone = asyncio.Event()
        self._host = host
        self._zone_id = zone_id
        self._folder = folder
        self._agent_timeout = agent_timeout

    def open_log(self, stack: AsyncExitStack) -> None:
        """The console's, until the stack unwinds."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.console_log = ConsoleLog(self._folder / CONSOLE_LOG)
        stack.callback(self.console_log.close)

    async def make(
        self,
        stack: AsyncExitStack,
        boot: BootFiles,
        devices: Sequence[DevicePlan],
        functions: tuple[GivenFunction, ...] = (),
    ) -> Domain:
        """The domain with its console, which does not run yet. Raises ``ZonalError``; the stack undoes it.

        ``functions``: of the machine's PCI devices.
        """
        self.resources.begin(stack)
        self.console_begin = (self._folder / CONSOLE_LOG).stat().st_size
        wanted = self.resources.now
        config = DomainConfig(
            name=self.name,
            kernel=boot.kernel,
            memory=wanted.memory,
            most_memory=wanted.ceiling,
            vcpus=wanted.vcpus,
            online_vcpus=wanted.cpus,
            command_line=boot.command_line + self.resources.command_line + (DEVICES_COMMAND_LINE if functions else ""),
            initrd=boot.initrd,
            devices=tuple(devices),
            readable=(("zonal", ""), ("zonal/host", self._epoch)),
            writable=("zonal/channel",),
            limits=DomainLimits(),
            virt=boot.virt,
            functions=functions,
            uuid=domain_uuid(self._zone_id),
        )
        domain = await create_domain(self._host.hypervisor, self._host.store, config)
        self.domain_id = domain.domain_id
        stack.push_async_callback(self._destroy)
        self.resources.domain_made(domain.domain_id)
        await self._open_console(stack, domain.built.console_port)
        return domain

    async def take_over(self, stack: AsyncExitStack, domain_id: int, console_port: int) -> None:
        """One that another daemon has left running."""
        self.domain_id = domain_id
        self.resources.take_over(stack, domain_id)
        stack.push_async_callback(self._destroy)
        await self._open_console(stack, console_port)

    async def meet(
        self,
        stack: AsyncExitStack,
        epoch: str = "",
        consumed: dict[int, int] | None = None,
        may_be_gone: dict[int, int] | None = None,
    ) -> Greeting:
        """Opens the session with its agent; see ``open_session``. Raises ``ZoneFailedError``."""
        path = f"{domain_path(self.domain_id)}/zonal/channel"
        host, timeout = self._host, self._agent_timeout
        try:
            channel = await Channel.connect(
                *(host.store, host.events, host.grants, self.domain_id, path),
                timeout=timeout,
                epoch=epoch or self._epoch,
            )
        except DeadlineError as error:
            raise self.failed(f"its agent did not answer within {timeout:g} s") from error
        opening = open_session(channel, consumed=consumed, may_be_gone=may_be_gone, timeout=timeout)
        self.session = await stack.enter_async_context(opening)
        return await self.session.greeted(timeout)

    async def become(self, zone_id: str, name: str, folder: Path, clock: PhaseClock) -> None:
        """From now on it is that zone's, whose id its handle tells, with its console's log so far."""
        domctl.set_handle(self._host.hypervisor, self.domain_id, domain_uuid(zone_id).bytes)
        self.resources.become(domain_uuid(zone_id).bytes, name)
        self._zone_id, self.name, self.clock = zone_id, name, clock
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._folder / CONSOLE_LOG).replace(folder / CONSOLE_LOG)
        if self.console_log is not None:
            self.console_log.path = folder / CONSOLE_LOG
        self._folder = folder
        await self._host.store.write(f"{domain_path(self.domain_id)}/name", name)

    async def watch(self) -> Never:
        """Raises ``ZoneFailedError`` once the domain has shut itself down, or was destroyed."""
        reason = await self._host.shutdowns.wait(self.domain_id)
        if doom := self.doomed():
            raise ZoneFailedError(f"zone {self.name} was destroyed: {doom}")
        what = "its kernel crashed" if reason == SHUTDOWN_CRASH else "it shut down before its workload had ended"
        raise self.failed(what)

    def pause(self) -> None:
        """Stops it as it is; doing so again changes nothing. Raises ``WrongStateError`` when it is gone."""
        info = domctl.domain_info(self._host.hypervisor, self.domain_id)
        if info is None:
            raise WrongStateError(f"zone {self.name} does not run")
        if not info.paused:
            domctl.pause_domain(self._host.hypervisor, self.domain_id)

    def unpause(self) -> None:
        """Lets it go on, if it was stopped."""
        info = domctl.domain_info(self._host.hypervisor, self.domain_id)
        if info is not None and info.paused:
            domctl.unpause_domain(self._host.hypervisor, self.domain_id)

    def kill(self) -> None:
        """Ends it as it is; ``watch`` tells."""
        try:
            domctl.destroy_domain(self._host.hypervisor, self.domain_id)
        except HypercallError as error:
            if error.errno != errno.ESRCH:  # it has just gone by itself
                raise

    def failed(self, what: str) -> ZoneFailedError:
        """The error that says so."""
        return ZoneFailedError(f"zone {self.name} failed: {what}")

    @property
    def _epoch(self) -> str:
        return self._zone_id[:16]

    async def _open_console(self, stack: AsyncExitStack, port: int) -> None:
        assert self.console_log is not None
        page = stack.enter_context(self._host.grants.map(self.domain_id, [GNTTAB_RESERVED_CONSOLE]))
        event = stack.enter_context(self._host.events.bind_interdomain(self.domain_id, port))
        console = stack.enter_context(Console(page.buffer, event, self.console_log, name=self.name))
        reading = asyncio.ensure_future(console.run())
        reading.add_done_callback(self._console_stopped)

        async def finish() -> None:
            reading.cancel()
            await asyncio.wait([reading])
            # The last words, such as a panic's.
            with suppress(ZonalError):
                for _ in range(64):
                    if not console.drain():
                        break

        stack.push_async_callback(finish)

    def _console_stopped(self, reading: asyncio.Future[None]) -> None:
        if not reading.cancelled() and (error := reading.exception()) is not None:
            log.warning("zone %s: its console is kept no longer: %s", self.name, error)

    async def _destroy(self) -> None:
        if self.leaving():
            return
        try:
            with self.clock.phase("teardown"):
                if self.before_destroying is not None:
                    await self.before_destroying()
                await destroy_domain(self._host.hypervisor, self._host.store, self.domain_id)
        finally:
            self.gone.set()
