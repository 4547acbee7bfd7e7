"""Checks of the host's Linux: drivers, programs, kernels for zones, room on the disk, the clock."""

from __future__ import annotations

import ctypes
import os
import shutil
import time
from collections.abc import Iterator

from zonal.daemon.checks.finding import Check, Finding, Place, error, ok, warning

_BACKENDS = {"vbd": ("disks", "xen-blkback"), "vif": ("networks", "xen-netback")}
_PROGRAMS = {
    "python3": ("python3-minimal", "for the agent"),
    "crun": ("crun", "which runs the containers in zones"),
    "busybox": ("busybox-static", "for the first steps of a zone"),
    "mkfs.erofs": ("erofs-utils", "for images"),
    "mkfs.ext4": ("e2fsprogs", "for what zones write"),
    "skopeo": ("skopeo", "for registries"),
}
_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"))
MIN_ROOM, WANTED_ROOM = 512 << 20, 4 << 30
"""Bytes of the disk with images, scratch disks and volumes."""
MIN_INODES = 1000
_CLOCKS = {"xen", "tsc"}
_EARLIEST = 1_767_225_600
"""2026 began then, in seconds since the epoch; no clock that is right shows less."""
_TIME_ERROR = 5
"""What adjtimex(2) returns for a clock that nobody sets right."""
_TIMEX_SIZE = 512
"""More than ``struct timex`` has."""


def drivers(place: Place) -> Iterator[Finding]:
    """The backends of zones' devices."""
    missing = 0
    for name, (what, module) in _BACKENDS.items():
        if not place.has(f"sys/bus/xen-backend/drivers/{name}"):
            missing += 1
            yield error("drivers", f"nothing serves zones' {what}: {module} is not loaded", f"modprobe {module}")
    if not place.has("dev/loop-control"):
        missing += 1
        yield error("drivers", "there are no loop devices, which carry images to zones", "modprobe loop")
    if not missing:
        yield ok("drivers", "blkback, netback and loop are loaded")


def kernel(place: Place) -> Iterator[Finding]:
    """The host's kernel: whether it can still load modules."""
    if place.has(f"lib/modules/{place.release}"):
        yield ok("kernel", f"Linux {place.release}, with its modules")
    else:
        yield warning(
            "kernel",
            f"there are no modules of the kernel that runs, {place.release}: it was updated since, perhaps",
            "boot the machine anew before something needs another module",
        )


def zone_kernels(place: Place) -> Iterator[Finding]:
    """Whether there is a kernel for zones to boot."""
    found = [*(place.root / "boot").glob("vmlinuz-*"), *(place.state / "kernels/files").glob("*")]
    if found:
        yield ok("zone kernels", f"{len(found)} are there")
    else:
        advice = "apt-get install linux-image-cloud-amd64, or zonal kernel pull"
        yield error("zone kernels", "there is none, in /boot or imported", advice)


def programs(place: Place) -> Iterator[Finding]:
    """What zonald runs, or puts into every zone."""
    missing = [name for name in _PROGRAMS if not found_program(name)]
    for name in missing:
        package, purpose = _PROGRAMS[name]
        yield error("programs", f"{name} is missing, {purpose}", f"apt-get install {package}")
    if not missing:
        yield ok("programs", f"{', '.join(_PROGRAMS)} are there")


def room(place: Place) -> Iterator[Finding]:
    """Space and inodes for images, scratch disks and volumes."""
    folder = place.state
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    inodes = os.statvfs(folder)
    text = f"{free / (1 << 30):.1f} GiB are free at {folder}"
    advice = "zonal image df shows what is there, zonal image prune removes what nobody uses"
    if free < MIN_ROOM:
        yield error("room", f"only {text}", advice)
    elif free < WANTED_ROOM:
        yield warning("room", f"only {text}", advice)
    elif inodes.f_files and inodes.f_favail < MIN_INODES:
        yield error("room", f"only {inodes.f_favail} more files can be made at {folder}", advice)
    else:
        yield ok("room", text)


def clock(place: Place) -> Iterator[Finding]:
    """Whether the time is right, and where it comes from."""
    if time.time() < _EARLIEST:
        yield error(
            "clock",
            f"it is {time.strftime('%Y-%m-%d')} here, so certificates of registries will not be valid",
            "set the clock: timedatectl set-time, or a time service such as chrony",
        )
        return
    source = place.read("sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source is not None and source not in _CLOCKS:
        yield warning("clock", f"time is read from {source}, which is slow and may drift", "boot with clocksource=xen")
    elif _unsynchronised():
        yield warning("clock", "nothing keeps it right", "install a time service: apt-get install chrony")
    else:
        yield ok("clock", f"it is kept right{f', and read from {source}' if source else ''}")


def found_program(name: str) -> str | None:
    """Its path, also in places that an ordinary user's PATH has not."""
    return shutil.which(name, path=_PATH)


def _unsynchronised() -> bool:
    state = ctypes.create_string_buffer(_TIMEX_SIZE)  # all zeros: only read (adjtimex(2), modes)
    return ctypes.CDLL(None).adjtimex(state) == _TIME_ERROR


CHECKS: tuple[Check, ...] = (drivers, kernel, zone_kernels, programs, room, clock)
