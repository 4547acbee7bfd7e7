"""Where the lab keeps things, and the locks that keep two commands from racing.

Everything is under one cache folder, private to its owner: ``disks/`` holds base disks by the digest of their recipe,
``labs/`` one folder a lab, ``locks/`` the lock files (never removed, so that a lock always means the same thing).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from zonal.errors import ResourceExhaustedError
from zonal.lab.progress import Progress

MIB = 1 << 20
GIB = 1 << 30
SPACE_HINT = "free some space, or set ZONAL_CACHE (and TMPDIR) to a folder on a larger file system"


@dataclass(frozen=True)
class Cache:
    """The cache folder."""

    folder: Path

    @property
    def disks(self) -> Path:
        """Base disks, one folder a recipe."""
        return self.folder / "disks"

    @property
    def labs(self) -> Path:
        """One folder a lab."""
        return self.folder / "labs"

    def lab(self, name: str) -> LabPaths:
        """The files of the lab ``name``, which need not exist."""
        return LabPaths(self.labs / name, self.folder / "locks" / f"lab-{name}")

    def disk_lock(self, digest: str) -> Path:
        """The lock of the base disk made from the recipe ``digest``."""
        return self.folder / "locks" / f"disk-{digest}"


@dataclass(frozen=True)
class LabPaths:
    """The files of one lab. ``lock`` is outside the folder, since the folder comes and goes."""

    folder: Path
    lock: Path

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.folder.name

    @property
    def state(self) -> Path:
        """What is known about the lab, as JSON; there only when the lab was made completely."""
        return self.folder / "state.json"

    @property
    def root_disk(self) -> Path:
        """qcow2 over the base disk: the host's system, and the snapshot's memory."""
        return self.folder / "root.qcow2"

    @property
    def data_disk(self) -> Path:
        """qcow2 with /var/lib/zonal: images, kernels, zones; outlives a changed recipe."""
        return self.folder / "data.qcow2"

    @property
    def nvme_disk(self) -> Path:
        """What is behind the NVMe controller, for a lab that has one."""
        return self.folder / "nvme.raw"

    @property
    def ahci_disk(self) -> Path:
        """What is behind the AHCI controller, for a lab that has one: qcow2, so that a snapshot can hold it."""
        return self.folder / "ahci.qcow2"

    @property
    def boot_files(self) -> Path:
        """The second half of the initrd: what this lab alone has."""
        return self.folder / "initrd"

    @property
    def keys(self) -> Path:
        """Keys and certificates."""
        return self.folder / "keys"

    @property
    def console(self) -> Path:
        """The serial console: Xen, the host's kernel, zonald's log."""
        return self.folder / "console.log"

    @property
    def qemu_log(self) -> Path:
        """QEMU's standard error."""
        return self.folder / "qemu.log"

    @property
    def qemu_pid(self) -> Path:
        """QEMU's process id; meaningful only while `qemu_lock` is held."""
        return self.folder / "qemu.pid"

    @property
    def agent_in(self) -> Path:
        """The pipe to the guest agent; QEMU adds the suffixes."""
        return self.folder / "agent.in"

    @property
    def agent_out(self) -> Path:
        """The pipe from the guest agent."""
        return self.folder / "agent.out"

    @property
    def qemu_lock(self) -> Path:
        """Locked by QEMU itself for as long as it lives, however it ends."""
        return self.folder / "qemu.lock"


def cache() -> Cache:
    """The cache folder: ``$ZONAL_CACHE``, or ``zonal`` under ``$XDG_CACHE_HOME`` or ``~/.cache``; made when missing."""
    chosen = os.environ.get("ZONAL_CACHE")
    folder = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zonal"
    folder = folder.absolute()
    for path in (folder, folder / "disks", folder / "labs", folder / "locks"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Cache(folder)


@contextmanager
def locked(lock: Path, progress: Progress, waiting: str) -> Generator[None]:
    """Holds the lock file ``lock``; while another process holds it, shows ``waiting``."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(descriptor):
            with progress.step(waiting):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Takes the lock of an open file without waiting; false when somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write to the file system of ``folder``."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def check_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises `ResourceExhaustedError` when ``folder`` has fewer than ``needed`` bytes free."""
    free = free_bytes(folder)
    if free < needed:
        raise ResourceExhaustedError(
            f"{purpose} needs {needed / GIB:.1f} GiB in {folder}, where {free / GIB:.1f} GiB are free",
            hint=SPACE_HINT,
        )
