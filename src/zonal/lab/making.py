"""Making the files of a lab: its folder, its disks over the base disk, what it alone has in its initrd."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from pathlib import Path

from zonal.errors import WrongStateError, ZonalError
from zonal.lab.commands import run
from zonal.lab.disk import BaseDisk, make_file_system, remove_base_disk
from zonal.lab.initrd import Entry, archive, directory, regular
from zonal.lab.keys import FOR_SERVER, make_keys
from zonal.lab.paths import GIB, Cache, LabPaths, check_space, try_lock
from zonal.lab.recipe import SOURCE, TLS
from zonal.lab.source import Source
from zonal.lab.spec import Spec
from zonal.lab.state import LabState, load, save

_NEW_LAB_SPACE = 2 * GIB
_NVME_BYTES = GIB
_AHCI_BYTES = GIB


def create(paths: LabPaths, spec: Spec, recipe: str, base: BaseDisk) -> LabState:
    """Makes the lab's folder with its keys and disks, in one step as others see it."""
    labs = paths.folder.parent
    check_space(labs, _NEW_LAB_SPACE, f"the lab {paths.name}")
    for leftover in labs.glob(f".{paths.name}.*"):
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=f".{paths.name}.", dir=labs))
    try:
        half = LabPaths(work, paths.lock)
        make_keys(half.keys)
        make_root_disk(half, base)
        raw = work / "raw"
        make_file_system(raw, "lab-data")
        run(["qemu-img", "convert", "-O", "qcow2", raw.name, half.data_disk.name], purpose="making a lab", cwd=work)
        raw.unlink()
        state = LabState(spec, recipe, base.identity)
        save(half, state)
        work.rename(paths.folder)
    except BaseException:
        shutil.rmtree(work)
        raise
    return state


def make_root_disk(paths: LabPaths, base: BaseDisk) -> None:
    """Makes the lab's root disk, an empty one over the base disk, in the place of any that there is."""
    paths.root_disk.unlink(missing_ok=True)
    over = ["-b", f"../../disks/{base.folder.name}/{base.image.name}", "-F", "qcow2"]
    run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *over, paths.root_disk.name],
        purpose="making a lab",
        cwd=paths.folder,
    )


def make_nvme_disk(paths: LabPaths) -> None:
    """Makes the file behind the NVMe controller, unless it is there."""
    with paths.nvme_disk.open("ab") as disk:
        os.truncate(disk.fileno(), _NVME_BYTES)


def make_ahci_disk(paths: LabPaths) -> None:
    """Makes the disk behind the AHCI controller, unless it is there."""
    if not paths.ahci_disk.exists():
        make = ["qemu-img", "create", "-q", "-f", "qcow2", paths.ahci_disk.name, str(_AHCI_BYTES)]
        run(make, purpose="making a lab", cwd=paths.folder)


def write_initrd(paths: LabPaths, base: BaseDisk, source: Source) -> None:
    """Writes the whole initrd of the lab: the base disk's, then what this lab alone has."""
    paths.boot_files.unlink(missing_ok=True)
    paths.boot_files.touch(mode=0o600)
    paths.boot_files.write_bytes(base.initrd.read_bytes() + archive(_own_files(paths, source)))


def mend(paths: LabPaths) -> None:
    """After an end that was not in order: frees what QEMU was about to use in the lab's disks, and checks them."""
    for disk in (paths.root_disk, paths.data_disk):
        try:
            run(["qemu-img", "check", "-q", "-r", "leaks", disk.name], purpose="checking the lab", cwd=paths.folder)
        except ZonalError as error:
            raise WrongStateError(
                f"the disk {disk} of the lab {paths.name} is damaged: {error.message}",
                hint=f"zonal lab destroy --name {paths.name} makes room for a new one",
            ) from error


def flush(paths: LabPaths) -> None:
    """Writes the lab's disks through to the machine's, so that they outlast a power failure from now on."""
    for disk in (paths.root_disk, paths.data_disk):
        descriptor = os.open(disk, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def prune(cache: Cache) -> int:
    """Removes the base disks that no lab uses and nobody is building; gives the bytes that they took."""
    used = {state.recipe for lab in cache.labs.glob("[!.]*") if (state := load(cache.lab(lab.name)))}
    freed = 0
    for folder in cache.disks.iterdir():
        digest = folder.name.removeprefix(".").split(".")[0]
        if digest in used:
            continue
        lock = os.open(cache.disk_lock(digest), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if try_lock(lock):
                freed += sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
                remove_base_disk(folder)
        finally:
            os.close(lock)
    return freed


def _own_files(paths: LabPaths, source: Source) -> list[Entry]:
    machine_id = uuid.uuid5(uuid.NAMESPACE_URL, (paths.keys / "ssh_host.pub").read_text()).hex
    ssh_host, ssh_user = (paths.keys / name for name in ("ssh_host", "ssh_user.pub"))
    folders = (
        "etc",
        "etc/ssh",
        "etc/zonal",
        "root",
        "root/.ssh",
        "opt",
        "opt/zonal",
        SOURCE.strip("/"),
        TLS.strip("/"),
    )
    private = ("etc/zonal", "root", "root/.ssh", TLS.strip("/"))
    return [
        *(directory(f"lab/{name}", 0o700 if name in private else 0o755) for name in folders),
        regular("lab/etc/machine-id", f"{machine_id}\n".encode(), 0o444),
        regular("lab/etc/ssh/lab_host_key", ssh_host.read_bytes(), 0o600),
        regular("lab/root/.ssh/authorized_keys", ssh_user.read_bytes(), 0o600),
        *(regular(f"lab{TLS}/{name}", (paths.keys / name).read_bytes(), 0o600) for name in FOR_SERVER),
        *source.entries(f"lab{SOURCE}"),
    ]
