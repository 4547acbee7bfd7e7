"""What a zone is to be, what is known of it, and what can be asked of it.

These are the words that the control API, the records and the life cycle share: plain values, and two protocols,
``ZoneService`` and ``RunningZone``, that the life cycle fulfils.
"""

from __future__ import annotations

import builtins
import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from zonal.devices.host_devices import WantedDevice
from zonal.images.healthcheck import HealthCheck
from zonal.network.links import NO_TRAFFIC, Traffic
from zonal.network.ports import Port
from zonal.zones.boot_log import BootLog, BootStep
from zonal.zones.channel_health import ChannelHealth
from zonal.zones.figures import ContainerFigures
from zonal.zones.health import Health
from zonal.zones.mounts import Attached, Mount
from zonal.zones.network_spec import NO_NETWORK, NetworkSpec
from zonal.zones.paths import Change, PathInfo, ProcessInfo
from zonal.zones.pool_plan import PoolPlan, PoolView
from zonal.zones.resources import DEFAULT_RESOURCES, MIB, ResourceChange, Resources
from zonal.zones.restart import NO_RESTART, NO_RESTARTS_YET, RestartPolicy, Restarts
from zonal.zones.runtime_options import DEFAULT_RUNTIME, Limits, RuntimeOptions

DEFAULT_STOP_TIMEOUT = 10
"""Seconds between the stop signal and SIGKILL, as docker has it."""
SHORT_ID = 12
"""Characters of a zone's id that are shown to people."""

OutputChunk = tuple[Literal[1, 2], bytes]
"""Which of the workload's streams (1 stdout, 2 stderr; with a terminal always 1), and some of its bytes."""


class ZoneState(enum.StrEnum):
    """Where a zone is in its life; in the last two it has ended, and may be started again. ``CREATED``: it never was.

    One that is ``RESTARTING`` has no domain: it has ended, and its policy will start it after a while.
    """

    CREATED = "created"
    CREATING = "creating"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    EXITED = "exited"
    CRASHED = "crashed"

    @property
    def alive(self) -> bool:
        """Whether a domain may exist for the zone."""
        return self in {ZoneState.CREATING, ZoneState.RUNNING, ZoneState.PAUSED, ZoneState.STOPPING}

    @property
    def at_rest(self) -> bool:
        """Whether it does not run, and stays so unless somebody starts it."""
        return self in {ZoneState.CREATED, ZoneState.EXITED, ZoneState.CRASHED}


@dataclass(frozen=True)
class TerminalSize:
    """In characters; a zero means unknown."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True)
class Phase:
    """A named stretch of time, in ns of the monotonic clock relative to the arrival of the request."""

    name: str
    begin_ns: int
    end_ns: int


@dataclass(frozen=True)
class ExitResult:
    """How a workload ended: its exit status (128+n after signal n), why if not by itself, and all phases."""

    status: int
    reason: str = ""
    phases: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class LogLimits:
    """What a zone's output may take on the disk: ``max_files`` files of ``max_size`` bytes each."""

    max_size: int = 32 * MIB
    max_files: int = 2


@dataclass(frozen=True)
class LogQuery:
    """What is wanted of a workload's output; times are wall clock, in ns since the epoch, 0 for no bound."""

    follow: bool = False
    """Whether to go on until the workload's end."""
    tail: int | None = None
    """Only so many of the last lines."""
    since_ns: int = 0
    until_ns: int = 0
    timestamps: bool = False
    """Whether each line begins with its time."""


@dataclass(frozen=True)
class ZoneSpec:
    """All that is needed to make a zone and start its workload; every value is checked and resolved.

    One with ``zone`` is only a workload, for that zone; one without an image is a zone for such workloads.
    """

    id: str
    """64 hexadecimal digits."""
    name: str
    image: str
    """As the user called it."""
    image_id: str
    """Digest of the image's configuration, ``sha256:…``."""
    erofs_path: str
    command: tuple[str, ...]
    """The argument vector: entrypoint and command together; empty only where there is no image."""
    env: tuple[str, ...]
    """``K=V``, each key once, in order."""
    cwd: str = "/"
    user: str = ""
    """As in an image's ``User``: name or uid, with ``:group`` or not; resolved in the zone. Empty: root."""
    hostname: str = ""
    terminal: bool = False
    terminal_size: TerminalSize = TerminalSize()
    stdin: bool = False
    """Whether stdin is kept open for a client; otherwise the workload reads end of file at once."""
    resources: Resources = DEFAULT_RESOURCES
    """Memory and CPUs: a part that changes, by ``update``, as ``restart`` does."""
    kernel: str = ""
    """Name in the kernel store; empty: its default."""
    virt: str = ""
    """``pv`` or ``pvh`` (``zonal.xen.virt``); empty: as the host has it."""
    remove: bool = False
    """Whether the zone's record and logs go when it has ended."""
    detach: bool = False
    stop_signal: int = 15
    read_only: bool = False
    """Whether the root cannot be written; then there is no scratch disk."""
    storage_bytes: int = 0
    """Size of the scratch disk, which takes what is written to the root; 0: none, and a layer in memory."""
    mounts: tuple[Mount, ...] = ()
    network: NetworkSpec = NO_NETWORK
    log: LogLimits = LogLimits()
    runtime: RuntimeOptions = DEFAULT_RUNTIME
    """How the workload is run and confined inside."""
    labels: tuple[tuple[str, str], ...] = ()
    """The image's and the user's, each name once."""
    stop_timeout: int = DEFAULT_STOP_TIMEOUT
    """Seconds between the stop signal and SIGKILL, where who stops it says nothing."""
    exposed_ports: tuple[str, ...] = ()
    """Of the image and the user, such as ``80/tcp``: they are told, and open nothing."""
    restart: RestartPolicy = NO_RESTART
    health: HealthCheck | None = None
    """With a command; ``None``: nobody asks how it is."""
    pci: tuple[WantedDevice, ...] = ()
    """Devices of the machine."""
    zone: str = ""
    """Id of the zone that it shares with others; empty: it has one of its own."""

    @property
    def houses(self) -> bool:
        """Whether it is a zone without a workload of its own."""
        return not self.image_id


@dataclass(frozen=True)
class ZoneUpdate:
    """What is to change of a zone that is there; ``None`` leaves a thing as it is."""

    restart: RestartPolicy | None = None
    resources: ResourceChange | None = None
    limits: Limits | None = None
    """Of the control group of a workload in a shared zone, whose ``resources`` are in coarser terms."""


@dataclass(frozen=True)
class ExecSpec:
    """A further process in a zone's container; what is empty is as the container has it."""

    command: tuple[str, ...]
    env: tuple[str, ...] = ()
    """``K=V``, or ``K`` alone to remove one of the container's."""
    cwd: str = ""
    user: str = ""
    terminal: bool = False
    terminal_size: TerminalSize = TerminalSize()
    stdin: bool = False
    privileged: bool = False
    """Whether it has every capability."""


@dataclass(frozen=True)
class ZoneRecord:
    """What is known of a zone; times are wall clock, in ns since the epoch, 0 for not yet."""

    spec: ZoneSpec
    state: ZoneState
    created_ns: int
    started_ns: int = 0
    finished_ns: int = 0
    domain_id: int = 0
    exit_status: int = 0
    reason: str = ""
    phases: tuple[Phase, ...] = ()
    boot_steps: tuple[BootStep, ...] = ()
    """Of its agent, at the last start."""
    agent_resident_bytes: int = 0
    kernel_release: str = ""
    virt: str = ""
    """How its domain is, or was, virtualised."""
    boot_id: str = ""
    """The host's boot id when the record was made: with another one, no domain of it can still be there."""
    resources: tuple[tuple[str, str], ...] = ()
    """What was made for the zone outside this record, as (kind, name), in the order of making: for undoing."""
    attached: tuple[Attached, ...] = ()
    """What is mounted now: that of the spec, and what was added and removed since."""
    addresses: tuple[str, ...] = ()
    """On its network, with the lengths of their prefixes; as long as it runs, as are the next two."""
    mac: str = ""
    ports: tuple[Port, ...] = ()
    """Published ones, with the host's ports that were chosen."""
    restarts: Restarts = NO_RESTARTS_YET
    health: Health | None = None
    disks: tuple[str, ...] = ("", "")
    """Of a workload in a shared zone: names of its image's and its scratch disk there."""
    first_stream: int = 0
    """Likewise: the number of its first stream."""

    @property
    def id(self) -> str:
        """The zone's full id."""
        return self.spec.id

    @property
    def name(self) -> str:
        """The zone's name."""
        return self.spec.name


@dataclass(frozen=True)
class ZoneEvent:
    """One thing that has happened to one zone."""

    time_ns: int
    """Wall clock, ns since the epoch."""
    action: str
    """In docker's words: ``create``, ``start``, ``die``, ``oom``, ``kill``, ``exec_start`` …"""
    zone_id: str
    name: str
    image: str
    attributes: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class HostInfo:
    """The machine, as the hypervisor tells it; sizes in bytes."""

    xen_version: str
    xen_capabilities: str
    cpus: int
    memory_bytes: int
    free_bytes: int
    """That zones can still be given."""


@dataclass(frozen=True)
class ZoneStatistics:
    """What a zone has used so far, and holds now; sizes in bytes."""

    time_ns: int
    """When, of the host's monotonic clock."""
    cpu_time_ns: int
    memory_bytes: int
    memory_limit_bytes: int
    """What it may come to have."""
    memory_held_bytes: int = 0
    """What it has."""
    cpus: int = 0
    """Online."""
    block_read_bytes: int = 0
    block_written_bytes: int = 0
    traffic: Traffic = NO_TRAFFIC
    """Through its interface."""
    processes: int = 0
    """In the container; 0 when the agent does not say."""
    channel: ChannelHealth | None = None
    """None while nobody can answer there."""
    figures: ContainerFigures | None = None
    """What its kernel counts of a container that shares a zone; None when it does not say."""


class StdinWriter(Protocol):
    """The workload's standard input."""

    async def write(self, data: bytes) -> None:
        """Returns once there is room for more; what comes after the workload closed its end is dropped."""
        ...

    async def close(self) -> None:
        """End of file for the workload; a second time does nothing."""
        ...


class RunningProcess(Protocol):
    """A process in a zone and its streams, as one client holds them."""

    @property
    def id(self) -> str:
        """Of the process: the zone's for its workload."""
        ...

    @property
    def stdin(self) -> StdinWriter:
        """Without one in its spec, it is closed already."""
        ...

    def output(self) -> AsyncIterator[OutputChunk]:
        """The output from the first byte, or from when the client came, once; ends when all of it was given out.

        Nobody asking for the next chunk holds back the process, within a bounded buffer.
        """
        ...

    async def resize(self, size: TerminalSize) -> None:
        """Sets the terminal's size; nothing happens without a terminal."""
        ...

    async def signal(self, number: int) -> None:
        """Sends a Linux signal to the process; nothing happens once it has ended."""
        ...

    async def wait(self) -> ExitResult:
        """The end of the process. Raises ``ZoneFailedError`` if the zone's kernel or agent failed first."""
        ...

    async def detach(self) -> None:
        """Gives up holding it: the process goes on, and a workload's output goes to its log alone."""
        ...


class RunningZone(RunningProcess, Protocol):
    """A zone whose workload was started."""

    @property
    def record(self) -> ZoneRecord:
        """As of the start."""
        ...


class ZoneService(Protocol):
    """All zones of this host. A ``ref`` is an id, a unique prefix of an id, or a name.

    Each method that takes a ``ref`` raises ``NotFoundError`` for an unknown one and ``InvalidInputError`` for an
    ambiguous prefix.
    """

    async def host(self) -> HostInfo:
        """What the hypervisor says of the machine."""
        ...

    async def run(self, spec: ZoneSpec, *, arrived_ns: int) -> RunningZone:
        """Makes a zone and starts its workload; phases count from ``arrived_ns`` (``time.monotonic_ns()``).

        Raises a ``ZonalError`` if it cannot be; nothing is left of the zone then, nor when the call is cancelled.
        """
        ...

    @property
    def pool(self) -> PoolView:
        """Zones that are booted ahead of time."""
        ...

    async def set_pool(self, plan: PoolPlan) -> None:
        """What that is to hold, from now on and after restarts. Raises ``InvalidInputError``."""
        ...

    async def create(self, spec: ZoneSpec) -> ZoneRecord:
        """Writes down what is to be, for ``start``. Raises ``AlreadyExistsError``."""
        ...

    async def list(self) -> list[ZoneRecord]:
        """All records, the oldest first."""
        ...

    async def disk_usage(self, ref: str) -> int:
        """Bytes that a zone's scratch disk and logs take on the host's disk."""
        ...

    async def find(self, ref: str) -> ZoneRecord:
        """The record of one zone."""
        ...

    async def stop(self, ref: str, timeout: float) -> ZoneRecord:
        """Stop signal, ``timeout`` seconds, SIGKILL; returns when the domain is gone. A zone that ended stays so."""
        ...

    async def kill(self, ref: str, signal: int, exec_id: str = "") -> None:
        """Sends a signal to the workload, or to a further process.

        Raises ``WrongStateError`` if the zone does not run, ``NotFoundError`` when there is no such process.
        """
        ...

    async def exec(self, ref: str, spec: ExecSpec) -> RunningProcess:
        """Starts a further process in a zone's container, which goes on when the call is cancelled.

        Raises ``WrongStateError`` if the zone does not run, ``CommandNotFoundError``, ``CommandNotExecutableError``,
        ``InvalidInputError`` for a user that the image does not have, ``ResourceExhaustedError``.
        """
        ...

    async def attach(self, ref: str, *, stdin: bool, start: bool = False) -> RunningZone:
        """A zone's workload, with its output from now on; without ``stdin`` what is written to it is dropped.

        Raises ``WrongStateError`` if it does not run; with ``start``, it is started first.
        """
        ...

    async def start(self, ref: str) -> None:
        """Starts a zone that has ended, with the same name, scratch disk and mounts; one that runs is left alone.

        It goes on when the call is cancelled. Raises what ``run`` does; the zone has ended then as before.
        """
        ...

    async def restart(self, ref: str, timeout: float) -> None:
        """Stops a zone, if it runs, and starts it; one that is removed at its end is kept for that."""
        ...

    async def pause(self, ref: str) -> None:
        """Stops the zone's domain as it is: nothing of it runs. Raises ``WrongStateError`` if it does not run."""
        ...

    async def unpause(self, ref: str) -> None:
        """Lets it go on. Raises ``WrongStateError`` if it is not paused."""
        ...

    async def rename(self, ref: str, name: str) -> None:
        """Gives a zone another name. Raises ``AlreadyExistsError``, ``InvalidInputError``."""
        ...

    async def update(self, ref: str, change: ZoneUpdate) -> ZoneRecord:
        """Changes what a zone is to be, at once if it runs, and for its next start.

        Raises ``InvalidInputError`` for what it cannot have, ``ResourceExhaustedError`` for more than there is.
        """
        ...

    async def statistics(self, ref: str) -> ZoneStatistics:
        """What a zone uses. Raises ``WrongStateError`` if it does not run."""
        ...

    async def boot_log(self, ref: str) -> BootLog:
        """How a zone came up, by its own word."""
        ...

    async def processes(self, ref: str) -> Sequence[ProcessInfo]:
        """Those of a zone's container. Raises ``WrongStateError`` if it does not run."""
        ...

    async def wait(self, ref: str) -> ExitResult:
        """The end of a zone's workload, at once if it has ended. A crashed one: status 125 and the reason."""
        ...

    async def remove(self, ref: str, *, force: bool, volumes: bool = False) -> None:
        """Removes an ended zone's record, logs and scratch disk; ``volumes``: also those made for it alone.

        With ``force`` one that runs is killed first, else ``WrongStateError``.
        """
        ...

    def read_files(self, ref: str, path: str, *, follow: bool) -> AsyncIterator[bytes]:
        """A tar of a path in a zone's container; see ``ContainerFiles``."""
        ...

    async def write_files(self, ref: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        """Unpacks a tar in a directory of a zone's container."""
        ...

    async def stat_path(self, ref: str, path: str) -> PathInfo:
        """What is at a path in a zone's container."""
        ...

    async def changes(self, ref: str) -> builtins.list[Change]:
        """What a zone's container has changed of its image's files."""
        ...

    def layer(self, ref: str, *, pause: bool) -> AsyncIterator[bytes]:
        """The same as a layer of an image, an uncompressed tar; see ``ContainerFiles``."""
        ...

    async def mount(self, ref: str, mount: Mount) -> None:
        """Adds a mount to a running zone and its workload.

        Raises ``WrongStateError`` if it does not run, ``AlreadyExistsError`` when something is mounted there by us.
        """
        ...

    async def unmount(self, ref: str, target: str) -> None:
        """Takes a mount away, also when it is busy. Raises ``NotFoundError`` when none is at ``target``."""
        ...

    def events(self, *, since_ns: int, until_ns: int) -> AsyncIterator[ZoneEvent]:
        """What happens to zones, until ``until_ns`` (0: for ever); with ``since_ns`` also what has happened since."""
        ...

    def logs(self, ref: str, query: LogQuery) -> AsyncIterator[OutputChunk]:
        """The workload's output as kept."""
        ...

    def console(self, ref: str, *, follow: bool) -> AsyncIterator[bytes]:
        """The kernel's console as kept; with ``follow`` until the domain is gone."""
        ...
