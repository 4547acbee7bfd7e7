"""Named volumes: made, listed, lent to zones, removed.

::

    volumes/NAME/volume.json       size, time of making, labels, whether it is anonymous
    volumes/NAME/data.ext4         a sparse file; the volume's files are in the folder ``_data`` of its filesystem

A volume is there once its folder has its final name, which is when all in it is whole and on the disk. A filesystem on
a block device has one writer: a volume belongs to one zone at a time, or to several that all only read.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError, WrongStateError
from zonal.images.files import is_full, no_room, sync_folder, write_file
from zonal.images.lease import Lease
from zonal.volumes.filesystem import check_size, make_filesystem, used_bytes
from zonal.volumes.sizes import DEFAULT_SIZE

DATA_FOLDER: Final = "_data"
"""Where in its filesystem a volume's files are; beside it ext4 keeps ``lost+found``, which is nobody's business."""
MAX_LABELS = 64
MAX_LABEL = 4096
"""Characters of a label, name and value together."""
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as it is kept."""

    name: str
    path: Path
    """The file that holds its filesystem."""
    size: int
    """Bytes that the filesystem may grow to."""
    created_ns: int
    """Wall clock, ns since the epoch."""
    anonymous: bool = False
    """Whether nobody has named it: then it goes with the zone that it was made for."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def used(self) -> int:
        """Bytes that it takes on the host's disk."""
        return used_bytes(self.path)


class VolumeStore:
    """All volumes below one folder. One process at a time, one event loop."""

    def __init__(self, folder: Path) -> None:
        """Opens the store, made if it is not there, and removes what an earlier process left half made."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.leases: set[Lease[Volume]] = set()
        for path in folder.iterdir():
            if path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)

    def list(self) -> list[Volume]:
        """Every volume, by name."""
        found = [self._read(path) for path in sorted(self._folder.iterdir()) if not path.name.startswith(".")]
        return [volume for volume in found if volume is not None]

    def find(self, name: str) -> Volume:
        """Raises ``NotFoundError``, and ``InvalidInputError`` for what can be no name."""
        check_name(name)
        volume = self._read(self._folder / name)
        if volume is None:
            raise NotFoundError(f"there is no volume {name!r}", hint="zonal volume ls lists them")
        return volume

    def create(
        self, name: str, *, size: int = 0, anonymous: bool = False, labels: Mapping[str, str] | None = None
    ) -> Volume:
        """Makes a volume of ``size`` bytes, 0 for the default.

        Raises ``AlreadyExistsError``, ``InvalidInputError``, and what ``make_filesystem`` raises.
        """
        check_name(name)
        size = size or DEFAULT_SIZE
        check_size(size)
        _check_labels(labels or {})
        target = self._folder / name
        if target.exists():
            raise _taken(name)
        about = {
            "size": size,
            "created_ns": time.time_ns(),
            "anonymous": anonymous,
            "labels": dict(labels or {}),
        }
        making = self._folder / f".{uuid.uuid4().hex}"
        try:
            making.mkdir(mode=0o700)
            make_filesystem(making / "data.ext4", size, [DATA_FOLDER])
            write_file(making / "volume.json", json.dumps(about).encode(), making)
            making.rename(target)
            sync_folder(self._folder)
        except OSError as error:
            if is_full(error):
                raise no_room(self._folder) from error
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY):  # another was quicker
                raise _taken(name) from error
            raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
        return self.find(name)

    def use(self, name: str, user: str, *, read_only: bool) -> Lease[Volume]:
        """Lends a volume to ``user`` (``zone web``).

        Raises ``NotFoundError``, and ``WrongStateError`` when another has it and one of both may write.
        """
        volume = self.find(name)
        others = sorted(
            {
                lease.user
                for lease in self.leases
                if lease.held.name == name and lease.user != user and not (read_only and lease.read_only)
            }
        )
        if others:
            raise WrongStateError(
                f"volume {name} is in use by {', '.join(others)}",
                hint="one zone at a time can write to a volume; several can share one that all mount with :ro",
            )
        return Lease(self.leases, volume, user, read_only=read_only)

    def users(self, name: str) -> list[str]:
        """Who uses a volume now."""
        return sorted({lease.user for lease in self.leases if lease.held.name == name})

    def remove(self, name: str) -> None:
        """Removes a volume with all that is in it. Raises ``NotFoundError``, ``WrongStateError`` for one in use."""
        self.find(name)
        if users := self.users(name):
            raise WrongStateError(
                f"volume {name} is in use by {', '.join(users)}", hint="stop what uses it first: `zonal zone rm -f`"
            )
        # From this moment on it is not there, whatever happens while its files go.
        doomed = self._folder / f".{uuid.uuid4().hex}"
        (self._folder / name).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _read(self, folder: Path) -> Volume | None:
        try:
            about = cast("dict[str, Any]", json.loads((folder / "volume.json").read_text()))
            path = folder / "data.ext4"
            if not path.is_file():
                return None
            return Volume(
                name=folder.name,
                path=path,
                size=about["size"],
                created_ns=about["created_ns"],
                anonymous=about.get("anonymous", False),
                labels=about.get("labels", {}),
            )
        except (OSError, ValueError, KeyError):
            return None


def check_name(name: str) -> str:
    """The name itself. Raises ``InvalidInputError`` for what can be no volume's name, as docker has it."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name[:64]!r} cannot be a volume's name",
            hint="letters, digits, _ . and -, the first a letter or digit, at most 255; a path begins with /",
        )
    return name


def _taken(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"there is a volume {name!r} already", hint="choose another name")


def _check_labels(labels: Mapping[str, str]) -> None:
    if len(labels) > MAX_LABELS:
        raise InvalidInputError(f"a volume cannot have {len(labels)} labels", hint=f"at most {MAX_LABELS}")
    for key, value in labels.items():
        if not key or len(key) + len(value) > MAX_LABEL:
            raise InvalidInputError(f"{key[:64]!r} cannot be a label", hint=f"NAME=VALUE, at most {MAX_LABEL} long")
