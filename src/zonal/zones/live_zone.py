"""One zone whose domain runs: launched or taken over, watched until its workload has ended, and taken apart.

All that a zone holds is on one stack, made and unmade by the one task that is the zone's life.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Never

from zonal.errors import (
    DeadlineError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    WrongStateError,
    ZonalError,
    ZoneFailedError,
)
from zonal.network.attachments import Attachments
from zonal.xen import domctl
from zonal.xen.abi.domctl import SHUTDOWN_CRASH
from zonal.xen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from zonal.xen.channel import Channel
from zonal.xen.console import Console
from zonal.xen.console_log import ConsoleLog
from zonal.xen.devices.vbd import Disk, plan_vbd
from zonal.xen.domain import DomainConfig, create_domain, destroy_domain, domain_path
from zonal.xen.domctl import DomainLimits
from zonal.zones.boot_files import BootFiles
from zonal.zones.boot_log import BootStep, kernel_lines, zone_steps
from zonal.zones.execs import PROBE, ExecProcess, Execs
from zonal.zones.host import XenHost
from zonal.zones.host_memory import HostMemory
from zonal.zones.mounts import Attached, Mount
from zonal.zones.networking import ZoneNetwork
from zonal.zones.oci_linux import is_of_container
from zonal.zones.oci_spec import ZONE_INIT, runtime_config
from zonal.zones.output_log import OutputLog
from zonal.zones.phases import PhaseClock
from zonal.zones.programs import ContainerFiles
from zonal.zones.resources import Resources
from zonal.zones.restart import stops
from zonal.zones.runtime_options import Namespaces
from zonal.zones.session import CallRefusedError, Session, SessionEndedError, open_session
from zonal.zones.spec import ExecSpec, ExitResult, TerminalSize, ZoneSpec, ZoneStatistics
from zonal.zones.state import ZoneStore
from zonal.zones.statistics import read_statistics
from zonal.zones.storage import StorageSources, ZoneStorage
from zonal.zones.watching import while_watching
from zonal.zones.workload import SIGKILL, Workload
from zonal.zones.zone_resources import ZoneResources

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

log = logging.getLogger(__name__)

WORKLOAD = "workload"
CALL_TIMEOUT = 60.0
KILL_TIMEOUT = 10.0
STATUS_KILLED = 128 + SIGKILL
STATUS_REFUSED = 125
CONSOLE_LOG = "console.log"
_SYSCTLS = {
    # As docker has it: every user may ping, and have any port.
    "net.ipv4.ping_group_range": "0 2147483647",
    "net.ipv4.ip_unprivileged_port_start": "0",
}


class LiveZone:
    """See the module. ``launched`` and ``ended`` are for others to await; the task that lives it sets them."""

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
        loop = asyncio.get_running_loop()
        self.spec = spec
        self.folder = folder
        self.launched: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[ExitResult] = loop.create_future()
        self.workload = Workload(WORKLOAD)
        self.execs = Execs(lives, spec, WORKLOAD)
        self.clock = clock
        self.domain_id = 0
        self.leaving = False
        """Whether this daemon goes and leaves the domain running."""
        self.taken_over = False
        """Whether an earlier daemon has launched it."""
        self.again = False
        """Whether it was there before, and stays when it cannot be started."""
        self.by_policy = False
        """Whether it is its policy that starts it."""
        self.kept = not spec.remove
        """Whether it stays when it has ended."""
        self.met = asyncio.Event()
        """Cleared while it is paused and its agent not yet met."""
        self.met.set()
        self.going = asyncio.Event()
        """Cleared while it is paused."""
        self.going.set()
        self.pauses = 0
        """How often it was paused."""
        self.doom = ""
        """Why somebody had the domain destroyed; empty if nobody did."""
        self._host = host
        self._records = records
        self._agent_timeout = agent_timeout
        self._storage = ZoneStorage(host, storage, records, spec, folder)
        self._network = ZoneNetwork(host, attachments, records, spec)
        self._resources = ZoneResources(host, memory, self.domain_uuid(spec.id).bytes, spec.name, spec.resources)
        self._changing = asyncio.Lock()
        """Held by whoever changes what is mounted."""
        self._session: Session | None = None
        self._console_log: ConsoleLog | None = None
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

    async def launch(self, stack: AsyncExitStack, boot: BootFiles, image: Path) -> None:
        """From nothing to a started workload. Raises a ``ZonalError``; the stack undoes what was done."""
        spec, clock = self.spec, self.clock
        if spec.runtime.init and not Path(ZONE_INIT).exists():
            raise UnavailableError(f"the host has no {ZONE_INIT}, which --init needs", hint="apt-get install tini")
        with clock.phase("domain"):
            self._open_logs(stack).begin_again()
            self._resources.begin(stack)
            self.console_begin = (self.folder / CONSOLE_LOG).stat().st_size
            self._network.begin(stack, lambda: self.leaving)
            disks: list[Disk] = []
            for name, path in (("xvda", boot.system_image), ("xvdb", image)):
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
            session = await self._open_session(stack, epoch, self.workload.consumed)
            greeting = await session.greeted(self._agent_timeout)
        self.workload.take_over(session, self.spec)
        self.execs.take_over(session, greeting.workloads)
        self._resources.attend(stack, session)

    async def until_end(self) -> ExitResult:
        """Carries the output until the workload, or the zone, has ended.

        Raises ``ZoneFailedError`` when the zone's kernel or agent was lost without anybody asking for it.
        """
        assert self._session is not None
        begin = self.clock.now()
        try:
            async with while_watching(self._watch_domain()):
                exit_ = await self._carry(self._session)
                self._network.begin_end()
                await self.execs.finish()
                await self._settle(self._session)
        except ZoneFailedError:
            self.clock.add("run", begin, self.clock.now())
            if not self.doom:
                raise
            return ExitResult(STATUS_KILLED, self.doom)
        self.clock.add("run", begin, self.clock.now())
        return exit_

    async def signal(self, number: int) -> None:
        """Sends a signal to the workload's first process, by hand; to all of them when it is SIGKILL."""
        if stops(number, self.spec.stop_signal):
            self.mark_stopped()
        await self._send(number)

    async def exec(self, spec: ExecSpec) -> ExecProcess:
        """Starts a further process in the container; see ``Execs.start``."""
        return await self.execs.start(self._running_session(), spec)

    async def probe(self, command: tuple[str, ...]) -> ExecProcess:
        """The same for a probe of its health, which the next daemon kills if this one does not see its end."""
        return await self.execs.start(self._running_session(), ExecSpec(command), PROBE)

    def mark_stopped(self) -> None:
        """Its end is somebody's wish, and no policy is to undo it."""
        with suppress(NotFoundError):
            record = self._records.get(self.spec.id)
            self._records.update(record.id, restarts=replace(record.restarts, by_hand=True))

    def pause(self) -> None:
        """Stops the domain; doing so again changes nothing."""
        info = domctl.domain_info(self._host.hypervisor, self.domain_id)
        if info is None:
            raise WrongStateError(f"zone {self.spec.name} does not run")
        if not info.paused:
            domctl.pause_domain(self._host.hypervisor, self.domain_id)
        self.going.clear()
        self.pauses += 1

    def unpause(self) -> None:
        """Lets the domain go on, if it was stopped."""
        info = domctl.domain_info(self._host.hypervisor, self.domain_id)
        if info is not None and info.paused:
            domctl.unpause_domain(self._host.hypervisor, self.domain_id)
        self.met.set()
        self.going.set()

    def rename(self, name: str) -> None:
        """For messages from now on."""
        self.spec = replace(self.spec, name=name)
        self._storage.rename(name)

    async def statistics(self, *, ask: bool) -> ZoneStatistics:
        """What it uses; ``ask``: whether its agent can answer. Raises ``WrongStateError``."""
        session = self._session if ask and not self.ended.done() else None
        ceiling, carried = self._resources.now.ceiling, self._network.carried_bytes
        return await read_statistics(self._host, self.domain_id, session, WORKLOAD, ceiling=ceiling, network=carried)

    async def change_resources(self, wanted: Resources) -> None:
        """Gives it more or less; see ``ZoneResources.change``."""
        await self._resources.change(wanted, self._running_session())

    async def kernel_log(self, zero_ns: int) -> tuple[BootStep, ...]:
        """What its kernel says that it has said; its clock was zero at ``zero_ns``. Raises ``ZonalError``."""
        return kernel_lines(await self._running_session().call("kernel_log", {}, CALL_TIMEOUT), zero_ns)

    async def resize(self, size: TerminalSize) -> None:
        """Sets the terminal's size."""
        await self._ask(self.workload.resize(self._running_session(), size))

    async def stop(self, number: int, timeout: float) -> None:
        """Signal, patience, SIGKILL, and at last the domain itself; returns when the zone is gone."""
        for attempt, patience in ((number, timeout), (SIGKILL, KILL_TIMEOUT)):
            try:
                await self.signal(attempt)
            except ZoneFailedError:
                break
            except DeadlineError:
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.gone()
                    return
        await self.destroy("stopped by force")

    async def destroy(self, why: str) -> None:
        """Destroys the domain under a running workload; returns when the zone is gone."""
        self.mark_stopped()
        self.doom = self.doom or why
        domctl.destroy_domain(self._host.hypervisor, self.domain_id)
        await self.gone()

    def files(self) -> ContainerFiles:
        """The workload's files. Raises ``WrongStateError`` when it does not run."""
        return ContainerFiles(self._running_session(), WORKLOAD)

    async def mount(self, mount: Mount) -> None:
        """Adds a mount to the running workload; see ``ZoneStorage.add``."""
        async with self._changing:
            await self._storage.add(self._running_session(), self.domain_id, WORKLOAD, mount)

    async def unmount(self, target: str) -> None:
        """Takes a mount away; see ``ZoneStorage.remove``."""
        async with self._changing:
            await self._storage.remove(self._running_session(), self.domain_id, WORKLOAD, target)

    @property
    def outlived(self) -> bool:
        """Whether it may have written to what stays when it is removed."""
        return self._storage.outlived

    @property
    def ending(self) -> bool:
        """Whether its workload has ended."""
        return self.execs.closed or self.ended.done()

    async def gone(self) -> None:
        """Until the zone has ended, however it did."""
        await asyncio.wait([self.ended])

    async def _send(self, number: int) -> None:
        await self._ask(self.workload.signal(self._running_session(), number))

    async def _ask(self, call: Awaitable[None]) -> None:
        try:
            await call
        except CallRefusedError as error:
            # A workload that has just ended cannot be signalled; its end is on its way to us.
            log.info("zone %s: %s", self.spec.name, error)

    def _running_session(self) -> Session:
        if self._session is None or self.ended.done():
            raise WrongStateError(f"zone {self.spec.name} does not run")
        return self._session

    async def _settle(self, session: Session) -> None:
        begin = self.clock.now()
        try:
            async with self._changing:
                await self._storage.settle(session, WORKLOAD, keep=self.kept)
        except ZonalError as error:
            log.warning("zone %s: what it wrote may not be on its disks: %s", self.spec.name, error)
        self.clock.add("storage", begin, self.clock.now())

    def _open_logs(self, stack: AsyncExitStack) -> OutputLog:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = self.workload.open_log(stack, self.folder, self.spec)
        self._console_log = ConsoleLog(self.folder / CONSOLE_LOG)
        stack.callback(self._console_log.close)
        return output

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

    async def _open_session(self, stack: AsyncExitStack, epoch: str, consumed: dict[int, int] | None = None) -> Session:
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
        session = await stack.enter_async_context(open_session(channel, consumed=consumed, timeout=self._agent_timeout))
        stack.push_async_callback(self.execs.leave)
        self._session = session
        return session

    async def _start_workload(self, session: Session) -> None:
        spec = self.spec
        await session.call("configure", {"hostname": spec.hostname, "sysctls": dict(_SYSCTLS)}, CALL_TIMEOUT)
        root: dict[str, Value] = {"id": WORKLOAD, "device": "/dev/xvdb", "scratch": self._storage.scratch_device}
        await session.call("prepare_root", {**root, **_id_maps(spec.runtime.namespaces)}, CALL_TIMEOUT)
        await self._storage.attach_at_launch(session, self.domain_id, WORKLOAD)
        await self._network.configure(session)
        await self._set_sysctls(session)
        config = runtime_config(spec, self._oci_mounts(), self._storage.oci_devices())
        await self.workload.start(session, spec, config, self._storage.zone_devices())

    async def _set_sysctls(self, session: Session) -> None:
        """Those that the user wants of the zone's kernel; the container's own are crun's to set."""
        options = self.spec.runtime
        wanted = {name: value for name, value in options.sysctls if not is_of_container(name, options.namespaces)}
        if not wanted:
            return
        try:
            await session.call("configure", {"sysctls": dict(wanted)}, CALL_TIMEOUT)
        except CallRefusedError as refusal:
            raise InvalidInputError(f"the zone's kernel does not take it: {refusal.reason}") from refusal

    def _oci_mounts(self) -> list[dict[str, object]]:
        """Parents before what is mounted in them; a user's own /etc/hosts and the like over ours."""
        mounts = [*self._network.oci_mounts(), *self._storage.oci_mounts()]
        return sorted(mounts, key=lambda mount: len(PurePosixPath(str(mount["destination"])).parts))

    async def _carry(self, session: Session) -> ExitResult:
        try:
            return await self.workload.carry(session)
        except SessionEndedError as error:
            raise self._failed(str(error)) from error

    async def _watch_domain(self) -> Never:
        """Raises ``ZoneFailedError`` once the domain has shut itself down, or was destroyed."""
        reason = await self._host.shutdowns.wait(self.domain_id)
        if self.doom:
            raise ZoneFailedError(f"zone {self.spec.name} was destroyed: {self.doom}")
        what = "its kernel crashed" if reason == SHUTDOWN_CRASH else "it shut down before its workload had ended"
        raise self._failed(what)

    def _failed(self, what: str) -> ZoneFailedError:
        return ZoneFailedError(f"zone {self.spec.name} failed: {what}")

    async def _destroy(self) -> None:
        if self.leaving:
            return
        with self.clock.phase("teardown"):
            await self._storage.close_before_domain()
            await destroy_domain(self._host.hypervisor, self._host.store, self.domain_id)


def _id_maps(spaces: Namespaces) -> dict[str, Value]:
    """Parameters of ``prepare_root``; none without a user namespace."""
    pairs = {"uids": spaces.uids, "gids": spaces.gids}
    return {name: [[each.container, each.zone, each.size] for each in maps] for name, maps in pairs.items() if maps}
