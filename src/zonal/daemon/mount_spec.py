"""From a client's mounts to checked ones: what is named exists, volumes that are missing are made.

What docker refuses is refused, and what it fills in is filled in.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from zonal.api import control_pb2 as pb
from zonal.daemon.services import ImageFinder, VolumeService
from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from zonal.zones.devices import is_zone_device
from zonal.zones.mounts import MAX_MOUNTS, MAX_PATH, TMPFS_OPTIONS, Mount, MountKind
from zonal.zones.names import make_id

MAX_TMPFS = 1 << 40


class Mounts:
    """Checks and resolves mounts."""

    def __init__(self, images: ImageFinder, volumes: VolumeService) -> None:
        self._images = images
        self._volumes = volumes

    async def resolve(self, messages: Iterable[pb.Mount]) -> tuple[Mount, ...]:
        """All of them. Raises ``InvalidInputError``, ``NotFoundError``, and what making a volume raises."""
        checked = [self.check(message) for message in messages]
        if len(checked) > MAX_MOUNTS:
            raise InvalidInputError(
                f"{len(checked)} mounts are more than a zone can have", hint=f"{MAX_MOUNTS} at most"
            )
        targets: set[str] = set()
        for mount in checked:
            if mount.target in targets:
                raise InvalidInputError(f"{mount.target} is mounted twice", hint="leave out one of them")
            targets.add(mount.target)
        made: list[str] = []
        try:
            return tuple([await self._supply(*pair, made) for pair in zip(checked, messages, strict=True)])
        except BaseException:
            for name in made:
                self._volumes.remove(name)
            raise

    async def resolve_one(self, message: pb.Mount) -> Mount:
        """One mount, for a zone that runs."""
        (mount,) = await self.resolve([message])
        if mount.kind is MountKind.ZONE_DEVICE:
            raise InvalidInputError(
                f"{mount.source} is the zone's own, and cannot be given to a workload that runs",
                hint="run the zone with --device",
            )
        return mount

    def discard(self, mounts: Iterable[Mount]) -> None:
        """Removes what was made for a zone that cannot be."""
        for mount in mounts:
            if mount.anonymous:
                self._volumes.remove(mount.source)

    def check(self, message: pb.Mount) -> Mount:
        """What can be said without making anything."""
        try:
            kind = _kind(message)
        except ValueError:
            known = ", ".join(kind for kind in MountKind if kind is not MountKind.ZONE_DEVICE)
            raise InvalidInputError(f"{message.type!r} is no type of mount", hint=f"there are {known}") from None
        mount = Mount(
            kind=kind,
            target=_check_target(message.target),
            source=message.source,
            read_only=message.read_only or kind is MountKind.IMAGE,
            subpath=_check_subpath(message.subpath),
            size_bytes=message.size_bytes,
            mode=message.mode if message.HasField("mode") else 0o1777,
            options=tuple(message.options),
            copy=not message.no_copy,
            access=_access(message.access),
        )
        if mount.mode > 0o7777:
            raise InvalidInputError(f"{mount.mode:o} is no mode of a directory", hint="such as 1777")
        if unknown := set(mount.options) - TMPFS_OPTIONS:
            known = ", ".join(sorted(TMPFS_OPTIONS))
            raise InvalidInputError(f"{min(unknown)!r} is no option of a tmpfs", hint=f"there are {known}")
        _check_fields(mount)
        match kind:
            case MountKind.BIND:
                _check_host_path(mount.source, create=message.create)
                return replace(mount, cached=message.cached or message.delegated, delegated=message.delegated)
            case MountKind.DEVICE:
                _check_device(mount.source)
            case MountKind.IMAGE:
                return replace(mount, image_id=self._images.resolve(mount.source).id)
            case _:
                pass
        return mount

    async def _supply(self, mount: Mount, message: pb.Mount, made: list[str]) -> Mount:
        if mount.kind is MountKind.BIND and message.create:
            _make_folder(mount.source)
        if mount.kind is not MountKind.VOLUME:
            return mount
        if not mount.source:
            mount = replace(mount, source=make_id(), anonymous=True)
        try:
            self._volumes.find(mount.source)
        except NotFoundError:
            try:
                await self._volumes.create(mount.source, size=message.size_bytes, anonymous=mount.anonymous)
                made.append(mount.source)
            except AlreadyExistsError:
                pass  # another call was quicker, and wants the same
        return replace(mount, size_bytes=0)


def _kind(message: pb.Mount) -> MountKind:
    """As it says; but a device that is no block device of the host is one of the zone's own kernel."""
    kind = MountKind(message.type)
    if kind is MountKind.ZONE_DEVICE:
        raise ValueError(message.type)
    if kind is MountKind.DEVICE and is_zone_device(message.source):
        return MountKind.ZONE_DEVICE
    return kind


def _access(text: str) -> str:
    if not set(text) <= set("rwm"):
        raise InvalidInputError(f"{text[:32]!r} is no access to a device", hint="some of rwm")
    return text or "rwm"


def _check_target(target: str) -> str:
    if not target.startswith("/") or "\0" in target or len(target.encode()) > MAX_PATH:
        raise InvalidInputError(f"{target[:64]!r} cannot be a mount's place in the container", hint="an absolute path")
    clean = posixpath.normpath("/" + target.lstrip("/"))
    if clean == "/":
        raise InvalidInputError("nothing can be mounted at / of a container", hint="give a directory below it")
    return clean


def _check_subpath(subpath: str) -> str:
    parts = Path(subpath).parts
    if subpath and (subpath.startswith("/") or ".." in parts or "\0" in subpath or len(subpath) > MAX_PATH):
        raise InvalidInputError(f"{subpath[:64]!r} cannot be a subpath", hint="a relative path without ..")
    return "/".join(part for part in parts if part != ".")


def _check_fields(mount: Mount) -> None:
    kind = mount.kind
    if kind is MountKind.TMPFS and mount.source:
        raise InvalidInputError(f"a tmpfs has no source, and {mount.source!r} is given", hint="leave it out")
    if kind not in (MountKind.TMPFS, MountKind.VOLUME) and not mount.source:
        raise InvalidInputError(f"the {kind} mount at {mount.target} has no source", hint="give source=…")
    if mount.subpath and kind not in (MountKind.VOLUME, MountKind.IMAGE):
        raise InvalidInputError(f"a {kind} mount has no subpath", hint="name the directory as its source")
    if kind is not MountKind.TMPFS and mount.options:
        raise InvalidInputError(f"a {kind} mount does not take {mount.options[0]!r}", hint="tmpfs does")
    if kind not in (MountKind.TMPFS, MountKind.VOLUME) and mount.size_bytes:
        raise InvalidInputError(f"a {kind} mount has no size of its own", hint="leave the size out")
    if mount.size_bytes > MAX_TMPFS and kind is MountKind.TMPFS:
        raise InvalidInputError(f"a tmpfs cannot have {mount.size_bytes} bytes", hint="at most 1T")


def _check_host_path(source: str, *, create: bool) -> None:
    path = Path(source)
    if not path.is_absolute() or "\0" in source or len(source.encode()) > MAX_PATH:
        raise InvalidInputError(f"{source[:64]!r} is not an absolute path of the host", hint="such as /srv/data")
    if not create and not path.exists():
        raise InvalidInputError(f"{source} does not exist in the host", hint="make it first, or use -v")


def _make_folder(source: str) -> None:
    """As docker does for ``-v``."""
    try:
        if not Path(source).exists():
            Path(source).mkdir(parents=True)
            Path(source).chmod(0o755)  # whatever zonald's umask is
    except OSError as error:
        raise InvalidInputError(f"{source} cannot be made in the host: {error.strerror}") from error


def _check_device(source: str) -> None:
    _check_host_path(source, create=True)
    path = Path(source)
    if not path.is_block_device():
        what = "is not a block device" if path.exists() else "does not exist"
        raise InvalidInputError(
            f"the device {source} {what} in the host",
            hint="zones take block devices, such as /dev/sdb; /dev/fuse and the like they have of their own",
        )
