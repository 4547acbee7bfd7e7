"""Hypercalls from user space, through Linux's ``/dev/xen/privcmd``.

A hypercall's arguments that are addresses must point to memory that stays mapped: those come from
``/dev/xen/hypercall`` (``HypercallBuffer``). Pages of other domains are mapped with ``Hypervisor.map_frames``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

from zonal.errors import AccessDeniedError, UnavailableError, ZonalError
from zonal.xen.abi.privcmd import (
    IOCTL_PRIVCMD_HYPERCALL,
    IOCTL_PRIVCMD_MMAP_RESOURCE,
    IOCTL_PRIVCMD_MMAPBATCH_V2,
    PAGE_SHIFT,
    PAGE_SIZE,
    PrivcmdHypercall,
    PrivcmdMmapBatchV2,
    PrivcmdMmapResource,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

PRIVCMD = "/dev/xen/privcmd"
HYPERCALL = "/dev/xen/hypercall"

_Layout = TypeVar("_Layout", bound=ctypes.Structure)


class HypercallError(ZonalError):
    """The hypervisor refused; ``errno`` says why."""

    grpc_code = "INTERNAL"

    def __init__(self, what: str, number: int) -> None:
        super().__init__(f"{what}: {os.strerror(number)} [{errno.errorcode.get(number, number)}]")
        self.what = what
        self.errno = number


class HypercallBuffer:
    """Page-aligned memory that a hypercall may read and write; a context manager.

    Zeroed at the start. ``size`` is in bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self._map = mmap.mmap(fd, -(-size // PAGE_SIZE) * PAGE_SIZE, mmap.MAP_SHARED)
        self.address = _address_of(self._map)

    def view(self) -> memoryview:
        """The bytes; release it before the buffer is closed."""
        return memoryview(self._map)[: self.size]

    def overlay(self, layout: type[_Layout], offset: int = 0) -> _Layout:
        """A structure laid over the buffer ``offset`` bytes in; valid as long as the buffer."""
        if offset + ctypes.sizeof(layout) > self.size:
            raise ValueError(f"{layout.__name__} does not fit at {offset} of {self.size} bytes")
        return layout.from_address(self.address + offset)

    def close(self) -> None:
        """Gives the memory back."""
        self._map.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ForeignPages:
    """Pages of another domain, mapped here; a context manager.

    ``memory`` has ``count`` × 4096 bytes.
    """

    def __init__(self, mapping: mmap.mmap, count: int) -> None:
        self.count = count
        self.memory = mapping

    def array(self, dtype: npt.DTypeLike = "u1") -> npt.NDArray[np.generic]:
        """The whole as a numpy array; drop it before ``close``."""
        import numpy

        return numpy.frombuffer(self.memory, dtype=dtype)

    def close(self) -> None:
        """Unmaps; raises ``BufferError`` while views of it are alive."""
        self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Hypervisor:
    """The way to the hypervisor: an open privcmd; a context manager. Safe to use from several threads.

    Raises ``UnavailableError`` where Xen, or the host's part in it, is missing, and ``AccessDeniedError`` for
    anyone but root.
    """

    def __init__(self) -> None:
        self._privcmd = _open_device(PRIVCMD)
        try:
            self._buffers = _open_device(HYPERCALL)
        except BaseException:
            os.close(self._privcmd)
            raise

    def close(self) -> None:
        """Closes the devices; mappings stay valid until they are closed themselves."""
        os.close(self._buffers)
        os.close(self._privcmd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def buffer(self, size: int) -> HypercallBuffer:
        """Memory for a hypercall's arguments; ``size`` in bytes."""
        return HypercallBuffer(self._buffers, size)

    def call(self, what: str, op: int, *args: int) -> int:
        """Issues hypercall ``op`` (``__HYPERVISOR_*``) with up to five arguments, and returns its result (≥ 0).

        ``what`` names it in the ``HypercallError`` that a refusal raises.
        """
        request = PrivcmdHypercall(op=op, arg=(ctypes.c_uint64 * 5)(*args))
        data = bytearray(request)
        try:
            return fcntl.ioctl(self._privcmd, IOCTL_PRIVCMD_HYPERCALL, data, True)
        except OSError as error:
            raise HypercallError(what, error.errno or errno.EIO) from None

    @contextmanager
    def structure(self, layout: type[_Layout]) -> Generator[tuple[_Layout, int]]:
        """A zeroed structure in hypercall memory, and its address."""
        with self.buffer(ctypes.sizeof(layout)) as buffer:
            yield buffer.overlay(layout), buffer.address

    def map_frames(self, domain_id: int, frames: npt.NDArray[np.uint64]) -> ForeignPages:
        """Maps machine frames of a domain, in the order given, readable and writable.

        ``frames``: shape (n,), machine frame numbers for a PV domain. Source: ``privcmd.h``,
        ``IOCTL_PRIVCMD_MMAPBATCH_V2``.
        """
        import numpy

        count = len(frames)
        mapping = mmap.mmap(self._privcmd, count * PAGE_SIZE, mmap.MAP_SHARED)
        try:
            wanted = numpy.ascontiguousarray(frames, dtype=numpy.uint64)
            errors = numpy.zeros(count, dtype=numpy.int32)
            request = PrivcmdMmapBatchV2(
                num=count,
                dom=domain_id,
                addr=_address_of(mapping),
                arr=wanted.ctypes.data,
                err=errors.ctypes.data,
            )
            self._ioctl("map foreign frames", IOCTL_PRIVCMD_MMAPBATCH_V2, request)
            failed = numpy.flatnonzero(errors)
            if len(failed):
                first = int(failed[0])
                what = f"map frame {int(wanted[first]):#x} of domain {domain_id}"
                raise HypercallError(what, -int(errors[first]))
        except BaseException:
            mapping.close()
            raise
        return ForeignPages(mapping, count)

    def map_resource(self, domain_id: int, kind: int, resource_id: int, first: int, count: int) -> ForeignPages:
        """Maps ``count`` frames of a domain's resource (``XENMEM_acquire_resource`` of ``memory.h``)."""
        mapping = mmap.mmap(self._privcmd, count * PAGE_SIZE, mmap.MAP_SHARED)
        try:
            request = PrivcmdMmapResource(
                dom=domain_id, type=kind, id=resource_id, idx=first, num=count, addr=_address_of(mapping)
            )
            self._ioctl(f"map resource {kind} of domain {domain_id}", IOCTL_PRIVCMD_MMAP_RESOURCE, request)
        except BaseException:
            mapping.close()
            raise
        return ForeignPages(mapping, count)

    def _ioctl(self, what: str, number: int, request: ctypes.Structure) -> None:
        try:
            fcntl.ioctl(self._privcmd, number, bytearray(request), True)
        except OSError as error:
            raise HypercallError(what, error.errno or errno.EIO) from None


def frames_for(size: int) -> int:
    """How many frames hold ``size`` bytes."""
    return (size + PAGE_SIZE - 1) >> PAGE_SHIFT


def _address_of(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def _open_device(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UnavailableError(
            f"{path} does not exist: this machine does not run Xen, or its host lacks the module xen-privcmd",
            hint="boot the machine under Xen, or use the lab: `zonal lab up`",
        ) from None
    except PermissionError:
        raise AccessDeniedError(f"{path}: permission denied", hint="Xen's devices are root's: run as root") from None
    except OSError as error:
        raise UnavailableError(
            f"{path}: {error.strerror}", hint="only the control domain of a running Xen may issue hypercalls"
        ) from None
