"""Virtual block devices (``vbd``): a block device of the host as ``/dev/xvda`` … of a zone.

Served by the host's kernel (xen-blkback). Nodes: ``io/blkif.h``.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from zonal.errors import InvalidInputError, NotFoundError
from zonal.xen.devices.xenbus import Device, plan_device
from zonal.xen.store import Entry

XVD_MAJOR = 202
EXTENDED = 1 << 28
_LETTERS = 26
_NAME = re.compile(r"xvd[a-z]{1,2}", re.ASCII)
_PLAIN_DISKS = 16
_PLAIN_PARTITIONS, _EXTENDED_PARTITIONS = 16, 256


@dataclass(frozen=True, slots=True)
class Disk:
    """What a zone gets: ``device`` is the host's block device (as ``os.major`` takes it), ``path`` what it is called.

    ``name`` is the zone's name for it: ``xvda`` to ``xvdz``, then ``xvdaa`` to ``xvdzz``.
    """

    name: str
    path: Path
    device: int
    writable: bool = False


def disk_number(name: str) -> int:
    """The number in the store for ``xvda`` to ``xvdzz``, as xen-vbd-interface(7) has it.

    The first sixteen disks are their own device number, with sixteen minors each; later ones have the extended form.
    Raises :class:`InvalidInputError` for another name.
    """
    _, minor = node_number(name)
    return XVD_MAJOR << 8 | minor if minor < 256 else EXTENDED | minor


def node_number(name: str) -> tuple[int, int]:
    """Major and minor of the disk's node in the zone. Raises :class:`InvalidInputError` for another name."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(f"{name!r} cannot be the name of a zone's disk; it must be from xvda to xvdzz")
    # They count as encode_disk_name of Linux's xen-blkfront has it: after z comes aa.
    place = -1
    for letter in name[3:]:
        place = (place + 1) * _LETTERS + ord(letter) - ord("a")
    return XVD_MAJOR, place * (_PLAIN_PARTITIONS if place < _PLAIN_DISKS else _EXTENDED_PARTITIONS)


def disk_from_path(name: str, path: Path, *, writable: bool = False) -> Disk:
    """A disk of the host's block device at ``path``; raises if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist, so it cannot be a disk") from None
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidInputError(f"{path} is not a block device", hint="a file needs a loop device")
    return Disk(name, path, status.st_rdev, writable)


def vbd(domain_id: int, disk: Disk, *, backend_id: int = 0) -> Device:
    """The device that ``disk`` is to the zone."""
    return Device("vbd", domain_id, disk_number(disk.name), backend_id)


def plan_vbd(domain_id: int, disk: Disk, *, backend_id: int = 0) -> list[Entry]:
    """All nodes of a disk for one zone.

    ``physical-device`` is there from the start, where Xen's own tools have a script write it: the backend opens the
    device as soon as it sees it.
    """
    device = vbd(domain_id, disk, backend_id=backend_id)
    return plan_device(
        device,
        frontend={"virtual-device": device.number, "device-type": "disk"},
        backend={
            "params": str(disk.path),
            "physical-device": f"{os.major(disk.device):x}:{os.minor(disk.device):x}",
            "mode": "w" if disk.writable else "r",
            "type": "phy",
            "dev": disk.name,
            "device-type": "disk",
            "removable": 0,
            "bootable": 0,
            "discard-enable": int(disk.writable),
            "hotplug-status": "connected",
        },
    )
