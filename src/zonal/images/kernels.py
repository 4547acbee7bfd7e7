"""The store of kernels that zones boot: those installed in the host, and those that were imported.

::

    kernels/
      names.json                 chosen name → digest, and where it came from
      default                    the name of the kernel that `use` has chosen
      files/HEX                  imported kernel files, by their sha256
      modules/NAME/RELEASE/      modules that came with an imported kernel
      cache/HEX/                 what is made of a kernel file (imported or not): decompressed ELF, initrd

Only files and their names: reading a kernel is the business of `zonal.xen.build`.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
import struct
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError, WrongStateError
from zonal.images.files import publish, write_file
from zonal.images.kernel_image import KernelFiles, unpack_modules

DEFAULT_NAME: Final = "debian-cloud"
"""Stands for the newest of the host's kernels, one that is made for virtual machines if there is one."""

SIZE_LIMIT: Final = 1 << 30
"""Bytes of a kernel file; Debian's vmlinux with its symbols has half of that."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._+-]{0,127}")
_DIGITS: Final = re.compile(r"(?:sha256:)?([0-9a-f]{2,64})")
_RELEASE: Final = re.compile(rb"Linux version (\S{1,64}) ")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file."""

    name: str
    path: Path
    release: str
    """As ``uname -r`` says it; empty when the file does not tell."""
    size: int
    """Bytes."""
    modules: Path | None
    """Folder of its modules, where there is one."""
    is_default: bool
    source: str = ""
    """Where an imported one came from: a file, or an image's name."""
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    """What a kernel image says of it."""


class KernelStore:
    """Kernels of the host and below one folder. Any thread may use it."""

    def __init__(self, root: Path, boot: Path = Path("/boot"), modules: Path = Path("/lib/modules")) -> None:
        self._root = root
        self.boot = boot
        self.host_modules = modules
        self._changing = threading.Lock()
        self._digests: dict[Path, tuple[tuple[int, int], str]] = {}
        for folder in ("files", "cache", "modules", "tmp"):
            (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (root / "tmp").iterdir():
            _remove(left)

    def list(self) -> list[Kernel]:
        """The default, the host's others from the newest to the oldest, then the imported ones by name."""
        kernels = [*self._host_kernels(), *(self._imported(name) for name in sorted(self._names()))]
        chosen = self._chosen()
        if not any(kernel.name == chosen for kernel in kernels):
            return kernels
        kernels = [replace(kernel, is_default=kernel.name == chosen) for kernel in kernels]
        return sorted(kernels, key=lambda kernel: not kernel.is_default)

    def use(self, name: str) -> Kernel:
        """Makes a kernel the default. Raises as `resolve`."""
        with self._changing:
            kernel = self.resolve(name)
            write_file(self._root / "default", kernel.name.encode(), self._root / "tmp")
        return replace(kernel, is_default=True)

    def resolve(self, name: str) -> Kernel:
        """The kernel with this name, with a name that begins like this, or with such a digest; empty: the default.

        Raises:
            NotFoundError: there is none.
            InvalidInputError: the beginning of several names.
        """
        kernels = self.list()
        name = name or next((kernel.name for kernel in kernels if kernel.is_default), DEFAULT_NAME)
        for kernel in kernels:
            if name in (kernel.name, kernel.release if kernel.path.parent == self.boot else None):
                return kernel
        matches = [kernel for kernel in kernels if kernel.name.startswith(name)]
        if not matches and (digits := _DIGITS.fullmatch(name)):
            by_digest = {self.digest(kernel): kernel for kernel in reversed(kernels)}
            matches = [kernel for digest, kernel in by_digest.items() if digest[7:].startswith(digits[1])]
        if len({kernel.path for kernel in matches}) > 1:
            names = ", ".join(kernel.name for kernel in matches)
            raise InvalidInputError(f"several kernels are named {name}…: {names}", hint="give more of the name")
        if not matches:
            raise NotFoundError(
                f"there is no kernel {name}", hint="`zonal kernel ls` shows what is there; install or import one"
            )
        return matches[0]

    def import_image(self, files: KernelFiles, name: str, *, source: str) -> Kernel:
        """Take in what a kernel image holds, its modules too, as another kernel of this name if there is one.

        Raises as `import_file`, and when the modules cannot be unpacked.
        """
        _check_name(name)
        release = _release_of(files.image)
        working = self._root / "tmp" / f"modules.{os.getpid()}.{time.monotonic_ns()}"
        working.mkdir()
        try:
            unpacked = unpack_modules(files.addons, release, working) if files.addons and release else None
            with self._changing:
                names = self._names()
                if name in names and names[name].get("source") != source:
                    raise AlreadyExistsError(f"there is a kernel {name} already", hint="choose another name")
                if name in names:
                    self._remove(self._imported(name))
                if unpacked is not None:
                    place = self._root / "modules" / name
                    place.mkdir()
                    unpacked.rename(place / release)
            return self.import_file(files.image, name, source=source, metadata=files.metadata)
        finally:
            _remove(working)

    def import_file(self, path: Path, name: str, *, source: str = "", metadata: dict[str, str] | None = None) -> Kernel:
        """Take in a kernel file, an ELF or a bzImage for x86-64, under a name. Blocks while it is copied.

        Raises:
            InvalidInputError: a malformed name, or not a kernel.
            AlreadyExistsError: the name is that of another kernel.
        """
        label = source or str(path)
        _check_name(name)
        check_kind(path, label)
        copied = self._root / "tmp" / f"import.{os.getpid()}.{time.monotonic_ns()}"
        try:
            digest = _copy(path, copied)
            with self._changing:
                names = self._names()
                taken = {kernel.name for kernel in self._host_kernels()} | {DEFAULT_NAME}
                if name in taken or (name in names and names[name]["digest"] != digest):
                    raise AlreadyExistsError(f"there is a kernel {name} already", hint="choose another name")
                publish(copied, self._file(digest))
                self._write_names({**names, name: {"digest": digest, "source": label, "metadata": metadata or {}}})
                return self._imported(name)
        finally:
            copied.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Remove an imported kernel's name, and its file with the last one.

        Raises:
            NotFoundError: there is no such kernel.
            WrongStateError: it is the host's.
        """
        with self._changing:
            self._remove(self.resolve(name))

    def digest(self, kernel: Kernel) -> str:
        """``sha256:…`` of the kernel's file. Reads it all, once for as long as it does not change."""
        if kernel.path.parent == self._root / "files":
            return f"sha256:{kernel.path.name}"
        status = kernel.path.stat()
        state = (status.st_size, status.st_mtime_ns)
        kept = self._digests.get(kernel.path)
        if kept is None or kept[0] != state:
            with kernel.path.open("rb") as file:
                kept = (state, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
            self._digests[kernel.path] = kept
        return kept[1]

    def cache_folder(self, kernel: Kernel) -> Path:
        """A folder for what is made of this very file; it is there, and goes with the kernel."""
        folder = self._root / "cache" / self.digest(kernel).removeprefix("sha256:")
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _remove(self, kernel: Kernel) -> None:
        names = self._names()
        if kernel.name not in names:
            raise WrongStateError(f"kernel {kernel.name} is the host's own", hint="remove its Debian package instead")
        digest = names.pop(kernel.name)["digest"]
        self._write_names(names)
        if all(entry["digest"] != digest for entry in names.values()):
            self._file(digest).unlink(missing_ok=True)
            cache = self._root / "cache" / digest.removeprefix("sha256:")
            _remove(cache)
        _remove(self._root / "modules" / kernel.name)

    def _host_kernels(self) -> list[Kernel]:
        releases = [path.name.removeprefix("vmlinuz-") for path in self.boot.glob("vmlinuz-*") if path.is_file()]
        releases.sort(key=_release_order, reverse=True)
        # A kernel for the cloud has the drivers of virtual machines, and little else to start.
        default = next((r for r in releases if "cloud" in r), releases[0] if releases else None)
        ordered = [default, *(r for r in releases if r != default)] if default is not None else []
        return [self._host_kernel(release, is_default=release == default) for release in ordered]

    def _host_kernel(self, release: str, *, is_default: bool) -> Kernel:
        path = self.boot / f"vmlinuz-{release}"
        modules = self.host_modules / release
        return Kernel(
            name=DEFAULT_NAME if is_default else release,
            path=path,
            release=release,
            size=path.stat().st_size,
            modules=modules if modules.is_dir() else None,
            is_default=is_default,
        )

    def _imported(self, name: str) -> Kernel:
        entry = self._names()[name]
        path = self._file(entry["digest"])
        release = _release_of(path)
        # Its own before the host's of the same release.
        places = (self._root / "modules" / name / release, self.host_modules / release) if release else ()
        modules = next((place for place in places if place.is_dir()), None)
        size = path.stat().st_size
        return Kernel(name, path, release, size, modules, False, entry["source"], entry.get("metadata", {}))

    def _chosen(self) -> str:
        try:
            return (self._root / "default").read_text()
        except FileNotFoundError:
            return ""

    def _file(self, digest: str) -> Path:
        return self._root / "files" / digest.removeprefix("sha256:")

    def _names(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads((self._root / "names.json").read_bytes())
        except FileNotFoundError:
            return {}

    def _write_names(self, names: dict[str, dict[str, Any]]) -> None:
        data = json.dumps(names, indent=1, sort_keys=True).encode()
        write_file(self._root / "names.json", data, self._root / "tmp")


def _copy(source: Path, target: Path) -> str:
    """Copy a file; its digest."""
    state = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(1 << 20):
            state.update(chunk)
            writer.write(chunk)
    return f"sha256:{state.hexdigest()}"


def check_kind(path: Path, label: str) -> None:
    """Refuse at once what is no kernel at all; a damaged one is found when it is read.

    Raises ``InvalidInputError``, ``NotFoundError``.
    """
    try:
        with path.open("rb") as file:
            head = file.read(0x300)
            size = os.fstat(file.fileno()).st_size
    except (FileNotFoundError, IsADirectoryError) as error:
        raise NotFoundError(f"there is no kernel file {label}", hint="check the path") from error
    if size > SIZE_LIMIT:
        raise InvalidInputError(f"{label} has {size} bytes, more than a kernel can have ({SIZE_LIMIT})")
    # elf.h: 64 bits, little endian, an executable or (relocatable kernels) a shared object, EM_X86_64.
    elf = head[:6] == b"\x7fELF\x02\x01" and head[16:20] in (b"\x02\0\x3e\0", b"\x03\0\x3e\0")
    # Documentation/arch/x86/boot.rst: boot_flag and header.
    bzimage = head[0x1FE:0x200] == b"\x55\xaa" and head[0x202:0x206] == b"HdrS"
    if not elf and not bzimage:
        raise InvalidInputError(
            f"{label} is not a Linux kernel for x86-64", hint="give a bzImage (vmlinuz) or an ELF (vmlinux)"
        )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"kernel name {name!r} is malformed", hint="lower case letters, digits, '.', '_', '+' and '-'"
        )


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _release_of(path: Path) -> str:
    """The release that a kernel file tells, by its boot header or by the banner in its data; empty if it does not."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[0x202:0x206] == b"HdrS":
            # kernel_version: offset of a string, less 0x200.
            (pointer,) = struct.unpack_from("<H", data, 0x20E)
            text = data[pointer + 0x200 : pointer + 0x200 + 64].partition(b" ")[0]
        else:
            match = _RELEASE.search(data)
            text = match[1] if match else b""
    release = text.decode("ascii", "replace")
    return release if re.fullmatch(r"[0-9][0-9A-Za-z.+~_-]*", release) else ""


def _release_order(release: str) -> list[tuple[int, str]]:
    """Compares ``6.12.9`` below ``6.12.10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"\d+|\D+", release)]
