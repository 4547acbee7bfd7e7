"""A kernel's ELF file: what to load where, and what its Xen notes say (``public/elfnote.h``)."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile

from zonal.errors import InvalidInputError
from zonal.xen.abi import elfnote

MAX_SEGMENTS = 64
MAX_PHYSICAL = 1 << 36
"""Bytes; no kernel is loaded beyond 64 GiB."""


@dataclass(frozen=True)
class Segment:
    """A part of the file that is loaded: offsets, sizes and addresses in bytes."""

    offset: int
    file_size: int
    physical: int
    memory_size: int


@dataclass(frozen=True)
class Loadable:
    """What is loaded of a kernel."""

    segments: tuple[Segment, ...]

    @property
    def first_physical(self) -> int:
        """Where the lowest segment begins."""
        return min(segment.physical for segment in self.segments)

    @property
    def end_physical(self) -> int:
        """Where the highest segment ends, its zeroed part included."""
        return max(segment.physical + segment.memory_size for segment in self.segments)


@dataclass(frozen=True)
class PvKernel(Loadable):
    """What a domain's builder must know of a kernel for PV.

    Addresses are virtual unless they are called physical; ``p2m_base`` is where the kernel wants its
    pseudo-physical-to-machine list mapped, or None for within the initial mapping.
    """

    entry: int
    virtual_base: int
    hypercall_page: int | None
    p2m_base: int | None
    initrd_by_frame: bool


@dataclass(frozen=True)
class PvhKernel(Loadable):
    """What it must know of one for PVH: ``entry`` is a physical address, in 32-bit code."""

    entry: int


@dataclass(frozen=True)
class ElfKernel:
    """The ways in which a kernel can be started: at least one of the two."""

    pv: PvKernel | None
    pvh: PvhKernel | None


def parse_elf_kernel(file: BinaryIO, name: str) -> ElfKernel:
    """Reads the program headers and Xen's notes of an x86-64 kernel; ``name`` is for messages.

    Raises ``InvalidInputError`` for a file that is not such a kernel, or is corrupt or truncated.
    """
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return _parse(ELFFile(file), size, name)
    except (
        ELFError,
        ConstructError,
        struct.error,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        MemoryError,
    ) as error:
        raise InvalidInputError(
            f"kernel {name}: not a sound ELF file: {error or type(error).__name__}", hint="get the file again"
        ) from error


def _parse(elf: ELFFile, size: int, name: str) -> ElfKernel:
    header = cast("dict[str, Any]", elf.header)
    if elf.elfclass != 64 or not elf.little_endian or header["e_machine"] != "EM_X86_64":
        raise InvalidInputError(f"kernel {name}: an ELF file, but not for x86-64", hint="give an x86-64 kernel")
    if header["e_phnum"] > MAX_SEGMENTS:
        raise InvalidInputError(
            f"kernel {name}: {header['e_phnum']} program headers, at most {MAX_SEGMENTS} are allowed"
        )
    segments: list[Segment] = []
    notes: dict[int, bytes] = {}
    for part in elf.iter_segments():
        head = cast("dict[str, Any]", part.header)
        if head["p_type"] == "PT_LOAD" and head["p_memsz"]:
            segment = Segment(head["p_offset"], head["p_filesz"], head["p_paddr"], head["p_memsz"])
            _check_segment(segment, size, name)
            segments.append(segment)
        elif head["p_type"] == "PT_NOTE":
            begin, length = head["p_offset"], head["p_filesz"]
            if begin + length > size:
                raise InvalidInputError(f"kernel {name}: truncated: its notes end beyond the file", hint="get it again")
            elf.stream.seek(begin)
            notes |= _xen_notes(elf.stream.read(length))
    if not segments:
        raise InvalidInputError(f"kernel {name}: an ELF file with nothing to load", hint="give a Linux kernel")
    found = ElfKernel(_pv(tuple(segments), notes, name), _pvh(tuple(segments), notes, name))
    if found.pv is None and found.pvh is None:
        raise InvalidInputError(
            f"kernel {name}: it carries no Xen note, so it cannot run in a zone",
            hint="a kernel needs CONFIG_XEN_PV=y, or CONFIG_PVH=y",
        )
    return found


def _pv(segments: tuple[Segment, ...], notes: dict[int, bytes], name: str) -> PvKernel | None:
    if elfnote.XEN_ELFNOTE_ENTRY not in notes:
        return None
    kernel = PvKernel(
        segments=segments,
        entry=_number(notes, elfnote.XEN_ELFNOTE_ENTRY, 0),
        virtual_base=_number(notes, elfnote.XEN_ELFNOTE_VIRT_BASE, 0),
        hypercall_page=_number(notes, elfnote.XEN_ELFNOTE_HYPERCALL_PAGE, 0) or None,
        p2m_base=_number(notes, elfnote.XEN_ELFNOTE_INIT_P2M, 0) or None,
        initrd_by_frame=bool(_number(notes, elfnote.XEN_ELFNOTE_MOD_START_PFN, 0)),
    )
    _check_addresses(kernel, _number(notes, elfnote.XEN_ELFNOTE_PADDR_OFFSET, 0), name)
    return kernel


def _pvh(segments: tuple[Segment, ...], notes: dict[int, bytes], name: str) -> PvhKernel | None:
    if elfnote.XEN_ELFNOTE_PHYS32_ENTRY not in notes:
        return None
    kernel = PvhKernel(segments, _number(notes, elfnote.XEN_ELFNOTE_PHYS32_ENTRY, 0))
    if not kernel.first_physical <= kernel.entry < min(kernel.end_physical, 1 << 32):
        raise InvalidInputError(
            f"kernel {name}: its entry for PVH, {kernel.entry:#x}, is not in it", hint="get the file again"
        )
    return kernel


def _xen_notes(data: bytes) -> dict[int, bytes]:
    """Notes of the owner "Xen", by type; anything malformed ends the list."""
    found: dict[int, bytes] = {}
    position = 0
    while position + 12 <= len(data):
        name_size, size, kind = struct.unpack_from("<III", data, position)
        name_at = position + 12
        value_at = name_at + (name_size + 3 & ~3)
        position = value_at + (size + 3 & ~3)
        if position > len(data) + 3:
            break
        if data[name_at : name_at + name_size].rstrip(b"\0") == elfnote.XEN_ELFNOTE_OWNER.encode():
            found[kind] = data[value_at : value_at + size]
    return found


def _number(notes: dict[int, bytes], kind: int, default: int) -> int:
    value = notes.get(kind)
    if value is None or len(value) not in (1, 2, 4, 8):
        return default
    return int.from_bytes(value, "little")


def _check_segment(segment: Segment, size: int, name: str) -> None:
    if segment.offset + segment.file_size > size:
        raise InvalidInputError(
            f"kernel {name}: truncated: a segment ends at byte {segment.offset + segment.file_size}, "
            f"the file at {size}",
            hint="get the file again",
        )
    if segment.file_size > segment.memory_size or segment.physical + segment.memory_size > MAX_PHYSICAL:
        raise InvalidInputError(
            f"kernel {name}: corrupt: a segment of {segment.file_size} bytes is to fill {segment.memory_size} "
            f"bytes at {segment.physical:#x}",
            hint="get the file again",
        )


def _check_addresses(kernel: PvKernel, physical_offset: int, name: str) -> None:
    end = kernel.virtual_base + kernel.end_physical
    wrong = (
        physical_offset != 0
        or kernel.virtual_base % (1 << 21)
        or not 1 << 47 <= kernel.virtual_base < 1 << 64
        or end >= 1 << 64
        or not kernel.virtual_base <= kernel.entry < end
        or (kernel.hypercall_page is not None and not kernel.virtual_base <= kernel.hypercall_page < end)
        or (kernel.p2m_base is not None and (kernel.p2m_base % (1 << 39) or not 0 < kernel.p2m_base < 1 << 47))
    )
    if wrong:
        raise InvalidInputError(
            f"kernel {name}: its Xen notes contradict each other (entry {kernel.entry:#x}, base "
            f"{kernel.virtual_base:#x}, list at {kernel.p2m_base or 0:#x})",
            hint="a 64-bit Linux kernel with CONFIG_XEN_PV=y is expected",
        )
