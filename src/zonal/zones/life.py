"""What is common to the lives of a zone with its workload and of a workload in a zone that others share.

Everything that a life holds is on one stack, made and unmade by the one task that lives it. ``launched`` and ``ended``
are for others to await; that task sets them.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zonal.errors import DeadlineError, InvalidInputError, NotFoundError, WrongStateError, ZonalError, ZoneFailedError
from zonal.xen.devices.vbd import Disk, vbd
from zonal.xen.devices.xenbus import wait_connected
from zonal.zones.execs import PROBE, ExecProcess, Execs
from zonal.zones.host import XenHost
from zonal.zones.mounts import Mount
from zonal.zones.networking import ZoneNetwork
from zonal.zones.oci_spec import runtime_config
from zonal.zones.phases import PhaseClock
from zonal.zones.programs import ContainerFiles
from zonal.zones.resources import Resources
from zonal.zones.restart import stops
from zonal.zones.runtime_options import Namespaces
from zonal.zones.session import CallRefusedError, Session, SessionEndedError
from zonal.zones.spec import ExecSpec, ExitResult, TerminalSize, ZoneSpec, ZoneStatistics
from zonal.zones.state import ZoneStore
from zonal.zones.storage import CONNECT_TIMEOUT, ZoneStorage
from zonal.zones.workload import SIGKILL, Workload

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value
    from zonal.xen.domain import DevicePlan

log = logging.getLogger(__name__)

CALL_TIMEOUT = 60.0
KILL_TIMEOUT = 10.0
STATUS_KILLED = 128 + SIGKILL
STATUS_REFUSED = 125


class Life(ABC):
    """See the module."""

    def __init__(
        self,
        host: XenHost,
        records: ZoneStore,
        spec: ZoneSpec,
        folder: Path,
        clock: PhaseClock,
        *,
        workload: Workload,
        storage: ZoneStorage,
        lives: asyncio.TaskGroup,
    ) -> None:
        """``lives``: for tasks that go on beside its own."""
        loop = asyncio.get_running_loop()
        self.spec = spec
        self.folder = folder
        self.launched: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[ExitResult] = loop.create_future()
        self.workload = workload
        self.execs = Execs(lives, spec, workload.name)
        self.clock = clock
        self.domain_id = 0
        self.leaving = False
        """Whether this daemon goes and leaves it running."""
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
        """Why somebody had it ended by force; empty if nobody did."""
        self._host = host
        self._records = records
        self._storage = storage
        self._changing = asyncio.Lock()
        """Held by whoever changes what is mounted."""
        self._session: Session | None = None

    @abstractmethod
    async def until_end(self) -> ExitResult:
        """Carries the output until the workload has ended.

        Raises ``ZoneFailedError`` when the zone's kernel or agent was lost without anybody asking for it.
        """

    @abstractmethod
    async def pause(self) -> None:
        """Has it stand still; doing so again changes nothing."""

    @abstractmethod
    async def unpause(self) -> None:
        """Lets it go on, if it stood still."""

    @abstractmethod
    async def destroy(self, why: str) -> None:
        """Ends it by force; returns when it is gone."""

    @abstractmethod
    async def statistics(self, *, ask: bool) -> ZoneStatistics:
        """What it uses; ``ask``: whether the agent can answer. Raises ``WrongStateError``."""

    @abstractmethod
    async def change_resources(self, wanted: Resources) -> None:
        """Gives it more or less. Raises ``ZonalError``."""

    async def signal(self, number: int) -> None:
        """Sends a signal to the workload's first process, by hand; to all of them when it is SIGKILL."""
        if stops(number, self.spec.stop_signal):
            self.mark_stopped()
        await self._send(number)

    async def exec(self, spec: ExecSpec) -> ExecProcess:
        """Starts a further process in the container; see ``Execs.start``."""
        return await self.execs.start(self.running_session(), spec)

    async def probe(self, command: tuple[str, ...]) -> ExecProcess:
        """The same for a probe of its health, which the next daemon kills if this one does not see its end."""
        return await self.execs.start(self.running_session(), ExecSpec(command), PROBE)

    def mark_stopped(self) -> None:
        """Its end is somebody's wish, and no policy is to undo it."""
        with suppress(NotFoundError):
            record = self._records.get(self.spec.id)
            self._records.update(record.id, restarts=replace(record.restarts, by_hand=True))

    def rename(self, name: str) -> None:
        """For messages from now on."""
        self.spec = replace(self.spec, name=name)
        self._storage.rename(name)

    async def resize(self, size: TerminalSize) -> None:
        """Sets the terminal's size."""
        await self._ask(self.workload.resize(self.running_session(), size))

    async def stop(self, number: int, timeout: float) -> None:
        """Signal, patience, SIGKILL, and at last by force; returns when it is gone."""
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

    def files(self) -> ContainerFiles:
        """The workload's files. Raises ``WrongStateError`` when it does not run."""
        return ContainerFiles(self.running_session(), self.workload.name)

    async def mount(self, mount: Mount) -> None:
        """Adds a mount to the running workload; see ``ZoneStorage.add``."""
        async with self._changing:
            await self._storage.add(self.running_session(), self.domain_id, self.workload.name, mount)

    async def unmount(self, target: str) -> None:
        """Takes a mount away; see ``ZoneStorage.remove``."""
        async with self._changing:
            await self._storage.remove(self.running_session(), self.domain_id, self.workload.name, target)

    @property
    def outlived(self) -> bool:
        """Whether it may have written to what stays when it is removed."""
        return self._storage.outlived

    @property
    def ending(self) -> bool:
        """Whether its workload has ended."""
        return self.execs.closed or self.ended.done()

    async def gone(self) -> None:
        """Until it has ended, however it did."""
        await asyncio.wait([self.ended])

    def running_session(self) -> Session:
        """With the zone's agent. Raises ``WrongStateError`` when it does not run."""
        if self._session is None or self.ended.done():
            raise WrongStateError(f"zone {self.spec.name} does not run")
        return self._session

    async def close_before_domain(self) -> None:
        """Gives up what holds pages of the zone, which must be gone before its domain can be."""
        await self._storage.close_before_domain()

    async def _send(self, number: int) -> None:
        await self._ask(self.workload.signal(self.running_session(), number))

    async def _ask(self, call: Awaitable[None]) -> None:
        try:
            await call
        except CallRefusedError as error:
            # A workload that has just ended cannot be signalled; its end is on its way to us.
            log.info("zone %s: %s", self.spec.name, error)

    async def _prepare(self, session: Session, image_disk: str) -> None:
        """Has the agent make the root and mount all that there is for it. Raises ``ZonalError``."""
        name = self.workload.name
        root: dict[str, Value] = {"id": name, "device": f"/dev/{image_disk}", "scratch": self._storage.scratch_device}
        await session.call("prepare_root", {**root, **_id_maps(self.spec.runtime.namespaces)}, CALL_TIMEOUT)
        await self._storage.attach_at_launch(session, self.domain_id, name)

    async def _start_workload(self, session: Session) -> None:
        """Once all is prepared. Raises ``ZonalError``."""
        spec = self.spec
        config = runtime_config(spec, self._oci_mounts(), self._storage.oci_devices(), self.workload.name)
        await self.workload.start(session, spec, config, self._storage.zone_devices())

    async def _plug(self, plans: Sequence[DevicePlan], disks: Iterable[str]) -> None:
        """Gives a domain that runs its devices, and waits for its disks; for shares, who serves them does."""
        entries = [entry for plan in plans for entry in plan(self.domain_id)]
        store, storage = self._host.store, self._storage
        await store.transaction(lambda transaction: transaction.put(entries))
        scratch = [storage.scratch_disk] if storage.scratch_device else []
        names = (*disks, *scratch, *(each.disk for each in storage.mounted if each.disk))
        devices = [vbd(self.domain_id, Disk(name, Path(), 0)) for name in names]
        await asyncio.gather(*(wait_connected(store, device, timeout=CONNECT_TIMEOUT) for device in devices))

    def _oci_mounts(self) -> list[dict[str, object]]:
        """Parents before what is mounted in them; a user's own /etc/hosts and the like over ours."""
        mounts = [*ZoneNetwork.oci_mounts(), *self._storage.oci_mounts()]
        return sorted(mounts, key=lambda mount: len(PurePosixPath(str(mount["destination"])).parts))

    async def _set_sysctls(self, session: Session, wanted: dict[str, Value]) -> None:
        """Parameters of the zone's kernel. Raises ``InvalidInputError`` for one that it does not take."""
        if not wanted:
            return
        try:
            await session.call("configure", {"sysctls": wanted}, CALL_TIMEOUT)
        except CallRefusedError as refusal:
            raise InvalidInputError(f"the zone's kernel does not take it: {refusal.reason}") from refusal

    async def _carry(self, session: Session) -> ExitResult:
        try:
            return await self.workload.carry(session)
        except SessionEndedError as error:
            raise self._failed(str(error)) from error

    def _failed(self, what: str) -> ZoneFailedError:
        return ZoneFailedError(f"zone {self.spec.name} failed: {what}")

    async def _settled(self, settling: Awaitable[None]) -> None:
        """What was written comes to rest, which takes its time and may fail."""
        begin = self.clock.now()
        try:
            async with self._changing:
                await settling
        except ZonalError as error:
            log.warning("zone %s: what it wrote may not be on its disks: %s", self.spec.name, error)
        self.clock.add("storage", begin, self.clock.now())

    def _leave_execs(self, stack: AsyncExitStack) -> None:
        stack.push_async_callback(self.execs.leave)


def _id_maps(spaces: Namespaces) -> dict[str, Value]:
    """Parameters of ``prepare_root``; none without a user namespace."""
    pairs = {"uids": spaces.uids, "gids": spaces.gids}
    return {name: [[each.container, each.zone, each.size] for each in maps] for name, maps in pairs.items() if maps}
