"""Kernels as OCI images: the files below ``/kernel`` in an image, and how they get into one and out of it.

The layout is that of the kernels that Edera publishes: ``image`` (bzImage or ELF), ``metadata`` (lines of KEY=VALUE),
``addons.squashfs`` (or ``addons.erofs``) with modules in ``/modules``, and ``config.gz``. Only ``image`` must be there.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zonal.errors import InvalidInputError, NotFoundError, UnavailableError
from zonal.images.flatten import flatten
from zonal.images.limits import Limits
from zonal.images.tarformat import REGULAR, Source
from zonal.images.tree import Directory, File

FOLDER: Final = b"kernel"
ADDONS: Final = ("addons.erofs", "addons.squashfs")
_SIZES: Final = {"image": 1 << 30, "metadata": 64 << 10, "config.gz": 16 << 20, **dict.fromkeys(ADDONS, 4 << 30)}
"""The most bytes of each file."""
_EXTRACTORS: Final = {
    "addons.erofs": (
        *("fsck.erofs", "--no-preserve", "--extract={target}", "{source}"),
        "erofs-utils",
    ),
    "addons.squashfs": (
        *("unsquashfs", "-no-xattrs", "-no-progress", "-quiet", "-dest", "{target}", "{source}"),
        "squashfs-tools",
    ),
}
"""The program and its arguments, and at last the package that has it."""
_PLACES: Final = ("modules", "modules/{release}", "lib/modules/{release}")
_TIMEOUT: Final = 600


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """The files of a kernel image, in a folder of the caller's."""

    image: Path
    metadata: dict[str, str]
    addons: Path | None
    config: Path | None


def extract_kernel(layers: Sequence[Source], folder: Path, limits: Limits, label: str) -> KernelFiles:
    """Copies what is below ``/kernel`` in an image's uncompressed layers, the lowest first, to ``folder``.

    Raises:
        InvalidInputError: there is no kernel in it, or one of its files is not plain or too large.
    """
    tree = flatten(layers, limits)
    found = tree.root.children.get(FOLDER)
    files = found.children if isinstance(found, Directory) else {}
    if b"image" not in files:
        raise InvalidInputError(
            f"{label} is no kernel: it has no file /kernel/image", hint="zonal kernel import-debian makes one"
        )
    kept: dict[str, Path] = {}
    for name, most in _SIZES.items():
        node = files.get(name.encode())
        if node is None:
            continue
        if not isinstance(node, File) or node.member.kind != REGULAR or node.member.sparse is not None:
            raise InvalidInputError(f"{label}: /kernel/{name} is not a plain file")
        if node.member.size > most:
            raise InvalidInputError(f"{label}: /kernel/{name} has {node.member.size} bytes, and may have {most}")
        kept[name] = folder / name
        _copy(layers[node.source].fd, node.member.data, node.member.size, kept[name])
    metadata = _read_metadata(kept["metadata"], label) if "metadata" in kept else {}
    addons = next((kept[name] for name in ADDONS if name in kept), None)
    return KernelFiles(kept["image"], metadata, addons, kept.get("config.gz"))


def unpack_modules(addons: Path, release: str, folder: Path) -> Path | None:
    """Unpacks the modules of an addons file into ``folder``; the folder with ``modules.dep``, or ``None`` without any.

    Modules are read here, and loaded in zones only. Raises ``InvalidInputError``, ``UnavailableError``.
    """
    *command, package = _EXTRACTORS[addons.name]
    target = folder / "addons"
    arguments = [part.format(target=target, source=addons) for part in command]
    try:
        done = subprocess.run(arguments, check=False, capture_output=True, timeout=_TIMEOUT, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise UnavailableError(f"the program {command[0]} is missing", hint=f"apt-get install {package}") from error
    except subprocess.TimeoutExpired as error:
        raise InvalidInputError(f"the kernel's {addons.name} was not unpacked within {_TIMEOUT} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
        raise InvalidInputError(f"the kernel's {addons.name} cannot be unpacked: {said[0][:200]}")
    for place in _PLACES:
        found = target / place.format(release=release)
        if (found / "modules.dep").is_file() and found.resolve().is_relative_to(target.resolve()):
            return found
    return None


def pack_debian_kernel(release: str, folder: Path, boot: Path, modules: Path) -> Path:
    """A root filesystem's tar in ``folder`` with ``/kernel``, of a kernel that is installed in this machine.

    Raises:
        NotFoundError: it is not installed.
        UnavailableError: a program that this needs is missing, or fails.
    """
    image = boot / f"vmlinuz-{release}"
    if not image.is_file() or not (modules / release / "modules.dep").is_file():
        raise NotFoundError(
            f"the kernel {release} is not installed: {image} and {modules / release} are wanted",
            hint=f"apt-get install linux-image-{release}",
        )
    staged, addons = folder / "addons", folder / "addons.erofs"
    shutil.copytree(modules / release, staged / "modules", symlinks=True)
    _run("mkfs.erofs", "--quiet", "-T0", "--all-root", str(addons), str(staged))
    shutil.rmtree(staged)
    metadata = {"KERNEL_ARCH": "x86_64", "KERNEL_VERSION": release, "KERNEL_FLAVOR": "debian"}
    files = {"metadata": "".join(f"{key}={value}\n" for key, value in metadata.items()).encode()}
    config = boot / f"config-{release}"
    if config.is_file():
        files["config.gz"] = gzip.compress(config.read_bytes(), mtime=0)
    packed = folder / "kernel.tar"
    with tarfile.open(packed, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_member("kernel", tarfile.DIRTYPE, 0o755))
        for name, data in files.items():
            path = folder / name
            path.write_bytes(data)
            _add(archive, f"kernel/{name}", path)
        _add(archive, "kernel/image", image)
        _add(archive, "kernel/addons.erofs", addons)
    return packed


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    member = _member(name, tarfile.REGTYPE, 0o644)
    member.size = path.stat().st_size
    with path.open("rb") as file:
        archive.addfile(member, file)


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


def _run(*command: str) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise UnavailableError(f"the program {command[0]} is missing", hint="apt-get install erofs-utils") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        raise UnavailableError(f"{command[0]} failed with status {done.returncode}: {said}")


def _copy(source: int, offset: int, size: int, target: Path) -> None:
    with target.open("xb") as file:
        while size:
            sent = os.sendfile(file.fileno(), source, offset, min(size, 1 << 24))
            if not sent:
                raise InvalidInputError(f"the layer with {target.name} is cut short")
            offset, size = offset + sent, size - sent


def _read_metadata(path: Path, label: str) -> dict[str, str]:
    """KEY=VALUE in each line, as a shell's; comments and empty lines are passed over."""
    found: dict[str, str] = {}
    for line in path.read_bytes().decode(errors="replace").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        key, equals, value = text.partition("=")
        if not equals or not key.replace("_", "").isalnum() or not value.isprintable():
            raise InvalidInputError(f"{label}: /kernel/metadata has a line that is not KEY=VALUE: {text[:60]!r}")
        found[key] = value.strip("\"'")
    return found
