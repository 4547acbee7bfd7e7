"""The base disk: from a recipe to a qcow2 with the host's system, beside it Xen, the kernel and the initrd to boot.

Made from Debian's packages by mmdebstrap, without mounting anything: as root, or in a user namespace with the ids
that /etc/subuid gives. Built once for a recipe and then only read, by any number of labs.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from zonal.errors import AccessDeniedError, UnavailableError
from zonal.images import debian
from zonal.lab.commands import LastWords, environment, failure, is_full_disk, located, pipe, run, started
from zonal.lab.initrd import host_initrd
from zonal.lab.paths import GIB, Cache, check_space, locked
from zonal.lab.progress import Progress
from zonal.lab.recipe import LIB, Recipe
from zonal.lab.requirements import find, require
from zonal.lab.wheels import fetch_command

DISK_SIZE = "32G"
"""Of the root disk and of the data disk; sparse, so only what is written takes space."""

_SPACE = 3 * GIB
_TEMPORARY_SPACE = 3 * GIB // 2
_PURPOSE = "building the lab's disk"


@dataclass(frozen=True)
class BaseDisk:
    """A finished base disk."""

    folder: Path

    @property
    def identity(self) -> str:
        """Different for every disk that was ever built."""
        return (self.folder / "identity").read_text()

    @property
    def image(self) -> Path:
        """The disk, qcow2, never written again."""
        return self.folder / "base.qcow2"

    @property
    def xen(self) -> Path:
        """Xen, as the ELF that QEMU's multiboot loader takes."""
        return self.folder / "xen"

    @property
    def kernel(self) -> Path:
        """The host's kernel, a bzImage."""
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The first part of the initrd."""
        return self.folder / "initrd"


@contextmanager
def base_disk(cache: Cache, recipe: Recipe, progress: Progress) -> Generator[BaseDisk]:
    """The base disk of ``recipe``, built when the cache does not have it.

    Within the block nobody removes it, though no lab may refer to it yet.
    """
    disk = BaseDisk(cache.disks / recipe.digest)
    with locked(cache.disk_lock(recipe.digest), progress, "Waiting for another command that uses the lab's base disk"):
        if not disk.folder.exists():
            _build(disk, recipe, progress)
        yield disk


def remove_base_disk(folder: Path) -> None:
    """Removes a base disk, finished or not, also what belongs to the ids of a user namespace."""
    if folder.exists():
        run([*_as_namespace_root(), "rm", "-rf", "--", str(folder)], purpose="removing a base disk")


def check_rights() -> None:
    """Raises `AccessDeniedError` when this user can build no disk: neither root nor able to use user namespaces."""
    if os.geteuid() == 0:
        return
    hint = "run it as root, or as root once: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER"
    if find("newuidmap") is None:
        require("newuidmap")
    probe = subprocess.run(
        located([*_as_namespace_root(), "true"]), check=False, capture_output=True, env=environment()
    )
    if probe.returncode:
        reason = probe.stderr.decode(errors="replace").strip()
        raise AccessDeniedError(f"not root, and user namespaces do not work here: {reason}", hint=hint)


def _build(disk: BaseDisk, recipe: Recipe, progress: Progress) -> None:
    check_rights()
    check_space(disk.folder.parent, _SPACE, _PURPOSE)
    temporary = Path(tempfile.gettempdir())
    if temporary.stat().st_dev != disk.folder.parent.stat().st_dev:
        check_space(temporary, _TEMPORARY_SPACE, _PURPOSE)
    for leftover in disk.folder.parent.glob(f".{recipe.digest}.*"):
        remove_base_disk(leftover)
    with _workshop(disk) as work:
        root = work / "tree"
        root.mkdir()
        _fill(root, recipe, work, progress)
        with progress.step("Writing the lab's disk") as step:
            release = _host_release(root)
            made = BaseDisk(work / "disk")
            made.folder.mkdir()
            _copy_boot_files(root, release, recipe, made)
            step.detail("compiling Python")
            _in_tree(root, "python3", "-m", "compileall", "-q", LIB)
            step.detail("making the file system")
            raw = work / "raw"
            make_file_system(raw, "lab-root", populate=root, prefix=_as_namespace_root())
            step.detail("packing it")
            run(["qemu-img", "convert", "-O", "qcow2", str(raw), str(made.image)], purpose=_PURPOSE, cwd=work)
            (made.folder / "recipe.json").write_text(recipe.as_json())
            (made.folder / "identity").write_text(uuid.uuid4().hex)
        made.folder.rename(disk.folder)


@contextmanager
def _workshop(disk: BaseDisk) -> Generator[Path]:
    """A folder beside the place of ``disk``, which is removed in the end whatever happens."""
    work = Path(tempfile.mkdtemp(prefix=f".{disk.folder.name}.", dir=disk.folder.parent))
    try:
        yield work
    finally:
        remove_base_disk(work)


def _fill(root: Path, recipe: Recipe, work: Path, progress: Progress) -> None:
    """Debian's packages and Python's, both fetched at the same time, and our own files, in ``root``."""
    wheels = work / "wheels"
    with ExitStack() as stack:
        pip = stack.enter_context(started(fetch_command(recipe.wheels, recipe.python, wheels)))
        pip_said = LastWords(pipe(pip.stderr))
        with progress.step(f"Building Debian {recipe.suite} with Xen from packages") as step:
            _debian(root, recipe, work, step.detail)
        with progress.step("Fetching Python packages"):
            if pip.wait():
                raise failure("pip", pip.returncode, pip_said.text(), purpose=_PURPOSE, folder=work)
    # Tests that packages ship are a third of their files; nothing imports them.
    for tests in [path for path in wheels.rglob("tests") if path.is_dir()]:
        shutil.rmtree(tests, ignore_errors=True)
    target = root / LIB.lstrip("/")
    target.parent.mkdir(parents=True)
    wheels.rename(target)
    for name, text in recipe.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755 if text.startswith("#!") else 0o644)
    _arrange_units(root / "etc/systemd", recipe)
    # Newer than /usr: systemd then takes what it does after an upgrade for done.
    for stamp in ("etc/.updated", "var/.updated"):
        (root / stamp).touch()
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()


def _debian(root: Path, recipe: Recipe, work: Path, detail: Callable[[str], None]) -> None:
    sources_file: Path | None = None
    mirrors = debian.find_mirrors()
    if mirrors is not None:
        sources_file = work / "debian.sources"
        sources_file.write_text(debian.apt_sources(debian.find_release(recipe.suite), mirrors))
    with ExitStack() as stack:
        builder = stack.enter_context(started(_mmdebstrap(recipe, sources_file), stdout=subprocess.PIPE))
        # Device nodes cannot be made in a user namespace, and the host mounts devtmpfs there.
        unpack = [*_as_namespace_root(), "tar", "--extract", "--numeric-owner", "--exclude=./dev/*"]
        unpacker = stack.enter_context(started([*unpack, "--directory", str(root)], stdin=pipe(builder.stdout)))
        # Ours would keep mmdebstrap waiting for a reader, should tar end early.
        pipe(builder.stdout).close()
        built = LastWords(pipe(builder.stderr), lambda line: _tell(line, detail))
        # On a full disk tar tries each file that is left, which is thousands.
        unpacked = LastWords(pipe(unpacker.stderr), lambda line: unpacker.kill() if is_full_disk(line) else None)
        if unpacker.wait():
            raise failure("tar", unpacker.returncode, unpacked.text(), purpose=_PURPOSE, folder=work)
        if builder.wait():
            raise failure("mmdebstrap", builder.returncode, built.text(), purpose=_PURPOSE, folder=work)


def _tell(line: bytes, detail: Callable[[str], None]) -> None:
    """Passes on mmdebstrap's own word of where it stands: lines such as ``I: installing packages...``."""
    text = line.decode(errors="replace").strip()
    if text.startswith("I: ") and len(text) < 60:
        detail(text.removeprefix("I: ").rstrip("."))


def _mmdebstrap(recipe: Recipe, sources_file: Path | None) -> list[str]:
    # The kernels' own initrds would take half a minute to make; the lab has one of its own.
    no_initrd = (
        'chroot "$1" dpkg-divert --quiet --local --rename --add /usr/sbin/update-initramfs'
        ' && ln -s /bin/true "$1/usr/sbin/update-initramfs"'
    )
    return [
        "mmdebstrap",
        "--mode=auto",
        "--variant=apt",
        "--format=tar",
        "--architectures=amd64",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in recipe.unwanted_paths),
        *(f"--aptopt={option}" for option in _proxies()),
        f"--include={','.join(recipe.packages)}",
        f"--essential-hook={no_initrd}",
        recipe.suite,
        "-",
        *([str(sources_file)] if sources_file else []),
    ]


def _proxies() -> list[str]:
    """apt's proxy settings of this machine, which mmdebstrap does not read by itself."""
    if find("apt-config") is None:
        return []
    dump = run(["apt-config", "dump"], purpose="reading apt's configuration")
    proxies = ("Acquire::http::P", "Acquire::https::P")
    return [line.rstrip(";") for line in dump.splitlines() if line.startswith(proxies)]


def _arrange_units(systemd: Path, recipe: Recipe) -> None:
    units, generators = systemd / "system", systemd / "system-generators"
    generators.mkdir(exist_ok=True)
    masks = [units / unit for unit in recipe.masked_units]
    masks += [generators / f"systemd-{name}-generator" for name in recipe.masked_generators]
    for mask in masks:
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    wants = units / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for unit in recipe.enabled_units:
        if not (wants / unit).is_symlink():
            place = "/etc/systemd/system" if (units / unit).exists() else "/usr/lib/systemd/system"
            (wants / unit).symlink_to(f"{place}/{unit}")


def _host_release(root: Path) -> str:
    releases = [path.name.removeprefix("vmlinuz-") for path in (root / "boot").glob("vmlinuz-*")]
    hosts = [release for release in releases if "-cloud-" not in release]
    if len(hosts) != 1:
        raise UnavailableError(f"the lab's disk should have one kernel for the host, but has {hosts or 'none'}")
    return hosts[0]


def _copy_boot_files(root: Path, release: str, recipe: Recipe, made: BaseDisk) -> None:
    (compressed,) = (root / "boot").glob("xen-*-amd64.gz")
    made.xen.write_bytes(gzip.decompress(compressed.read_bytes()))
    made.kernel.write_bytes((root / "boot" / f"vmlinuz-{release}").read_bytes())
    made.initrd.write_bytes(host_initrd(root, release, recipe))


def make_file_system(raw: Path, label: str, *, populate: Path | None = None, prefix: list[str] | None = None) -> None:
    """Makes an ext4 file system in a new sparse file, with what the folder ``populate`` holds."""
    with raw.open("xb"):
        pass
    content = ["-d", str(populate)] if populate else []
    options = ["-q", "-t", "ext4", "-L", label, "-m", "0", "-J", "size=32", "-E", "lazy_itable_init=1"]
    run([*(prefix or []), "mke2fs", *options, *content, str(raw), DISK_SIZE], purpose=_PURPOSE, cwd=raw.parent)


def _in_tree(root: Path, *argv: str) -> None:
    run([*_as_namespace_root(), "chroot", str(root), *argv], purpose=_PURPOSE, cwd=root.parent)


def _as_namespace_root() -> list[str]:
    """What to put before a command so that it owns the files of a system tree as an ordinary user."""
    return [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto", "--"]
