"""What a zone's workload sees besides its image: directories, volumes, memory, images and devices, each at a path.

A mount is checked and resolved before it becomes part of a zone's spec. One that needs a device of the zone's (a block
device, or a share) is *attached* first, under an id; then it is bound into the container.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from zonal.xen.devices.vbd import node_number

SCRATCH_DISK: Final = "xvdc"
VOLUME_DISKS: Final = tuple(f"xvd{letter}" for letter in "efghijklmnopqrs")
DEVICE_DISKS: Final = tuple(f"xvd{letter}" for letter in "tuvwxyz")
"""Apart from the volumes', so that a container may open these, and these alone, as devices."""
SHARED_DISKS: Final = tuple(f"xvd{first}{second}" for first in "abcdef" for second in "abcdefghijklmnopqrstuvwxyz")
"""For images, scratch disks and volumes of workloads that share a zone."""
DEVICE_NUMBERS: Final = tuple(map(node_number, DEVICE_DISKS))
MAX_MOUNTS = 64
TMPFS_OPTIONS = frozenset(
    {"exec", "noexec", "suid", "nosuid", "dev", "nodev", "atime", "noatime", "relatime", "strictatime"}
)
MAX_PATH = 4095
"""Bytes of a path: Linux's PATH_MAX less the NUL."""


class MountKind(enum.StrEnum):
    """What is mounted; the first four are docker's types."""

    BIND = "bind"
    """A directory or file of the host, over 9p."""
    VOLUME = "volume"
    """A named volume, on a block device."""
    TMPFS = "tmpfs"
    """Memory of the zone."""
    IMAGE = "image"
    """The files of an image, read-only."""
    DEVICE = "device"
    """A block device of the host, as a device node."""
    ZONE_DEVICE = "zone-device"
    """A character device of the zone's own kernel, such as /dev/fuse, as a device node."""


@dataclass(frozen=True)
class Mount:
    """One mount, checked."""

    kind: MountKind
    target: str
    """Absolute path in the container; of the node, for a device."""
    source: str = ""
    """A path of the host (of a device of the zone's: of the zone), a volume's name, an image as the user called it."""
    read_only: bool = False
    subpath: str = ""
    """For volumes and images: only this folder of it, relative and without ``..``."""
    size_bytes: int = 0
    """Of a tmpfs; 0 leaves it to the kernel."""
    mode: int = 0o1777
    """Of a tmpfs."""
    options: tuple[str, ...] = ()
    """Of a tmpfs, such as ``noexec``: some of `TMPFS_OPTIONS`."""
    copy: bool = True
    """Whether an empty volume gets what the image has at ``target``."""
    anonymous: bool = False
    """Whether the volume was made for this zone alone."""
    image_id: str = ""
    """Of an image: its digest."""
    cached: bool = False
    """Of a directory of the host: whether the zone may keep what it has read, and write later."""
    delegated: bool = False
    """And take it that nobody else changes anything there."""
    access: str = "rwm"
    """Of a device of the zone's: what the container may do with it."""

    @property
    def needs_attaching(self) -> bool:
        """Whether a device must be given to the zone; tmpfs and what the zone has itself need none."""
        return self.kind not in (MountKind.TMPFS, MountKind.ZONE_DEVICE)


@dataclass(frozen=True)
class Attached:
    """A mount that a zone has now."""

    id: str
    """``m0``, ``m1`` …, unique in the zone."""
    mount: Mount
    disk: str = ""
    """Its block device in the zone, such as ``xvde``; empty when it has none."""

    @property
    def number(self) -> int:
        """Of its 9pfs device, if it is a share."""
        return int(self.id[1:])
