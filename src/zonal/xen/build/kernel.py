"""A kernel file, ready to be built into domains: bzImages are decompressed once, and kept beside as ELF files."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from zonal.errors import InvalidInputError, NotFoundError
from zonal.xen.build.bzimage import MAX_KERNEL_SIZE, extract_elf, is_bzimage
from zonal.xen.build.elf import PvhKernel, PvKernel, parse_elf_kernel


@dataclass(frozen=True)
class KernelImage:
    """A kernel's ELF file, and what it says of itself; ``None`` where it cannot be started so."""

    path: Path
    pv: PvKernel | None
    pvh: PvhKernel | None = None


def load_kernel(path: Path, cache: Path) -> KernelImage:
    """Opens a kernel: an x86-64 ELF file, or a bzImage compressed with gzip, xz, lz4 or zstd.

    ``cache``: a folder for decompressed kernels, named by the digest of the file that they came from. Raises
    ``NotFoundError`` and ``InvalidInputError``.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not 0 < size <= MAX_KERNEL_SIZE:
                raise InvalidInputError(f"kernel {path}: {size} bytes cannot be a kernel", hint="get the file again")
            if file.read(4) == b"\x7fELF":
                return _parsed(path, file, str(path))
            elf = _decompressed(file, path, cache)
    except FileNotFoundError:
        raise NotFoundError(f"kernel {path}: no such file", hint="`zonal kernel ls` shows what there is") from None
    with elf.open("rb") as file:
        return _parsed(elf, file, str(path))


def _parsed(elf: Path, file: BinaryIO, name: str) -> KernelImage:
    found = parse_elf_kernel(file, name)
    return KernelImage(elf, found.pv, found.pvh)


def _decompressed(file: BinaryIO, path: Path, cache: Path) -> Path:
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping, memoryview(mapping) as data:
        if not is_bzimage(data):
            raise InvalidInputError(
                f"kernel {path}: neither an ELF file nor a bzImage", hint="give a vmlinux or a vmlinuz of x86-64"
            )
        elf = cache / f"{hashlib.sha256(data).hexdigest()}.elf"
        if not elf.exists():
            _store(elf, extract_elf(data, str(path)))
    return elf


def _store(path: Path, data: bytes) -> None:
    """Whole or not at all: other processes may look at the same moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".kernel-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).rename(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
