"""The storage of one zone besides its image: its scratch disk, and its mounts, also while it runs.

Each mount holds what it is made of (a volume's or an image's lease, a loop device) on a stack of its own, so that it
can be given up alone. What is mounted is written down before it is made, so that the next daemon knows it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from zonal.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError, WrongStateError, ZonalError
from zonal.images.store import ImageStore
from zonal.volumes.filesystem import FilesystemTemplates
from zonal.volumes.recovery import needs_recovery
from zonal.volumes.store import DATA_FOLDER, VolumeStore
from zonal.xen.devices.vbd import Disk, disk_from_path, node_number, plan_vbd, vbd
from zonal.xen.devices.xenbus import detach, wait_connected
from zonal.xen.domain import DevicePlan, finish_in_thread
from zonal.xen.loop import open_loop
from zonal.zones.allotments import Allotments
from zonal.zones.devices import MODULES
from zonal.zones.host import XenHost
from zonal.zones.module_loading import ModuleSource, supply_modules
from zonal.zones.mounts import DEVICE_DISKS, MAX_MOUNTS, SCRATCH_DISK, VOLUME_DISKS, Attached, Mount, MountKind
from zonal.zones.session import CallRefusedError, Session
from zonal.zones.shares import SharedFolder, ZoneShares, share_parameters
from zonal.zones.spec import ZoneSpec
from zonal.zones.state import ZoneStore

if TYPE_CHECKING:
    from zonal.agent.protocol.cbor import Value

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 30.0
CALL_TIMEOUT = 60.0
ATTACH_TIMEOUT = 300.0
"""Seconds that a mount may take: a journal may have to be replayed."""
FILL_TIMEOUT = 3600.0
"""Seconds that filling an empty volume from the image may take."""
SETTLE_TIMEOUT = 120.0


@dataclass(frozen=True)
class StorageSources:
    """Where storage comes from."""

    images: ImageStore
    volumes: VolumeStore
    scratch: FilesystemTemplates
    modules: ModuleSource


@dataclass(frozen=True)
class _Open:
    attached: Attached
    disk: Disk | None
    folder: SharedFolder | None
    stack: ExitStack


class ZoneStorage:
    """See the module."""

    def __init__(
        self,
        host: XenHost,
        sources: StorageSources,
        records: ZoneStore,
        spec: ZoneSpec,
        folder: Path,
        allotments: Allotments,
        *,
        scratch_disk: str = SCRATCH_DISK,
        disks: tuple[str, ...] = VOLUME_DISKS,
    ) -> None:
        """``allotments`` are the zone's; ``disks`` are names for volumes and images that are mounted."""
        self.scratch_disk = scratch_disk
        self._allotments = allotments
        self._disks = disks
        self._host = host
        self._sources = sources
        self._records = records
        self._spec = spec
        self._folder = folder
        self._shares = ZoneShares(host, spec.name, folder, sources.modules)
        self._open: dict[str, _Open] = {}
        self._paths: dict[str, str] = {}
        """Where the agent has each mount."""

    @property
    def user(self) -> str:
        """What leases of volumes and images name."""
        return f"zone {self._spec.name}"

    def rename(self, name: str) -> None:
        """The zone has another name from now on."""
        self._spec = replace(self._spec, name=name)

    @property
    def mounted(self) -> tuple[Attached, ...]:
        """What is mounted now."""
        return tuple(each.attached for each in self._open.values())

    @property
    def scratch_device(self) -> str:
        """The scratch disk's device in the zone; empty when there is none."""
        return f"/dev/{self.scratch_disk}" if self._spec.storage_bytes else ""

    async def open_at_launch(self, stack: AsyncExitStack) -> list[DevicePlan]:
        """Opens the scratch disk and all that the spec mounts. Raises ``ZonalError``; ``stack`` closes it."""
        stack.callback(self._close_all)
        disks: list[Disk] = []
        plans: list[DevicePlan] = []
        if self._spec.storage_bytes:
            path = scratch_path(self._folder)
            if not path.exists():
                await finish_in_thread(self._sources.scratch.copy, path, self._spec.storage_bytes)
            loop = stack.enter_context(open_loop(path, read_only=False, direct=True))
            disks.append(Disk(self.scratch_disk, loop.path, loop.device, writable=True))
        for mount in self._spec.mounts:
            if mount.needs_attaching:
                opened = self._open_one(mount)
                disks += [opened.disk] if opened.disk else []
                plans += [self._shares.plan(opened.attached)] if opened.folder else []
        self._write_down()
        return [*(partial(plan_vbd, disk=disk) for disk in disks), *plans]

    async def close_before_domain(self) -> None:
        """Gives up what holds pages of the zone, which must be gone before its domain can be."""
        await self._shares.stop()

    def take_over(self, stack: AsyncExitStack, attached: Iterable[Attached]) -> None:
        """Takes the leases of what a running zone has; its devices are the kernel's and have stayed."""
        stack.callback(self._close_all)
        for each in attached:
            for name in filter(None, (each.id, each.disk)):
                self._allotments.claim(name)
            with ExitStack() as opening:
                for name in filter(None, (each.id, each.disk)):
                    opening.callback(self._allotments.give_back, name)
                with suppress(ZonalError):
                    self._lease(each.mount, opening)
                self._open[each.mount.target] = _Open(each, None, None, opening.pop_all())

    async def attach_at_launch(self, session: Session, domain_id: int, root: str) -> None:
        """Has the agent mount what was opened, and fill empty volumes. Raises ``CallRefusedError``."""
        shared = [(each.attached, each.folder) for each in self._open.values() if each.folder is not None]
        if shared:
            await self._shares.serve(session, self._release, domain_id, shared)
        for each in self._open.values():
            await self._attach(session, each.attached, root)
        if drivers := {MODULES[device.source] for device in self._zone_devices() if device.source in MODULES}:
            await supply_modules(session, self._sources.modules(self._release), sorted(drivers))

    def zone_devices(self) -> list[Value]:
        """The zone's own devices for the container, as the agent takes them."""
        return [
            {"source": device.source, "path": device.target, "access": device.access} for device in self._zone_devices()
        ]

    def oci_mounts(self) -> list[dict[str, object]]:
        """``mounts`` of the OCI configuration, parents before what is mounted in them."""
        mounts = sorted(self._spec.mounts, key=lambda mount: len(PurePosixPath(mount.target).parts))
        nodes = (MountKind.DEVICE, MountKind.ZONE_DEVICE)
        return [self._oci_mount(mount) for mount in mounts if mount.kind not in nodes]

    def oci_devices(self) -> list[dict[str, object]]:
        """``linux.devices`` of the OCI configuration."""
        devices: list[dict[str, object]] = []
        for each in self.mounted:
            if each.mount.kind is MountKind.DEVICE:
                major, minor = node_number(each.disk)
                node = {"path": each.mount.target, "type": "b", "major": major, "minor": minor, "fileMode": 0o660}
                devices.append({**node, "uid": 0, "gid": 0})
        return devices

    async def add(self, session: Session, domain_id: int, workload: str, mount: Mount) -> None:
        """Mounts something in a zone that runs. Raises ``ZonalError``; then nothing has changed."""
        if mount.target in self._open:
            raise AlreadyExistsError(
                f"zone {self._spec.name} has something mounted at {mount.target} already",
                hint=f"zonal zone unmount {self._spec.name} {mount.target}",
            )
        async with AsyncExitStack() as undo:
            opened = self._open_one(mount)
            undo.callback(self._give_up, opened)
            self._write_down()
            undo.push_async_callback(self._disconnect, domain_id, opened.attached)
            await self._connect(session, domain_id, opened)
            # Before it is attached: filling a volume may fail when it is mounted already.
            undo.push_async_callback(self._detach, session, opened.attached)
            try:
                await self._attach(session, opened.attached, workload)
                await self._bind(session, workload, opened.attached)
            except CallRefusedError as error:
                raise WrongStateError(f"{mount.target} cannot be mounted: {error.reason}") from error
            undo.pop_all()

    async def remove(self, session: Session, domain_id: int, workload: str, target: str) -> None:
        """Undoes a mount, busy or not. Raises ``NotFoundError`` when nothing of ours is at ``target``."""
        opened = self._open.get(target)
        if opened is None:
            here = ", ".join(sorted(self._open)) or "nothing"
            raise NotFoundError(
                f"zone {self._spec.name} has nothing at {target} that could be unmounted", hint=f"there is: {here}"
            )
        attached = opened.attached
        method = "remove_node" if attached.mount.kind is MountKind.DEVICE else "unbind"
        try:
            await session.call(method, {"id": workload, "path": target}, CALL_TIMEOUT)
        except CallRefusedError as error:
            log.info("zone %s: %s", self._spec.name, error)  # the workload has undone it before us
        await self._detach(session, attached)
        await self._disconnect(domain_id, attached)
        self._give_up(opened)

    async def settle(self, session: Session, root: str, *, keep: bool) -> None:
        """After the workload's end: what was written comes to rest on the disks, which the zone lets go of.

        ``keep``: whether the scratch disk outlives the zone.
        """
        keeps_scratch = self._spec.storage_bytes and keep
        if self.outlived or keeps_scratch:
            for each in self.mounted:
                await self._detach(session, each)
        if keeps_scratch:
            # The agent keeps a root for as long as it remembers the workload.
            for method in ("forget", "remove_root"):
                try:
                    await session.call(method, {"id": root}, SETTLE_TIMEOUT)
                except CallRefusedError as error:
                    log.warning("zone %s: its scratch disk is not at rest: %s", self._spec.name, error)

    async def vacate(self, session: Session, domain_id: int, *, runs: bool) -> None:
        """After the end of a workload whose zone goes on: the zone lets go of all that it had mounted.

        ``runs``: whether there is still a zone to ask.
        """
        for each in self.mounted:
            with suppress(ZonalError):
                if runs:
                    await self._detach(session, each)
                    await self._disconnect(domain_id, each)
            self._give_up(self._open[each.mount.target])

    @property
    def outlived(self) -> bool:
        """Whether there is something, besides the zone's own disk, that it may have written to."""
        kept = {MountKind.VOLUME, MountKind.DEVICE, MountKind.BIND}
        return any(each.mount.kind in kept and not each.mount.read_only for each in self.mounted)

    def _zone_devices(self) -> list[Mount]:
        return [mount for mount in self._spec.mounts if mount.kind is MountKind.ZONE_DEVICE]

    def _open_one(self, mount: Mount) -> _Open:
        name = self._allotments.take(f"m{number}" for number in range(MAX_MOUNTS))
        if name is None:
            raise ResourceExhaustedError(f"zone {self._spec.name} has {MAX_MOUNTS} mounts, and no zone can have more")
        with ExitStack() as stack:
            stack.callback(self._allotments.give_back, name)
            source = self._lease(mount, stack)
            disk = self._open_disk(mount, source, stack)
            folder = self._shares.open(mount, stack) if mount.kind is MountKind.BIND else None
            opened = _Open(Attached(name, mount, disk.name if disk else ""), disk, folder, stack.pop_all())
        self._open[mount.target] = opened
        return opened

    def _lease(self, mount: Mount, stack: ExitStack) -> Path | None:
        """Claims what a mount is made of; gives the file or device that holds it."""
        match mount.kind:
            case MountKind.VOLUME:
                lease = self._sources.volumes.use(mount.source, self.user, read_only=mount.read_only)
                return stack.enter_context(lease).held.path
            case MountKind.IMAGE:
                return stack.enter_context(self._sources.images.use(mount.image_id, self.user)).held.erofs
            case MountKind.DEVICE:
                return Path(mount.source)
            case _:
                return None

    def _open_disk(self, mount: Mount, source: Path | None, stack: ExitStack) -> Disk | None:
        match mount.kind:
            case MountKind.VOLUME:
                assert source is not None
                if mount.read_only and needs_recovery(source):
                    raise WrongStateError(
                        f"volume {mount.source} was in use when its zone was lost, and cannot be only read as it is",
                        hint="mount it once without :ro, which puts it in order",
                    )
                loop = stack.enter_context(open_loop(source, read_only=mount.read_only, direct=True))
                return Disk(self._free(self._disks, stack), loop.path, loop.device, writable=not mount.read_only)
            case MountKind.IMAGE:
                assert source is not None
                shared = stack.enter_context(self._host.loops.acquire(source))
                return Disk(self._free(self._disks, stack), shared.path, shared.device)
            case MountKind.DEVICE:
                assert source is not None
                return disk_from_path(self._free(DEVICE_DISKS, stack), source, writable=not mount.read_only)
            case _:
                return None

    def _free(self, disks: tuple[str, ...], stack: ExitStack) -> str:
        name = self._allotments.take(disks)
        if name is not None:
            stack.callback(self._allotments.give_back, name)
            return name
        raise ResourceExhaustedError(f"zone {self._spec.name} has {len(disks)} such disks, and no zone can have more")

    async def _connect(self, session: Session, domain_id: int, opened: _Open) -> None:
        if opened.disk is not None:
            entries = plan_vbd(domain_id, opened.disk)
            await self._host.store.transaction(lambda transaction: transaction.put(entries))
            await wait_connected(self._host.store, vbd(domain_id, opened.disk), timeout=CONNECT_TIMEOUT)
        elif opened.folder is not None:
            entries = self._shares.plan(opened.attached)(domain_id)
            await self._host.store.transaction(lambda transaction: transaction.put(entries))
            await self._shares.serve(session, self._release, domain_id, [(opened.attached, opened.folder)])

    async def _disconnect(self, domain_id: int, attached: Attached) -> None:
        if attached.disk:
            device = vbd(domain_id, Disk(attached.disk, Path(), 0))
            await detach(self._host.store, [device], timeout=CONNECT_TIMEOUT, zone_runs=True)
        elif attached.mount.kind is MountKind.BIND:
            await self._shares.withdraw(domain_id, attached)

    @property
    def _release(self) -> str:
        """Of the zone's kernel, as its agent told it."""
        return self._records.get(self._spec.id).kernel_release

    async def _attach(self, session: Session, attached: Attached, root: str) -> None:
        mount = attached.mount
        params: dict[str, Value] = {"id": attached.id, "read_only": mount.read_only, "owner": root}
        match mount.kind:
            case MountKind.VOLUME:
                params |= {
                    "kind": "disk",
                    "device": f"/dev/{attached.disk}",
                    "fstype": "ext4",
                    "folder": DATA_FOLDER,
                    "subpath": mount.subpath,
                }
            case MountKind.IMAGE:
                params |= {
                    "kind": "disk",
                    "device": f"/dev/{attached.disk}",
                    "fstype": "erofs",
                    "subpath": mount.subpath,
                    "read_only": True,
                }
            case MountKind.TMPFS:
                params |= {"kind": "memory", "size": mount.size_bytes, "mode": mount.mode}
            case MountKind.BIND:
                params |= share_parameters(attached)
            case _:
                return
        reply = await session.call("attach", params, ATTACH_TIMEOUT)
        self._paths[attached.id] = str(reply.get("path", "")) if isinstance(reply, dict) else ""
        if mount.kind is MountKind.VOLUME and mount.copy and not mount.read_only and not mount.subpath:
            await session.call("fill", {"id": attached.id, "root": root, "path": mount.target}, FILL_TIMEOUT)

    async def _bind(self, session: Session, workload: str, attached: Attached) -> None:
        target = attached.mount.target
        if attached.mount.kind is MountKind.DEVICE:
            params: dict[str, Value] = {"id": workload, "device": f"/dev/{attached.disk}", "path": target}
            await session.call("make_node", params, CALL_TIMEOUT)
        else:
            await session.call("bind", {"id": workload, "mount": attached.id, "path": target}, CALL_TIMEOUT)

    async def _detach(self, session: Session, attached: Attached) -> None:
        if attached.mount.kind is MountKind.DEVICE:
            return
        try:
            await session.call("detach", {"id": attached.id}, SETTLE_TIMEOUT)
        except CallRefusedError as error:
            log.info("zone %s: %s", self._spec.name, error)

    def _oci_mount(self, mount: Mount) -> dict[str, Any]:
        access = "ro" if mount.read_only else "rw"
        if mount.kind is MountKind.TMPFS:
            given = set(mount.options)
            defaults = [f"no{name}" for name in ("exec", "suid", "dev") if not {name, f"no{name}"} & given]
            options = [*defaults, *mount.options, f"mode={mount.mode:o}", access]
            options += [f"size={mount.size_bytes}"] if mount.size_bytes else []
            return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}
        path = self._paths[self._open[mount.target].attached.id]
        return {"destination": mount.target, "type": "bind", "source": path, "options": ["rbind", "rprivate", access]}

    def _give_up(self, opened: _Open) -> None:
        self._open.pop(opened.attached.mount.target, None)
        opened.stack.close()
        self._write_down()

    def _close_all(self) -> None:
        for each in self._open.values():
            each.stack.close()
        self._open.clear()

    def _write_down(self) -> None:
        with suppress(NotFoundError):
            self._records.update(self._spec.id, attached=self.mounted)


def scratch_path(folder: Path) -> Path:
    """Where in a zone's folder its scratch disk is."""
    return folder / "scratch.ext4"
