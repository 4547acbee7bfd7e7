"""What a zone was given besides its image: disks and memory, mounted under an id, and bound into containers.

A mount's own place is ``PLACES/<id>``; containers see it by bind mounts. Those that are there when a container starts
are crun's to make; later ones are made by a child process inside the container's mount namespace, where no symbolic
link can lead out of the container's root.
"""

from __future__ import annotations

import errno
import os
import stat

from zonal.agent.mounts import let_go, wait_for_device
from zonal.agent.processes import fork_child
from zonal.agent.syscalls import (
    MNT_DETACH,
    MS_NODEV,
    MS_RDONLY,
    clone_mount,
    enter_mounts_of,
    mount,
    move_mount,
    open_in_root,
    unmount,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zonal.agent.processes import Reaper
    from zonal.agent.user_namespace import IdMaps

PLACES = "/run/zonal/mounts"
_DEVICE_SECONDS = 10.0
_BUSYBOX = "/usr/bin/busybox"
_MAX_ERROR = 4096


def mount_disk(name: str, device: str, fstype: str, *, read_only: bool, folder: str, subpath: str) -> str:
    """Mounts a block device; gives the path of ``subpath`` in its ``folder``. Nothing stays mounted on failure.

    Raises ``OSError``.
    """
    wait_for_device(device, _DEVICE_SECONDS)
    flags = MS_NODEV | (MS_RDONLY if read_only else 0)
    # What is removed in the zone takes no more room in the host.
    options = "discard" if fstype == "ext4" and not read_only else ""
    return _mount(name, device, fstype, flags, options, folder, subpath)


def mount_memory(name: str, size: int, mode: int, *, read_only: bool) -> str:
    """Mounts a tmpfs of ``size`` bytes, 0 for the kernel's half of the memory. Raises ``OSError``."""
    options = f"mode={mode:o}" + (f",size={size}" if size else "")
    return _mount(name, "tmpfs", "tmpfs", MS_NODEV | (MS_RDONLY if read_only else 0), options, "", "")


def mount_share(
    name: str, tag: str, message_size: int, *, read_only: bool, cached: bool, delegated: bool, subpath: str
) -> str:
    """Mounts a folder of the host by 9p (Linux, Documentation/filesystems/9p.rst), whose device has this ``tag``.

    Unless it may be ``cached``, every read and write goes to the host. When it is ``delegated``, even names and
    attributes are asked for once. Users are told apart by their numbers, and this kernel checks their rights. Raises
    ``OSError``.
    """
    cache = "loose" if delegated else "mmap" if cached else "none"
    options = f"trans=xen,version=9p2000.L,access=client,msize={message_size},cache={cache}"
    return _mount(name, tag, "9p", MS_NODEV | (MS_RDONLY if read_only else 0), options, "", subpath)


def release(name: str) -> None:
    """Unmounts, busy or not, so that all is written to the disk, and forgets. Raises ``OSError``."""
    let_go(f"{PLACES}/{name}")
    os.rmdir(f"{PLACES}/{name}")


def fill(reaper: Reaper, path: str, root: str, target: str, done: Callable[[str], None]) -> None:
    """Gives an empty volume at ``path`` what the container's root has at ``target``, as docker does.

    ``done`` is told why it failed, or "". What is no folder, or not there, gives nothing.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        source = open_in_root(root_fd, target, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        done("")
        return
    finally:
        os.close(root_fd)
    try:
        if os.listdir(path):
            os.close(source)
            done("")
            return
        like = os.stat(source)
        os.chown(path, like.st_uid, like.st_gid)
        os.chmod(path, stat.S_IMODE(like.st_mode))
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        os.close(source)
        raise

    def copied(status: int) -> None:
        os.close(source)
        done(f"cp ended with {os.waitstatus_to_exitcode(status)}" if status else "")

    try:
        arguments = [_BUSYBOX, "cp", "-a", f"/proc/{os.getpid()}/fd/{source}/.", path]
        reaper.spawn(arguments, (null, null, 2), copied)
    finally:
        os.close(null)


def bind_into(
    reaper: Reaper, pid: int, path: str, target: str, done: Callable[[str], None], ids: IdMaps | None = None
) -> None:
    """Binds ``path`` to ``target`` in the mount namespace of process ``pid``; ``done`` is told why it failed, or "".

    With ``ids``, its files are shown with them.
    """
    tree = ids.mapped_mount(path) if ids else clone_mount(path)
    folder = stat.S_ISDIR(os.stat(path).st_mode)

    def work() -> None:
        _make_place(target, folder=folder)
        move_mount(tree, target)

    try:
        _inside(reaper, pid, work, done)
    finally:
        os.close(tree)


def unbind_from(reaper: Reaper, pid: int, target: str, done: Callable[[str], None]) -> None:
    """Undoes ``bind_into``, busy or not."""
    _inside(reaper, pid, lambda: unmount(target, MNT_DETACH), done)


def make_node(reaper: Reaper, pid: int, device: str, target: str, done: Callable[[str], None]) -> None:
    """Makes a node for the zone's block device ``device`` at ``target`` in the mount namespace of process ``pid``."""
    wait_for_device(device, _DEVICE_SECONDS)
    number = os.stat(device).st_rdev

    def work() -> None:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.mknod(target, stat.S_IFBLK | 0o660, number)

    _inside(reaper, pid, work, done)


def remove_node(reaper: Reaper, pid: int, target: str, done: Callable[[str], None]) -> None:
    """Undoes ``make_node``."""

    def work() -> None:
        if stat.S_ISBLK(os.lstat(target).st_mode):
            os.unlink(target)

    _inside(reaper, pid, work, done)


def _mount(name: str, source: str, fstype: str, flags: int, options: str, folder: str, subpath: str) -> str:
    place = f"{PLACES}/{name}"
    os.makedirs(place)
    try:
        mount(source, place, fstype, flags, options)
        try:
            return _inner(f"{place}/{folder}" if folder else place, subpath)
        except BaseException:
            unmount(place, MNT_DETACH)
            raise
    except BaseException:
        os.rmdir(place)
        raise


def _inner(place: str, subpath: str) -> str:
    """The path of a folder or file in a mount, which no symbolic link there may lead out of."""
    if not subpath:
        return place
    place_fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        inner = open_in_root(place_fd, subpath, os.O_PATH)
        try:
            return os.readlink(f"/proc/self/fd/{inner}")
        finally:
            os.close(inner)
    finally:
        os.close(place_fd)


def _make_place(target: str, *, folder: bool) -> None:
    if folder:
        os.makedirs(target, exist_ok=True)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not os.path.lexists(target):
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))


def _inside(reaper: Reaper, pid: int, work: Callable[[], None], done: Callable[[str], None]) -> None:
    """Has a child do ``work`` in the mount namespace, and so the root, of process ``pid``."""
    said, saying = os.pipe2(os.O_CLOEXEC)

    def enter_and_work() -> None:
        enter_mounts_of(pid)
        work()

    try:
        child = fork_child(enter_and_work, saying)
    except BaseException:
        os.close(said)
        raise
    finally:
        os.close(saying)

    def ended(status: int) -> None:
        reason = os.read(said, _MAX_ERROR).decode(errors="replace")
        os.close(said)
        done(reason or (os.strerror(errno.EIO) if status else ""))

    reaper.expect(child, ended)
