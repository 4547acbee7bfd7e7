"""Grants: sharing pages with other domains, through ``/dev/xen/gntdev`` (map) and ``/dev/xen/gntalloc`` (offer).

Request numbers and structures: ``linux/include/uapi/xen/gntdev.h`` and ``gntalloc.h``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from zonal.errors import InvalidInputError, UnavailableError, ZonalError
from zonal.xen.abi.privcmd import PAGE_SIZE

GNTDEV = Path("/dev/xen/gntdev")
GNTALLOC = Path("/dev/xen/gntalloc")

# _IOC(_IOC_NONE, 'G', number, size). The sizes are those of the structures with one element in their array.
MAP_GRANT_REF = 24 << 16 | ord("G") << 8 | 0
UNMAP_GRANT_REF = 16 << 16 | ord("G") << 8 | 1
SET_UNMAP_NOTIFY = 16 << 16 | ord("G") << 8 | 7
ALLOC_GREF = 24 << 16 | ord("G") << 8 | 5
DEALLOC_GREF = 16 << 16 | ord("G") << 8 | 6

UNMAP_NOTIFY_CLEAR_BYTE = 1
UNMAP_NOTIFY_SEND_EVENT = 2
GNTALLOC_FLAG_WRITABLE = 1

MAP_HEADER = struct.Struct("=IIQ")
"""``ioctl_gntdev_map_grant_ref``: count, padding, index; then a (domain id, reference) pair of u32 for each page."""
UNMAP = struct.Struct("=QII")
"""``ioctl_gntdev_unmap_grant_ref``: index, count, padding."""
UNMAP_NOTIFY = struct.Struct("=QII")
"""``ioctl_gntdev_unmap_notify``: index of the byte, actions, event channel port."""
ALLOC_HEADER = struct.Struct("=HHIQ")
"""``ioctl_gntalloc_alloc_gref``: domain id, flags, count, index; then the references, u32 each."""
DEALLOC = struct.Struct("=QI4x")
"""``ioctl_gntalloc_dealloc_gref``: index, count."""

_PAGES_MAX = 1024


class GrantError(ZonalError):
    """Mapping or offering pages failed; the message names domain, references and reason."""

    grpc_code = "INTERNAL"


class SharedPages:
    """Pages of memory that two domains share. A context manager; :attr:`buffer` is theirs, writable or not.

    Whoever took slices of the buffer must release them before :meth:`close`.
    """

    def __init__(self, device: _Device, index: int, count: int, release_request: int, *, writable: bool) -> None:
        self.count = count
        """How many pages."""
        self._device = device
        self._index = index
        self._release_request = release_request
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self._memory = mmap.mmap(device.descriptor, count * PAGE_SIZE, mmap.MAP_SHARED, protection, offset=index)
        self.buffer = memoryview(self._memory)

    def notify_on_unmap(self, offset: int, port: int) -> None:
        """Has the kernel clear the byte at ``offset`` and raise an event at ``port`` once these pages are given up.

        It does so too when this process is killed. A later call replaces the former one of the same page.
        """
        if not 0 <= offset < len(self.buffer):
            raise ValueError(f"byte {offset} is not within {self.count} pages")
        actions = UNMAP_NOTIFY_CLEAR_BYTE | UNMAP_NOTIFY_SEND_EVENT
        request = UNMAP_NOTIFY.pack(self._index + offset, actions, port)
        self._device.call(SET_UNMAP_NOTIFY, request, f"setting an unmap notice to port {port}")

    def close(self) -> None:
        """Gives the pages up. May be called again. Raises ``BufferError`` if slices of the buffer are still held."""
        if self._memory.closed:
            return
        self.buffer.release()
        self._memory.close()
        # With the device closed, the memory held its last reference, and the kernel has let go of the pages by now.
        if self._device.descriptor >= 0:
            # Both structures begin with index and count, and both are of 16 bytes.
            self._device.call(self._release_request, UNMAP.pack(self._index, self.count, 0), "releasing pages")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _Device:
    def __init__(self, path: Path, module: str) -> None:
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise UnavailableError(
                f"{path} cannot be opened: {error.strerror}",
                hint=f"Zonal must run as root in the host of a Xen machine, with the kernel module {module} loaded",
            ) from None

    def call(self, request: int, argument: bytes | bytearray, what: str) -> None:
        # The kernel writes its answer into a bytearray.
        buffer = argument if isinstance(argument, bytearray) else bytearray(argument)
        try:
            fcntl.ioctl(self.descriptor, request, buffer, True)
        except OSError as error:
            raise GrantError(f"{what} failed: {error.strerror}") from error

    def close(self) -> None:
        """Closes the device; pages that are in use stay until they are closed themselves. May be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class GrantDevice(_Device):
    """Maps pages that other domains have granted. A context manager.

    Raises :class:`UnavailableError` where there is no such device.
    """

    def __init__(self) -> None:
        super().__init__(GNTDEV, "xen-gntdev")

    def map(self, domain_id: int, references: Sequence[int], *, writable: bool = True) -> SharedPages:
        """Maps the pages of ``references`` one after the other into one buffer.

        Raises :class:`GrantError` if Xen refuses one of them: a zone can offer what does not exist.
        """
        index = self.reserve(domain_id, references)
        what = f"mapping {_quote(references)} of domain {domain_id}"
        try:
            return SharedPages(self, index, len(references), UNMAP_GRANT_REF, writable=writable)
        except OSError as error:
            self.call(UNMAP_GRANT_REF, UNMAP.pack(index, len(references), 0), what)
            raise GrantError(f"{what} failed: {error.strerror}") from error

    def reserve(self, domain_id: int, references: Sequence[int]) -> int:
        """Prepares a mapping, which whoever has the device's descriptor makes by mmap(2) at the offset that this gives.

        Raises :class:`GrantError`; Xen itself is asked at mmap(2) only.
        """
        _check_count(len(references))
        pairs = [number for reference in references for number in (domain_id, reference)]
        request = bytearray(MAP_HEADER.pack(len(references), 0, 0) + struct.pack(f"={len(pairs)}I", *pairs))
        self.call(MAP_GRANT_REF, request, f"mapping {_quote(references)} of domain {domain_id}")
        index: int = MAP_HEADER.unpack_from(request)[2]
        return index


class GrantAllocator(_Device):
    """Allocates pages of this domain and grants them to others. A context manager.

    Raises :class:`UnavailableError` where there is no such device.
    """

    def __init__(self) -> None:
        super().__init__(GNTALLOC, "xen-gntalloc")

    def allocate(self, domain_id: int, count: int, *, writable: bool = True) -> tuple[SharedPages, list[int]]:
        """``count`` pages of zeros that ``domain_id`` may map, and the references to give it."""
        _check_count(count)
        flags = GNTALLOC_FLAG_WRITABLE if writable else 0
        request = bytearray(ALLOC_HEADER.pack(domain_id, flags, count, 0) + bytes(4 * max(count, 2)))
        what = f"granting {count} pages to domain {domain_id}"
        self.call(ALLOC_GREF, request, what)
        index: int = ALLOC_HEADER.unpack_from(request)[3]
        references = list(struct.unpack_from(f"={count}I", request, ALLOC_HEADER.size))
        try:
            return SharedPages(self, index, count, DEALLOC_GREF, writable=True), references
        except OSError as error:
            self.call(DEALLOC_GREF, DEALLOC.pack(index, count), what)
            raise GrantError(f"{what} failed: {error.strerror}") from error


def _check_count(count: int) -> None:
    if not 0 < count <= _PAGES_MAX:
        raise InvalidInputError(f"{count} pages cannot be shared at once; the most is {_PAGES_MAX}")


def _quote(references: Sequence[int]) -> str:
    if len(references) == 1:
        return f"grant {references[0]}"
    return f"{len(references)} grants ({references[0]} … {references[-1]})"
