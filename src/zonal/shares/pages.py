"""Pages of a device, mapped without keeping the device open: Python's own mmap keeps a descriptor of its own.

Who has /dev/xen/gntdev can map what any domain has granted to this one. So it is closed once a zone's pages are mapped.
"""

from __future__ import annotations

import ctypes
import mmap
import os

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_FAILED = ctypes.c_void_p(-1).value


class Pages:
    """Memory at an offset of a device; ``buffer`` is gone with ``close``."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        """Raises ``OSError``."""
        access = mmap.PROT_READ | mmap.PROT_WRITE
        address = _libc.mmap(None, size, access, mmap.MAP_SHARED, descriptor, offset)
        if address == _FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._address: int | None = address
        self._size = size
        self.buffer = memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")

    def close(self) -> None:
        """Unmaps; the caller has released what it took of ``buffer``. May be called again."""
        if self._address is not None:
            self.buffer.release()
            _libc.munmap(self._address, self._size)
            self._address = None
