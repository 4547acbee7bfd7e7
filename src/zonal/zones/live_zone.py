"""One zone whose domain runs: launched or taken over, watched until its workload has ended, and taken apart.

One without a workload of its own houses others' (``zonal.zones.live_workload``), and runs until somebody stops it.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Never

from zonal.errors import DeadlineError, UnavailableError, WrongStateError, ZonalError, ZoneFailedError
from zonal.network.attachments import Attachments
from zonal.xen import domctl
from zonal.xen.abi.domctl import SHUTDOWN_CRASH
from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from zonal.xen.channel import Channel
from zonal.xen.console import Console
from zonal.xen.console_log import ConsoleLog
from zonal.xen.devices.vbd import Disk, plan_vbd
from zonal.xen.domain import DomainConfig, create_domain, destroy_domain, domain_path, wait_shutdown
from zonal.xen.domctl import DomainLimits
from zonal.zones.allotments import Allotments
from zonal.zones.boot_files import BootFiles
from zonal.zones.boot_log import BootStep, kernel_lines, zone_steps
from zonal.zones.greeting import WorkloadState
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.life import CALL_TIMEOUT, STATUS_KILLED, Life
from zonal.zones.networking import ZoneNetwork
from zonal.zones.oci_linux import is_of_container
from zonal.zones.oci_spec import ZONE_INIT
from zonal.zones.phases import PhaseClock
from zonal.zones.resources import Resources
from zonal.zones.restart import stops
from zonal.zones.session import Session, open_session
from zonal.zones.spec import ExecSpec, ExitResult, ZoneSpec, ZoneStatistics
from zonal.zones.state import ZoneStore
from zonal.zones.statistics import read_statistics
from zonal.zones.storage import StorageSources, ZoneStorage
from zonal.zones.watching import while_watching
from zonal.zones.workload import SIGKILL, Workload
from zonal.zones.zone_resources import ZoneResources

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value
    from zonal.zones.execs import ExecProcess
    from zonal.zones.live_workload import LiveWorkload
    from zonal.zones.mounts import Attached
    from zonal.zones.programs import ContainerFiles

log = logging.getLogger(__name__)

WORKLOAD = "workload"
"""The agent's name for the workload that is a zone's own."""
SYSTEM_DISK, IMAGE_DISK = "xvda", "xvdb"
CONSOLE_LOG = "console.log"
_SYSCTLS = {
    # As docker has it: every user may ping, and have any port.
    "net.ipv4.ping_group_range": "0 2147483647",
    "net.ipv4.ip_unprivileged_port_start": "0",
}


class LiveZone(Life):
    """See the module."""

    def __init__(
        self,
        host: XenHost,
        records: ZoneStore,
        spec: ZoneSpec,
        folder: Path,
        clock: PhaseClock,
        *,
        storage: StorageSources,
        attachments: Attachments,
        memory: HostMemory,
        agent_timeout: float,
        lives: asyncio.TaskGroup,
    ) -> None:
        """``agent_timeout``: seconds from the domain's first instruction to the agent's HELLO.

        ``lives``: for tasks that go on beside the zone's own.
        """
        self.allotments = Allotments()
        disks = ZoneStorage(host, storage, records, spec, folder, self.allotments)
        super().__init__(*(host, records, spec, folder, clock), workload=Workload(WORKLOAD), storage=disks, lives=lives)
        self.workloads: dict[str, LiveWorkload] = {}
        """Those that share it, by id; each puts itself in and takes itself out."""
        self.found: tuple[WorkloadState, ...] = ()
        """What its agent had when it was taken over."""
        self._agent_timeout = agent_timeout
        self._network = ZoneNetwork(host, attachments, records, spec)
        self._resources = ZoneResources(host, memory, self.domain_uuid(spec.id).bytes, spec.name, spec.resources)
        self._console_log: ConsoleLog | None = None
        self._stopping = asyncio.Event()
        """Set when one without a workload of its own is to end."""
        self.domain_gone = asyncio.Event()
        self.console_begin = 0
        """Bytes of the console's file that are of earlier runs."""

    @property
    def console_log(self) -> ConsoleLog | None:
        """The console's log while it is open."""
        return self._console_log

    @staticmethod
    def domain_uuid(zone_id: str) -> uuid.UUID:
        """A zone's domain has the first half of the zone's id for a handle: so it is known again, come what may."""
        return uuid.UUID(hex=zone_id[:32])

    async def launch(self, stack: AsyncExitStack, boot: BootFiles, image: Path | None) -> None:
        """From nothing to a started workload, if it has one. Raises ``ZonalError``; the stack undoes what was done."""
        spec, clock = self.spec, self.clock
        if spec.runtime.init and not Path(ZONE_INIT).exists():
            raise UnavailableError(f"the host has no {ZONE_INIT}, which --init needs", hint="apt-get install tini")
        with clock.phase("domain"):
            self._open_logs(stack)
            if self.workload.log is not None:
                self.workload.log.begin_again()
            self._resources.begin(stack)
            self.console_begin = (self.folder / CONSOLE_LOG).stat().st_size
            self._network.begin(stack, lambda: self.leaving)
            disks: list[Disk] = []
            for name, path in ((SYSTEM_DISK, boot.system_image), (IMAGE_DISK, image)):
                if path is None:
                    continue
                loop = stack.enter_context(self._host.loops.acquire(path))
                disks.append(Disk(name, loop.path, loop.device))
            storage = await self._storage.open_at_launch(stack)
            config = DomainConfig(
                name=spec.name,
                kernel=boot.kernel,
                memory=spec.resources.memory,
                most_memory=spec.resources.ceiling,
                vcpus=spec.resources.vcpus,
                online_vcpus=spec.resources.cpus,
                command_line=boot.command_line + self._resources.command_line,
                initrd=boot.initrd,
                devices=(*(partial(plan_vbd, disk=disk) for disk in disks), *storage, *self._network.plans()),
                readable=(("zonal", ""), ("zonal/host", spec.id[:16])),
                writable=("zonal/channel",),
                limits=DomainLimits(),
                uuid=self.domain_uuid(spec.id),
            )
            domain = await create_domain(self._host.hypervisor, self._host.store, config)
            self.domain_id = domain.domain_id
            stack.push_async_callback(self._destroy)
            self._records.update(spec.id, domain_id=domain.domain_id)
            self._resources.domain_made(domain.domain_id)
            await self._network.domain_made(domain.domain_id)
            await self._open_console(stack, domain.built.console_port)
            await domain.start()
        started = clock.now()
        async with while_watching(self._watch_domain()):
            session = await self._open_session(stack, spec.id[:16])
            greeting = await session.greeted(self._agent_timeout)
            ready = clock.now()
            agent_ns = max(0, min(greeting.ready_ns - greeting.started_ns, ready - started))
            clock.add("kernel", started, ready - agent_ns)
            clock.add("agent", ready - agent_ns, ready)
            self._records.update(
                spec.id,
                agent_resident_bytes=greeting.resident_bytes,
                kernel_release=greeting.kernel_release,
                boot_steps=zone_steps(greeting.steps, ready - greeting.ready_ns),
            )
            with clock.phase("container"):
                self._resources.attend(stack, session)
                await session.call("configure", {"hostname": spec.hostname, "sysctls": dict(_SYSCTLS)}, CALL_TIMEOUT)
                if not spec.houses:
                    await self._prepare(session, IMAGE_DISK)
                await self._configure(session)
                if not spec.houses:
                    await self._start_workload(session)

    async def take_over(
        self,
        stack: AsyncExitStack,
        domain_id: int,
        console_port: int,
        epoch: str,
        mounted: tuple[Attached, ...],
    ) -> None:
        """From a domain that another daemon has left running to the same state as after ``launch``."""
        self.domain_id = domain_id
        self.taken_over = True
        self._open_logs(stack)
        self._resources.take_over(stack, domain_id)
        self._network.take_over(stack, lambda: self.leaving)
        self._storage.take_over(stack, mounted)
        stack.push_async_callback(self._destroy)
        await self._open_console(stack, console_port)
        async with while_watching(self._watch_domain()):
            await self.met.wait()
            await self._host.store.write(f"{domain_path(domain_id)}/zonal/host", epoch)
            shared: dict[int, int] = {}
            for each in tuple(self.workloads.values()):
                await each.logs_open.wait()
                shared |= each.workload.consumed
            session = await self._open_session(stack, epoch, self.workload.consumed, shared)
            greeting = await session.greeted(self._agent_timeout)
        self.found = greeting.workloads
        if not self.spec.houses:
            self.workload.take_over(session, self.spec)
            self.execs.take_over(session, greeting.workloads)
        self._resources.attend(stack, session)

    async def until_end(self) -> ExitResult:
        """See ``Life``; of one without a workload of its own, until it is stopped."""
        assert self._session is not None
        begin = self.clock.now()
        try:
            async with while_watching(self._watch_domain()):
                if self.spec.houses:
                    exit_ = await self._until_stopped(self._session)
                else:
                    exit_ = await self._carry(self._session)
                self._network.begin_end()
                await self.execs.finish()
                await self._settled(self._storage.settle(self._session, WORKLOAD, keep=self.kept))
        except ZoneFailedError:
            self.clock.add("run", begin, self.clock.now())
            if not self.doom:
                raise
            return ExitResult(STATUS_KILLED, self.doom)
        self.clock.add("run", begin, self.clock.now())
        return exit_

    async def signal(self, number: int) -> None:
        """See ``Life``; what would end a workload ends a zone that has none, and all else it does not hear."""
        if not self.spec.houses:
            await super().signal(number)
        elif number == SIGKILL:
            await self.destroy("killed")
        elif stops(number, self.spec.stop_signal):
            self.mark_stopped()
            self._stopping.set()

    async def stop(self, number: int, timeout: float) -> None:
        """See ``Life``; the workloads that share it are stopped first, each by its own signal."""
        if self.workloads:
            self.mark_stopped()
            stopping = [each.stop(each.spec.stop_signal, timeout) for each in tuple(self.workloads.values())]
            for failure in await asyncio.gather(*stopping, return_exceptions=True):
                if isinstance(failure, Exception):
                    log.info("zone %s: %s", self.spec.name, failure)
        await super().stop(number, timeout)

    async def exec(self, spec: ExecSpec) -> ExecProcess:
        """See ``Life``."""
        self._check_own_workload()
        return await super().exec(spec)

    def files(self) -> ContainerFiles:
        """See ``Life``."""
        self._check_own_workload()
        return super().files()

    async def pause(self) -> None:
        """Stops the domain; see ``Life``."""
        info = domctl.domain_info(self._host.hypervisor, self.domain_id)
        if info is None:
            raise WrongStateError(f"zone {self.spec.name} does not run")
        if not info.paused:
            domctl.pause_domain(self._host.hypervisor, self.domain_id)
        self.going.clear()
        self.pauses += 1

    async def unpause(self) -> None:
        """Lets the domain go on; see ``Life``."""
        info = domctl.domain_info(self._host.hypervisor, self.domain_id)
        if info is not None and info.paused:
            domctl.unpause_domain(self._host.hypervisor, self.domain_id)
        self.met.set()
        self.going.set()

    async def statistics(self, *, ask: bool) -> ZoneStatistics:
        """See ``Life``."""
        session = self._session if ask and not self.ended.done() else None
        ceiling, carried = self._resources.now.ceiling, self._network.carried_bytes
        name = "" if self.spec.houses else WORKLOAD
        return await read_statistics(self._host, self.domain_id, session, name, ceiling=ceiling, network=carried)

    async def change_resources(self, wanted: Resources) -> None:
        """Gives it more or less; see ``ZoneResources.change``."""
        await self._resources.change(wanted, self.running_session())

    async def kernel_log(self, zero_ns: int) -> tuple[BootStep, ...]:
        """What its kernel says that it has said; its clock was zero at ``zero_ns``. Raises ``ZonalError``."""
        return kernel_lines(await self.running_session().call("kernel_log", {}, CALL_TIMEOUT), zero_ns)

    async def destroy(self, why: str) -> None:
        """Destroys the domain under whatever runs there; see ``Life``."""
        for each in (self, *self.workloads.values()):
            each.mark_stopped()
        self.doom = self.doom or why
        domctl.destroy_domain(self._host.hypervisor, self.domain_id)
        await self.gone()

    @property
    def outlived(self) -> bool:
        """See ``Life``; what shares it counts."""
        return super().outlived or any(each.outlived for each in self.workloads.values())

    def _check_own_workload(self) -> None:
        if self.spec.houses:
            names = ", ".join(sorted(each.spec.name for each in self.workloads.values())) or "none yet"
            raise WrongStateError(
                f"zone {self.spec.name} has no workload of its own", hint=f"name one of those that share it: {names}"
            )

    def _open_logs(self, stack: AsyncExitStack) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.spec.houses:
            self.workload.open_log(stack, self.folder, self.spec)
        self._console_log = ConsoleLog(self.folder / CONSOLE_LOG)
        stack.callback(self._console_log.close)

    async def _open_console(self, stack: AsyncExitStack, port: int) -> None:
        assert self._console_log is not None
        page = stack.enter_context(self._host.grants.map(self.domain_id, [GNTTAB_RESERVED_CONSOLE]))
        event = stack.enter_context(self._host.events.bind_interdomain(self.domain_id, port))
        console = stack.enter_context(Console(page.buffer, event, self._console_log, name=self.spec.name))
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
            log.warning("zone %s: its console is kept no longer: %s", self.spec.name, error)

    async def _open_session(
        self,
        stack: AsyncExitStack,
        epoch: str,
        consumed: dict[int, int] | None = None,
        shared: dict[int, int] | None = None,
    ) -> Session:
        path = f"{domain_path(self.domain_id)}/zonal/channel"
        try:
            channel = await Channel.connect(
                self._host.store,
                self._host.events,
                self._host.grants,
                self.domain_id,
                path,
                timeout=self._agent_timeout,
                epoch=epoch,
            )
        except DeadlineError as error:
            raise self._failed(f"its agent did not answer within {self._agent_timeout:g} s") from error
        opening = open_session(channel, consumed=consumed, may_be_gone=shared, timeout=self._agent_timeout)
        session = await stack.enter_async_context(opening)
        self._leave_execs(stack)
        self._session = session
        return session

    async def _configure(self, session: Session) -> None:
        """The network, and what the user wants of the kernel. Raises ``ZonalError``."""
        await self._network.configure(session)
        options = self.spec.runtime
        # The container's own are crun's to set.
        own: dict[str, Value] = {
            name: value for name, value in options.sysctls if not is_of_container(name, options.namespaces)
        }
        await self._set_sysctls(session, own)

    async def _until_stopped(self, session: Session) -> ExitResult:
        stopping = asyncio.ensure_future(self._stopping.wait())
        lost = asyncio.ensure_future(session.until_end())
        try:
            await asyncio.wait([stopping, lost], return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                raise self._failed(session.end_reason or "its agent was lost")
        finally:
            stopping.cancel()
            lost.cancel()
        return ExitResult(0)

    async def _watch_domain(self) -> Never:
        """Raises ``ZoneFailedError`` once the domain has shut itself down, or was destroyed."""
        reason = await wait_shutdown(self._host.hypervisor, self._host.store, self.domain_id)
        if self.doom:
            raise ZoneFailedError(f"zone {self.spec.name} was destroyed: {self.doom}")
        what = "its kernel crashed" if reason == SHUTDOWN_CRASH else "it shut down before its workload had ended"
        raise self._failed(what)

    async def _destroy(self) -> None:
        if self.leaving:
            return
        try:
            with self.clock.phase("teardown"):
                for each in (self, *self.workloads.values()):
                    await each.close_before_domain()
                await destroy_domain(self._host.hypervisor, self._host.store, self.domain_id)
        finally:
            self.domain_gone.set()
