"""What the zone mounts: its own file systems at start, and the roots of its containers."""

from __future__ import annotations

import _socket
import errno
import os
import select
import stat
import time

from zonal.agent.syscalls import (
    MNT_DETACH,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    mount,
    move_mount,
    unmount,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zonal.agent.user_namespace import IdMaps

ROOTS = "/run/zonal/roots"
"""A container's root is mounted at ``ROOTS/<id>/root``."""

_CGROUPS = "/sys/fs/cgroup"
_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC
_DEVICE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_NETLINK_KOBJECT_UEVENT = 15  # linux/netlink.h


def mount_zone() -> None:
    """The zone's own file systems; /dev is there already, mounted by the initrd. Raises ``OSError``."""
    mount("proc", "/proc", "proc", _SAFE)
    mount("sysfs", "/sys", "sysfs", _SAFE)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name in ("pts", "shm", "mqueue"):
        if not os.path.isdir(f"/dev/{name}"):
            os.mkdir(f"/dev/{name}")
    mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    try:
        mount("mqueue", "/dev/mqueue", "mqueue", _SAFE)
    except OSError as error:
        if error.errno != errno.ENODEV:  # a kernel without POSIX message queues is good enough
            raise
    mount("cgroup2", _CGROUPS, "cgroup2", _SAFE, "nsdelegate")
    with open(f"{_CGROUPS}/cgroup.controllers") as file:
        controllers = file.read().split()
    with open(f"{_CGROUPS}/cgroup.subtree_control", "w") as file:
        file.write(" ".join("+" + controller for controller in controllers))


def prepare_root(
    name: str, lower: str, fstype: str, size: int | None, scratch: str = "", ids: IdMaps | None = None
) -> str:
    """Mounts the image on ``lower`` (a block device) with a writable layer over it; gives the root's path.

    The layer is on ``scratch``, a block device with ext4, which may have one of before; or else in memory, where
    ``size`` bounds it, in bytes; None leaves it to the kernel's half of the memory. Nothing stays mounted on failure.
    (crun mounts the root anew without ``nodev``: what devices a container may open is for its configuration's device
    rules.) With ``ids`` all files are the container's own, in its user namespace. Raises ``OSError``.
    """
    wait_for_device(lower, _DEVICE_SECONDS)
    base = f"{ROOTS}/{name}"
    os.makedirs(base)
    try:
        for directory in ("lower", "scratch", "root"):
            os.mkdir(f"{base}/{directory}")
        mount(lower, f"{base}/lower", fstype, MS_RDONLY | MS_NODEV)
        if scratch:
            wait_for_device(scratch, _DEVICE_SECONDS)
            # What is removed in the zone takes no more room in the host.
            mount(scratch, f"{base}/scratch", "ext4", MS_NODEV | MS_NOATIME, "discard")
        else:
            options = "mode=755" if size is None else f"mode=755,size={size}"
            mount("tmpfs", f"{base}/scratch", "tmpfs", MS_NODEV, options)
        if not os.path.isdir(f"{base}/scratch/work"):
            os.mkdir(f"{base}/scratch/upper")
            # The root directory's own mode and owner are the image's, not ours.
            image = os.stat(f"{base}/lower")
            owner = (image.st_uid, image.st_gid)
            os.chown(f"{base}/scratch/upper", *(ids.owner(*owner) if ids else owner))
            os.chmod(f"{base}/scratch/upper", stat.S_IMODE(image.st_mode))
            os.mkdir(f"{base}/scratch/work")
        below = f"{base}/lower"
        if ids:
            below = f"{base}/mapped"
            os.mkdir(below)
            move_mount(tree := ids.mapped_mount(f"{base}/lower"), below)
            os.close(tree)
        layers = f"lowerdir={below},upperdir={base}/scratch/upper,workdir={base}/scratch/work"
        mount("overlay", f"{base}/root", "overlay", MS_NODEV, layers)
    except BaseException:
        remove_root(name)
        raise
    return f"{base}/root"


def remove_root(name: str) -> None:
    """Undoes ``prepare_root``, as far as it came; what was written is on the scratch disk then."""
    base = f"{ROOTS}/{name}"
    for directory in ("root", "scratch", "mapped", "lower"):
        if os.path.isdir(f"{base}/{directory}"):
            let_go(f"{base}/{directory}")
            os.rmdir(f"{base}/{directory}")
    os.rmdir(base)


def let_go(target: str) -> None:
    """Unmounts, so that all is written; what is busy is written back and detached. Nothing mounted is fine."""
    try:
        unmount(target)
    except OSError:
        os.sync()
        _detach(target)


def wait_for_device(path: str, seconds: float) -> None:
    """Until ``path`` is a block device that can be opened, as the kernel's uevents tell; raises ``FileNotFoundError``.

    The node comes first, and the device can be opened a little later (``add_disk_fwnode`` of Linux's block/genhd.c).
    """
    uevents = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT)
    try:
        uevents.bind((0, 1))
        poll = select.poll()
        poll.register(uevents.fileno(), select.POLLIN)
        deadline = time.monotonic() + seconds
        while not _is_block_device(path):
            left = deadline - time.monotonic()
            if left <= 0:
                raise FileNotFoundError(errno.ENOENT, f"no such block device after {seconds:.0f} s", path)
            if poll.poll(min(left, _LOOK_SECONDS) * 1000):
                uevents.recv(8192)
    finally:
        uevents.close()


def unmount_all() -> None:
    """Every container's root and what is mounted in it, the youngest first; what is busy is detached."""
    with open("/proc/self/mounts") as file:
        targets = [line.split(" ")[1] for line in file]
    for target in reversed(targets):
        if target.startswith(ROOTS + "/"):
            _detach(target)


def _detach(target: str) -> None:
    """Unmounts, whatever is busy there; nothing is done if nothing is mounted, or no more."""
    try:
        unmount(target, MNT_DETACH)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise


def _is_block_device(path: str) -> bool:
    try:
        if not stat.S_ISBLK(os.stat(path).st_mode):
            return False
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO):
            return False
        raise
    return True
