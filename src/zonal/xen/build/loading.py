"""Puts files and bytes into a new domain's memory, straight into its pages, without a copy in this process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from zonal.errors import InvalidInputError
from zonal.xen.abi.privcmd import PAGE_SIZE
from zonal.xen.build.elf import Loadable
from zonal.xen.hypercall import Hypervisor

Bytes = npt.NDArray[np.uint8]
Frames = npt.NDArray[np.uint64]


def load_kernel_file(hypervisor: Hypervisor, domain_id: int, path: Path, kernel: Loadable, frames: Frames) -> None:
    """A kernel's segments into ``frames``, of which the first holds its lowest address; zeroes between them.

    ``frames``: shape (n,), as ``Hypervisor.map_frames`` takes them.
    """
    origin = kernel.first_physical & ~(PAGE_SIZE - 1)
    with path.open("rb") as file, hypervisor.map_frames(domain_id, frames) as pages:
        target = pages.array()
        filled = 0
        for segment in sorted(kernel.segments, key=lambda segment: segment.physical):
            begin = segment.physical - origin
            end = begin + segment.file_size
            target[filled:begin] = 0
            with memoryview(pages.memory)[begin:end] as view:
                _read_into(file, segment.offset, view, path)
            filled = end
        target[filled:] = 0
        del target


def load_file(hypervisor: Hypervisor, domain_id: int, path: Path, frames: Frames) -> None:
    """A whole file, and zeroes to the end of the last frame."""
    with path.open("rb") as file, hypervisor.map_frames(domain_id, frames) as pages:
        size = os.fstat(file.fileno()).st_size
        with memoryview(pages.memory)[:size] as view:
            _read_into(file, 0, view, path)
        with memoryview(pages.memory)[size:] as rest:
            rest[:] = bytes(len(rest))


def write_frames(hypervisor: Hypervisor, domain_id: int, frames: Frames, source: Bytes) -> None:
    """Bytes from the begin of the first frame on, and zeroes to the end of the last."""
    with hypervisor.map_frames(domain_id, frames) as pages:
        target = pages.array()
        target[: len(source)] = source
        target[len(source) :] = 0
        del target


def _read_into(file: BinaryIO, offset: int, view: memoryview, path: Path) -> None:
    done = 0
    while done < len(view):
        with view[done : done + (1 << 30)] as part:
            count = os.preadv(file.fileno(), [part], offset + done)
        if not count:
            raise InvalidInputError(f"{path} has become shorter while it was read", hint="try again")
        done += count
