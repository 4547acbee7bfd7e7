"""Zones without Xen, for tests of what is above them: each workload is a process of this machine.

Pipes, pseudo-terminals, signals and records are real; only the zone around the process is missing.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import errno
import fcntl
import io
import os
import shutil
import signal
import struct
import tarfile
import tempfile
import termios
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.unit.daemon.local_images import LocalImages, LocalKernels
from zonal.daemon.checks import Finding, Place, examine
from zonal.daemon.control import Services
from zonal.daemon.main import prepare_spool
from zonal.daemon.volumes import Volumes
from zonal.errors import CommandNotExecutableError, CommandNotFoundError, NotFoundError, WrongStateError
from zonal.images.tarwriter import END, file
from zonal.network.attachments import Attachments
from zonal.network.links import Flow, Traffic
from zonal.network.networks import NetworkStore
from zonal.volumes.store import VolumeStore
from zonal.xen.machine import LogPart, Machine
from zonal.zones.audience import Audience, Audiences
from zonal.zones.boot_log import BootLog, console_lines, zone_steps
from zonal.zones.channel_health import ChannelHealth
from zonal.zones.events import EventLog
from zonal.zones.health import Health
from zonal.zones.log_reading import stream_log
from zonal.zones.mounts import Attached, Mount
from zonal.zones.names import check_name
from zonal.zones.oci_spec import exec_process
from zonal.zones.output_log import OutputLog
from zonal.zones.paths import Change, PathInfo, ProcessInfo
from zonal.zones.pool_plan import PoolCounts, PoolPlan, check_plan
from zonal.zones.resources import Resources
from zonal.zones.spec import (
    ExecSpec,
    ExitResult,
    HostInfo,
    LogQuery,
    OutputChunk,
    Phase,
    TerminalSize,
    ZoneEvent,
    ZoneRecord,
    ZoneSpec,
    ZoneState,
    ZoneStatistics,
    ZoneUpdate,
)
from zonal.zones.state import ZoneStore

READ_SIZE = 32768


@dataclass(frozen=True)
class LocalCommand:
    """What a process is to be."""

    command: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    terminal: bool
    terminal_size: TerminalSize
    stdin: bool


class LocalProcess:
    """One process, as a ``RunningProcess``, with any number of clients."""

    def __init__(self, group: asyncio.TaskGroup, wanted: LocalCommand) -> None:
        self._group = group
        self._wanted = wanted
        self._audiences = Audiences()
        self._master = -1
        self.log: list[OutputChunk] = []
        self.ended = asyncio.Event()
        self.result = ExitResult(0)
        self.stdin = LocalStdin()
        self.grown = asyncio.Event()
        """Set whenever there is more in the log."""

    async def start(self) -> None:
        wanted = self._wanted
        _check_command(wanted.command[0])
        slave = -1
        if wanted.terminal:
            self._master, slave = os.openpty()
            self._set_size(wanted.terminal_size)
        streams = (slave,) * 3 if wanted.terminal else (asyncio.subprocess.PIPE,) * 3
        try:
            self._process = await asyncio.create_subprocess_exec(
                # As in a container: no signal is ignored from the start, and a terminal is the session's own.
                *("env", "--default-signal"),
                *(["setsid", "--ctty"] if wanted.terminal else []),
                *wanted.command,
                stdin=streams[0] if wanted.stdin or wanted.terminal else asyncio.subprocess.DEVNULL,
                stdout=streams[1],
                stderr=streams[2],
                env=dict(entry.split("=", 1) for entry in wanted.env),
                cwd=wanted.cwd,
                start_new_session=not wanted.terminal,
            )
        finally:
            if slave >= 0:
                os.close(slave)
        if wanted.terminal:
            self.stdin = LocalStdin(descriptor=self._master)
            readers: list[Coroutine[None, None, None]] = [self._read_terminal()]
        else:
            self.stdin = LocalStdin(self._process.stdin)
            assert self._process.stdout and self._process.stderr
            readers = [self._read(1, self._process.stdout), self._read(2, self._process.stderr)]
        self._group.create_task(self._attend(readers))

    def join(self) -> Audience:
        audience = self._audiences.join()
        if self.ended.is_set():
            audience.end()
        return audience

    def leave(self, audience: Audience) -> None:
        self._audiences.leave(audience)

    async def resize(self, size: TerminalSize) -> None:
        if self._master >= 0:
            self._set_size(size)

    async def signal(self, number: int) -> None:
        # A process may be gone before its end has been read here: a signal to it is none, as with a real zone.
        if not self.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def wait(self) -> ExitResult:
        await self.ended.wait()
        return self.result

    def drop_clients(self) -> None:
        self._audiences.drop()

    def keep(self, chunk: OutputChunk) -> None:
        """Output has come."""

    def on_end(self, status: int) -> ExitResult:
        """What is told of an end with ``status``."""
        return ExitResult(status)

    def _set_size(self, size: TerminalSize) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", size.rows, size.columns, 0, 0))

    async def _attend(self, readers: builtins.list[Coroutine[None, None, None]]) -> None:
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader)
        status = await self._process.wait()
        self.result = self.on_end(128 - status if status < 0 else status)
        self.ended.set()
        self._audiences.end()

    async def _read(self, stream: int, source: asyncio.StreamReader) -> None:
        while data := await source.read(READ_SIZE):
            await self._take((1 if stream == 1 else 2, data))

    async def _read_terminal(self) -> None:
        while data := await asyncio.to_thread(self._read_master):
            await self._take((1, data))

    def _read_master(self) -> bytes:
        try:
            return os.read(self._master, READ_SIZE)
        except OSError as error:
            if error.errno == errno.EIO:  # Nobody has the other end open any more.
                return b""
            raise

    async def _take(self, chunk: OutputChunk) -> None:
        self.log.append(chunk)
        self.keep(chunk)
        self.grown.set()
        await self._audiences.put(chunk)


class LocalZone(LocalProcess):
    """A zone's workload."""

    def __init__(self, zones: LocalZones, spec: ZoneSpec, arrived_ns: int) -> None:
        wanted = LocalCommand(spec.command, spec.env, spec.cwd, spec.terminal, spec.terminal_size, spec.stdin)
        super().__init__(zones.group, wanted)
        self._zones = zones
        self._arrived_ns = arrived_ns
        self.spec = spec
        self.record = zones.store.get(spec.id)
        self.execs: dict[str, LocalProcess] = {}
        folder = zones.folder / spec.id
        folder.mkdir(parents=True, exist_ok=True)
        self.kept = OutputLog(folder, spec.log)
        self.kept.begin_again()

    def keep(self, chunk: OutputChunk) -> None:
        self.kept.append(*chunk)

    def on_end(self, status: int) -> ExitResult:
        self.kept.close()
        self._zones.told.emit("die", self.spec, exitCode=str(status))
        end_ns = time.monotonic_ns() - self._arrived_ns
        begin_ns = self.record.phases[-1].end_ns if self.record.phases else 0
        phases = (*self.record.phases, Phase("workload", begin_ns, end_ns))
        self._zones.store.update(
            self.spec.id,
            state=ZoneState.EXITED,
            exit_status=status,
            finished_ns=time.time_ns(),
            domain_id=0,
            phases=phases,
        )
        if self.spec.remove:
            self._zones.store.remove(self.spec.id)
        return ExitResult(status, phases=phases)


class LocalClient:
    """One client of a process."""

    def __init__(self, process: LocalProcess, id: str, audience: Audience | None, stdin: LocalStdin) -> None:
        self._process = process
        self._audience = audience
        self.id = id
        self.stdin = stdin

    @property
    def record(self) -> ZoneRecord:
        assert isinstance(self._process, LocalZone)
        return self._process.record

    async def output(self) -> AsyncIterator[OutputChunk]:
        if self._audience is not None:
            async for chunk in self._audience.chunks():
                yield chunk

    async def resize(self, size: TerminalSize) -> None:
        await self._process.resize(size)

    async def signal(self, number: int) -> None:
        await self._process.signal(number)

    async def wait(self) -> ExitResult:
        return await self._process.wait()

    async def detach(self) -> None:
        if self._audience is not None:
            self._process.leave(self._audience)


def _check_command(name: str) -> None:
    path = name if "/" in name else shutil.which(name)
    if path is None or not Path(path).exists():
        raise CommandNotFoundError(f"{name!r} is not in the image", hint="is it spelt right?")
    if Path(path).is_dir() or not os.access(path, os.X_OK):
        raise CommandNotExecutableError(f"{name!r} cannot be executed")


class LocalStdin:
    """A pipe or the terminal's master, as a ``StdinWriter``; a terminal is never closed."""

    def __init__(
        self, pipe: asyncio.StreamWriter | None = None, *, descriptor: int = -1, keep_open: bool = False
    ) -> None:
        self._pipe = pipe
        self._keep_open = keep_open
        self._descriptor = descriptor

    async def write(self, data: bytes) -> None:
        if self._descriptor >= 0:
            await asyncio.to_thread(os.write, self._descriptor, data)
        elif self._pipe is not None and not self._pipe.is_closing():
            self._pipe.write(data)
            try:
                await self._pipe.drain()
            except (BrokenPipeError, ConnectionResetError):
                return

    async def close(self) -> None:
        if self._pipe is not None and not self._keep_open:
            self._pipe.close()

    def kept_open(self) -> LocalStdin:
        """The same, which one client's end does not end."""
        return LocalStdin(self._pipe, descriptor=self._descriptor, keep_open=True)


class LocalPool:
    """One that is never filled."""

    def __init__(self) -> None:
        self.plan = PoolPlan()
        self.counts = PoolCounts()
        self.warm: list[Resources] = []


class LocalZones:
    """Processes of this machine, as a ``ZoneService``."""

    def __init__(self, store: ZoneStore, group: asyncio.TaskGroup, folder: Path, log: EventLog) -> None:
        self.store = store
        self.pool = LocalPool()
        self.told = log
        self.folder = folder
        self.group = group
        self._running: dict[str, LocalZone] = {}
        self.hold_launch = asyncio.Event()
        self.hold_launch.set()
        self.changed = asyncio.Event()
        """Set when a zone was recorded or undone."""

    def running(self, ref: str) -> LocalZone:
        return self._running[self.store.find(ref).id]

    async def host(self) -> HostInfo:
        return HostInfo("4.20.4", "xen-3.0-x86_64", os.cpu_count() or 1, 4 << 30, 1 << 30)

    async def run(self, spec: ZoneSpec, *, arrived_ns: int) -> LocalClient:
        self.store.add(ZoneRecord(spec=spec, state=ZoneState.CREATING, created_ns=time.time_ns(), domain_id=7))
        self.told.emit("create", spec)
        self.changed.set()
        try:
            await self.hold_launch.wait()
            zone = LocalZone(self, spec, arrived_ns)
            zone.record = self.store.update(
                spec.id,
                state=ZoneState.RUNNING,
                started_ns=time.time_ns(),
                health=Health() if spec.health else None,
                phases=(Phase("launch", 0, time.monotonic_ns() - arrived_ns),),
            )
            audience = None if spec.detach else zone.join()
            await zone.start()
            self.told.emit("start", spec)
        except BaseException:
            self.store.remove(spec.id)
            self.changed.set()
            raise
        self._running[spec.id] = zone
        return LocalClient(zone, spec.id, audience, zone.stdin.kept_open() if spec.detach else zone.stdin)

    async def set_pool(self, plan: PoolPlan) -> None:
        self.pool.plan = check_plan(plan)

    async def create(self, spec: ZoneSpec) -> ZoneRecord:
        self.store.add(ZoneRecord(spec=spec, state=ZoneState.CREATED, created_ns=time.time_ns()))
        self.told.emit("create", spec)
        self.changed.set()
        return self.store.get(spec.id)

    def _alive(self, ref: str) -> LocalZone:
        record = self.store.find(ref)
        if not record.state.alive:
            raise WrongStateError(f"zone {record.name} is not running", hint="zonal zone ls lists those that are")
        return self._running[record.id]

    async def attach(self, ref: str, *, stdin: bool, start: bool = False) -> LocalClient:
        record = self.store.find(ref)
        if start and not record.state.alive:
            await self._start(record)
        zone = self._alive(ref)
        theirs = (zone.stdin.kept_open() if zone.spec.detach else zone.stdin) if stdin else LocalStdin()
        return LocalClient(zone, zone.spec.id, zone.join(), theirs)

    def events(self, *, since_ns: int, until_ns: int) -> AsyncIterator[ZoneEvent]:
        return self.told.read(since_ns=since_ns, until_ns=until_ns)

    async def update(self, ref: str, change: ZoneUpdate) -> ZoneRecord:
        record = self.store.find(ref)
        if change.resources:
            self.store.change_spec(record.id, resources=change.resources.of(record.spec.resources))
        if change.limits:
            self.store.change_spec(record.id, runtime=replace(record.spec.runtime, limits=change.limits))
        if change.restart:
            self.store.change_spec(record.id, restart=change.restart)
        return self.store.get(record.id)

    async def start(self, ref: str) -> None:
        record = self.store.find(ref)
        if not record.state.alive:
            await self._start(record)

    async def _start(self, record: ZoneRecord) -> LocalZone:
        spec = record.spec
        self.store.update(spec.id, state=ZoneState.RUNNING, started_ns=time.time_ns())
        zone = LocalZone(self, spec, time.monotonic_ns())
        await zone.start()
        self._running[spec.id] = zone
        return zone

    async def restart(self, ref: str, timeout: float) -> None:
        record = self.store.find(ref)
        await self.stop(record.id, timeout)
        await self.start(record.id)

    async def pause(self, ref: str) -> None:
        zone = self._alive(ref)
        if self.store.find(ref).state is not ZoneState.RUNNING:
            raise WrongStateError("not running")
        await zone.signal(signal.SIGSTOP)
        self.store.update(zone.spec.id, state=ZoneState.PAUSED)

    async def unpause(self, ref: str) -> None:
        if self.store.find(ref).state is not ZoneState.PAUSED:
            raise WrongStateError("not paused")
        zone = self._alive(ref)
        self.store.update(zone.spec.id, state=ZoneState.RUNNING)
        await zone.signal(signal.SIGCONT)

    async def rename(self, ref: str, name: str) -> None:
        self.store.rename(self.store.find(ref).id, check_name(name))

    async def statistics(self, ref: str) -> ZoneStatistics:
        self._alive(ref)
        now = time.monotonic_ns()
        health = ChannelHealth(True, 10**7, 0, 100, 200)
        traffic = Traffic(Flow(bytes=3), Flow(bytes=4))
        return ZoneStatistics(now, now // 2, 1 << 20, 1 << 27, 1 << 27, 1, 1, 2, traffic, 5, health)

    async def boot_log(self, ref: str) -> BootLog:
        record = self.store.find(ref)
        said = b"[    0.000000] Linux version 6.12 <script>\r\n[    0.000001] \x1b[31mred & \xff\n"
        return BootLog(zone_steps([("mounted", 5)], 1), console_lines(said, record.phases[0].begin_ns))

    async def processes(self, ref: str) -> list[ProcessInfo]:
        zone = self._alive(ref)
        command = " ".join(zone.spec.command)
        return [ProcessInfo(1, 0, 0, "", "S", time.time_ns() - 10**9, 5 * 10**8, 4 << 20, 1 << 20, "sh", command)]

    async def exec(self, ref: str, spec: ExecSpec) -> LocalClient:
        zone = self._alive(ref)
        description = exec_process(zone.spec, spec)
        wanted = LocalCommand(
            tuple(description["args"]),
            tuple(description["env"]),
            description["cwd"],
            spec.terminal,
            spec.terminal_size,
            spec.stdin,
        )
        process = LocalProcess(self.group, wanted)
        audience = process.join()
        await process.start()
        exec_id = f"{len(zone.execs):016x}"
        zone.execs[exec_id] = process
        return LocalClient(process, exec_id, audience, process.stdin)

    async def list(self) -> builtins.list[ZoneRecord]:
        return self.store.list()

    async def disk_usage(self, ref: str) -> int:
        return 4096 if self.store.find(ref) else 0

    async def find(self, ref: str) -> ZoneRecord:
        return self.store.find(ref)

    async def stop(self, ref: str, timeout: float) -> ZoneRecord:
        record = self.store.find(ref)
        if record.state.alive:
            zone = self._running[record.id]
            await zone.signal(record.spec.stop_signal)
            try:
                async with asyncio.timeout(timeout):
                    await zone.wait()
            except TimeoutError:
                await zone.signal(signal.SIGKILL)
                await zone.wait()
        final = {"state": ZoneState.EXITED}
        return self.store.get(record.id) if not record.spec.remove else replace(record, **final)

    async def kill(self, ref: str, signal: int, exec_id: str = "") -> None:
        zone = self._alive(ref)
        if exec_id and exec_id not in zone.execs:
            raise NotFoundError(f"no process {exec_id}")
        await (zone.execs[exec_id] if exec_id else zone).signal(signal)

    async def wait(self, ref: str) -> ExitResult:
        return await self._running[self.store.find(ref).id].wait()

    async def read_files(self, ref: str, path: str, *, follow: bool) -> AsyncIterator[bytes]:
        self.store.find(ref)
        with tempfile.TemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                source = Path(path.removesuffix("/."))
                tar.add(source.resolve() if follow else source, "." if path.endswith("/.") else source.name)
            file.seek(0)
            while data := file.read(READ_SIZE):
                yield data

    async def write_files(self, ref: str, path: str, chunks: AsyncIterator[bytes]) -> None:
        self.store.find(ref)
        data = b"".join([chunk async for chunk in chunks])
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            tar.extractall(path, filter="fully_trusted")

    async def stat_path(self, ref: str, path: str) -> PathInfo:
        self.store.find(ref)
        place = Path(path)
        kind = (
            "directory" if place.is_dir() else "file" if place.is_file() else "other" if place.exists() else "missing"
        )
        return PathInfo(kind, place.is_symlink())

    async def changes(self, ref: str) -> builtins.list[Change]:
        self.store.find(ref)
        return [Change("C", "/etc"), Change("A", "/etc/new"), Change("D", "/old")]

    async def layer(self, ref: str, *, pause: bool) -> AsyncIterator[bytes]:
        self.store.find(ref)
        yield file(b"new", 4)
        yield b"new\n".ljust(512, b"\0")
        yield END

    async def mount(self, ref: str, mount: Mount) -> None:
        attached = Attached(f"m{len(self.store.find(ref).attached)}", mount)
        self.store.update(self.store.find(ref).id, attached=(*self.store.find(ref).attached, attached))

    async def unmount(self, ref: str, target: str) -> None:
        record = self.store.find(ref)
        kept = tuple(each for each in record.attached if each.mount.target != target)
        if kept == record.attached:
            raise NotFoundError(f"nothing is at {target}")
        self.store.update(record.id, attached=kept)

    async def remove(self, ref: str, *, force: bool, volumes: bool = False) -> None:
        record = self.store.find(ref)
        if record.state.alive:
            if not force:
                raise WrongStateError(f"zone {record.name} is running", hint="stop it first, or use -f")
            await self.stop(ref, 0)
        self.store.remove(record.id)

    async def logs(self, ref: str, query: LogQuery) -> AsyncIterator[OutputChunk]:
        record = self.store.find(ref)
        zone = self._running.get(record.id)
        async for chunk in stream_log(self.folder / record.id, query, zone.kept if zone else None):
            yield chunk

    async def console(self, ref: str, *, follow: bool) -> AsyncIterator[bytes]:
        self.store.find(ref)
        yield b"Linux version 6.12.0\r\n"

    async def end_all(self) -> None:
        """Ends every process, so that the group can close."""
        for zone in self._running.values():
            for process in (zone, *zone.execs.values()):
                await process.signal(signal.SIGKILL)
                process.drop_clients()


class LocalHost:
    """This machine as a ``HostService``: what would be its hypervisor is made up, what is wrong with it is not."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self.log_data = b"(XEN) Xen version 4.20.4\n(XEN) \x1b[2Jd1v0 speaks\n"

    def machine(self) -> Machine:
        return Machine(
            version="4.20.4",
            capabilities="xen-3.0-x86_64",
            command_line="dom0_mem=1G",
            scheduler="credit2",
            features=("pv", "iommu"),
            cpus=2,
            threads_per_core=1,
            cores_per_socket=2,
            nodes=1,
            cpu_khz=2_000_000,
            memory=4 << 30,
            free=1 << 30,
            scrubbing=0,
        )

    def log(self, *, index: int | None, clear: bool) -> LogPart:
        data = self.log_data[index or 0 :]
        if clear:
            self.log_data = b""
        return LogPart(data, (index or 0) + len(data))

    async def examine(self) -> builtins.list[Finding]:
        return await examine(Place(state=self._state))


@asynccontextmanager
async def open_local_services(state: Path) -> AsyncGenerator[Services]:
    """Services without Xen on a state folder; ends the processes at its end."""
    with ZoneStore.open(state / "state.sqlite") as store, EventLog(state) as events:
        async with asyncio.TaskGroup() as group:
            zones = LocalZones(store, group, state / "zones", events)
            try:
                yield Services(
                    zones=zones,
                    images=LocalImages(),
                    volumes=Volumes(VolumeStore(state / "volumes")),
                    networks=Attachments(
                        NetworkStore(state / "networks", state / "leases", configurations=state / "cni"), state / "run"
                    ),
                    kernels=LocalKernels(),
                    host=LocalHost(state),
                    spool=prepare_spool(state),
                )
            finally:
                await zones.end_all()
