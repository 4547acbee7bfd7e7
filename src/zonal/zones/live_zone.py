"""One zone whose domain runs: launched or taken over, watched until its workload has ended, and taken apart.

One without a workload of its own houses others' (``zonal.zones.live_workload``), and runs until somebody stops it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zonal.errors import UnavailableError, WrongStateError, ZoneFailedError
from zonal.network.attachments import Attachments
from zonal.xen.devices.vbd import Disk, plan_vbd
from zonal.xen.domain import DevicePlan, domain_path
from zonal.zones.allotments import Allotments
from zonal.zones.boot_files import BootFiles
from zonal.zones.boot_log import BootStep, kernel_lines, zone_steps
from zonal.zones.greeting import Greeting, WorkloadState
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.life import CALL_TIMEOUT, STATUS_KILLED, Life
from zonal.zones.machine import Machine
from zonal.zones.networking import ZoneNetwork
from zonal.zones.oci_linux import is_of_container
from zonal.zones.oci_spec import ZONE_INIT
from zonal.zones.passthrough import ZoneDevices
from zonal.zones.phases import PhaseClock
from zonal.zones.resources import Resources
from zonal.zones.restart import stops
from zonal.zones.session import Session
from zonal.zones.spec import ExecSpec, ExitResult, ZoneSpec, ZoneStatistics
from zonal.zones.state import ZoneStore
from zonal.zones.statistics import read_statistics
from zonal.zones.storage import StorageSources, ZoneStorage
from zonal.zones.watching import while_watching
from zonal.zones.workload import SIGKILL, Workload

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value
    from zonal.zones.execs import ExecProcess
    from zonal.zones.live_workload import LiveWorkload
    from zonal.zones.mounts import Attached
    from zonal.zones.pool import WarmMachine
    from zonal.zones.programs import ContainerFiles

log = logging.getLogger(__name__)

WORKLOAD = "workload"
"""The agent's name for the workload that is a zone's own."""
SYSTEM_DISK, IMAGE_DISK = "xvda", "xvdb"
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
        self.machine = Machine(
            *(host, memory, spec.id, spec.name, spec.resources, folder, clock), agent_timeout=agent_timeout
        )
        self._network = ZoneNetwork(host, attachments, records, spec)
        self._devices = ZoneDevices(host, spec, lambda: self.leaving)
        self._modules = storage.modules
        self._stopping = asyncio.Event()
        """Set when one without a workload of its own is to end."""

    async def launch(self, stack: AsyncExitStack, boot: BootFiles, image: Path | None) -> None:
        """From nothing to a started workload, if it has one. Raises ``ZonalError``; the stack undoes what was done."""
        spec, clock = self.spec, self.clock
        self._check_init()
        machine = self._machine()
        with clock.phase("domain"):
            self._open_logs(stack)
            if self.workload.log is not None:
                self.workload.log.begin_again()
            self._network.begin(stack, lambda: self.leaving)
            plans = await self._open_disks(stack, ((SYSTEM_DISK, boot.system_image), (IMAGE_DISK, image)))
            functions = await self._devices.borrow(stack)
            domain = await machine.make(stack, boot, (*plans, *self._network.plans()), functions)
            self.domain_id = domain.domain_id
            self._devices.domain_made(domain.domain_id)
            self._records.update(spec.id, domain_id=domain.domain_id, virt=str(boot.virt))
            await self._network.domain_made(domain.domain_id)
            await domain.start()
        started = clock.now()
        async with while_watching(machine.watch()):
            greeting = await machine.meet(stack)
            self._leave_execs(stack)
            ready = clock.now()
            agent_ns = max(0, min(greeting.ready_ns - greeting.started_ns, ready - started))
            clock.add("kernel", started, ready - agent_ns)
            clock.add("agent", ready - agent_ns, ready)
            self._note(greeting, ready)
            if functions:
                with clock.phase("devices"):
                    await self._devices.supply(self._session_of(machine), self._modules, greeting.kernel_release)
            with clock.phase("container"):
                await self._furnish(stack)

    async def launch_warm(self, stack: AsyncExitStack, warm: WarmMachine, image: Path | None) -> None:
        """The same with a machine that runs already, which from now on is this zone's. Raises ``ZonalError``."""
        spec, clock = self.spec, self.clock
        self._check_init()
        self.machine = warm.machine
        machine = self._machine()
        with clock.phase("domain"):
            self.domain_id = machine.domain_id
            # Who is killed from here on leaves a domain that is told by its record, or by its handle.
            self._records.update(spec.id, domain_id=machine.domain_id, virt=str(warm.boot.virt))
            await machine.become(spec.id, spec.name, self.folder, clock)
            if not spec.houses:
                self.workload.open_log(stack, self.folder, spec).begin_again()
            self._network.begin(stack, lambda: self.leaving)
            plans = await self._open_disks(stack, ((IMAGE_DISK, image),))
            # Of what it is made goes after it.
            stack.push_async_exit(warm.stack.pop_all())
            self._leave_execs(stack)
            await self._plug((*plans, *self._network.plans()), (IMAGE_DISK,) if image is not None else ())
            await self._network.domain_made(machine.domain_id)
            if spec.resources != machine.resources.now:
                await machine.resources.change(spec.resources, self._session_of(machine))
                await machine.resources.arrived()
        async with while_watching(machine.watch()):
            self._note(warm.greeting, clock.now())
            with clock.phase("container"):
                await self._furnish(stack)

    def adopt_devices(self, domain_id: int) -> None:
        """Of a domain that another daemon has left running, before anybody else may ask for them."""
        self._devices.adopt(domain_id)

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
        machine = self._machine()
        self._open_logs(stack)
        self._network.take_over(stack, lambda: self.leaving)
        self._storage.take_over(stack, mounted)
        self._devices.take_over(stack)
        await machine.take_over(stack, domain_id, console_port)
        async with while_watching(machine.watch()):
            await self.met.wait()
            await self._host.store.write(f"{domain_path(domain_id)}/zonal/host", epoch)
            shared: dict[int, int] = {}
            for each in tuple(self.workloads.values()):
                await each.logs_open.wait()
                shared |= each.workload.consumed
            greeting = await machine.meet(stack, epoch, self.workload.consumed, shared)
        self.found = greeting.workloads
        session = self._session = self._session_of(machine)
        self._leave_execs(stack)
        if not self.spec.houses:
            self.workload.take_over(session, self.spec)
            self.execs.take_over(session, greeting.workloads)
        machine.resources.attend(stack, session)

    async def until_end(self) -> ExitResult:
        """See ``Life``; of one without a workload of its own, until it is stopped."""
        assert self._session is not None
        begin = self.clock.now()
        try:
            async with while_watching(self.machine.watch()):
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
        self.machine.pause()
        self.going.clear()
        self.pauses += 1

    async def unpause(self) -> None:
        """Lets the domain go on; see ``Life``."""
        self.machine.unpause()
        self.met.set()
        self.going.set()

    async def statistics(self, *, ask: bool) -> ZoneStatistics:
        """See ``Life``."""
        session = self._session if ask and not self.ended.done() else None
        ceiling, traffic = self.machine.resources.now.ceiling, self._network.read_traffic
        name = "" if self.spec.houses else WORKLOAD
        # Of xvda to xvdz it is told anyway.
        shared = [disk for each in self.workloads.values() for disk in each.disk_names if len(disk) > len(SYSTEM_DISK)]
        return await read_statistics(
            *(self._host, self.domain_id, session, name), ceiling=ceiling, network=traffic, shared_disks=shared
        )

    async def change_resources(self, wanted: Resources) -> None:
        """Gives it more or less; see ``ZoneResources.change``."""
        await self.machine.resources.change(wanted, self.running_session())

    async def kernel_log(self, zero_ns: int) -> tuple[BootStep, ...]:
        """What its kernel says that it has said; its clock was zero at ``zero_ns``. Raises ``ZonalError``."""
        return kernel_lines(await self.running_session().call("kernel_log", {}, CALL_TIMEOUT), zero_ns)

    async def destroy(self, why: str) -> None:
        """Destroys the domain under whatever runs there; see ``Life``."""
        for each in (self, *self.workloads.values()):
            each.mark_stopped()
        self.doom = self.doom or why
        self.machine.kill()
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

    def rename(self, name: str) -> None:
        """See ``Life``."""
        super().rename(name)
        self.machine.name = name

    def _check_init(self) -> None:
        if self.spec.runtime.init and not Path(ZONE_INIT).exists():
            raise UnavailableError(f"the host has no {ZONE_INIT}, which --init needs", hint="apt-get install tini")

    def _machine(self) -> Machine:
        """It asks what only we know."""
        machine = self.machine
        machine.leaving = lambda: self.leaving
        machine.doomed = lambda: self.doom
        machine.before_destroying = self._let_go
        return machine

    async def _let_go(self) -> None:
        for each in (self, *self.workloads.values()):
            await each.close_before_domain()

    def _open_logs(self, stack: AsyncExitStack) -> None:
        self.machine.open_log(stack)
        if not self.spec.houses:
            self.workload.open_log(stack, self.folder, self.spec)

    async def _open_disks(self, stack: AsyncExitStack, files: Sequence[tuple[str, Path | None]]) -> list[DevicePlan]:
        disks: list[Disk] = []
        for name, path in files:
            if path is not None:
                loop = stack.enter_context(self._host.loops.acquire(path))
                disks.append(Disk(name, loop.path, loop.device))
        return [*(partial(plan_vbd, disk=disk) for disk in disks), *await self._storage.open_at_launch(stack)]

    def _note(self, greeting: Greeting, ready_ns: int) -> None:
        """What the agent has said of itself."""
        self._records.update(
            self.spec.id,
            agent_resident_bytes=greeting.resident_bytes,
            kernel_release=greeting.kernel_release,
            boot_steps=zone_steps(greeting.steps, ready_ns - greeting.ready_ns),
        )

    async def _furnish(self, stack: AsyncExitStack) -> None:
        """Makes of a zone that has just been met, with its devices, what it is to be."""
        spec, session = self.spec, self._session_of(self.machine)
        self._session = session
        self.machine.resources.attend(stack, session)
        await session.call("configure", {"hostname": spec.hostname, "sysctls": dict(_SYSCTLS)}, CALL_TIMEOUT)
        if not spec.houses:
            await self._prepare(session, IMAGE_DISK)
        await self._configure(session)
        if not spec.houses:
            await self._start_workload(session)

    @staticmethod
    def _session_of(machine: Machine) -> Session:
        assert machine.session is not None
        return machine.session

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
                raise self.machine.failed(session.end_reason or "its agent was lost")
        finally:
            stopping.cancel()
            lost.cancel()
        return ExitResult(0)
