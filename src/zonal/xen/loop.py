"""Loop devices: files as block devices, which is what the kernel's block backend can serve.

Structures, flags and request numbers: ``linux/include/uapi/linux/loop.h``. Every device is set to clear itself when its
last opener closes it, so nothing is left however this process ends. Hold it until the backend has opened it too, which
it has once the device is connected.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from zonal.errors import NotFoundError, ResourceExhaustedError, UnavailableError, ZonalError

CONTROL_DEVICE = Path("/dev/loop-control")
LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
FLAG_READ_ONLY = 1
FLAG_AUTOCLEAR = 4
FLAG_DIRECT_IO = 16

CONFIG = struct.Struct("=II 5Q4I 64s64s32s2Q 64x")
"""``struct loop_config``: descriptor, block size; ``struct loop_info64``: device, inode, rdevice, offset, size limit,
number, encryption type, key size, flags, file name, crypt name, key, init; reserved."""

_ATTEMPTS = 64


class LoopError(ZonalError):
    """A loop device could not be set up; the message names the file and the reason."""

    grpc_code = "INTERNAL"


class LoopDevice:
    """A file as a block device, for as long as this, or somebody else, holds it open. A context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        """Such as ``/dev/loop3``."""
        self.device = os.fstat(descriptor).st_rdev
        """As ``os.major`` and ``os.minor`` take it."""
        self._descriptor = descriptor

    def close(self) -> None:
        """Lets go of it; the kernel frees it when nobody else has it open. May be called again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def open_loop(file: Path, *, read_only: bool, direct: bool = False) -> LoopDevice:
    """Makes ``file`` a block device.

    ``direct`` goes past the host's page cache, where the filesystem can: right for a zone's own scratch disk, which the
    zone caches itself, and wrong for an image that many zones read, which the host should read from disk only once.
    Raises :class:`NotFoundError` for a missing file, :class:`UnavailableError` where the kernel has no loop devices,
    and :class:`LoopError`.
    """
    access = os.O_RDONLY if read_only else os.O_RDWR
    try:
        backing = os.open(file, access | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{file} does not exist, so it cannot be a disk") from None
    except OSError as error:
        raise LoopError(f"{file} cannot be opened as a disk: {error.strerror}") from error
    try:
        flags = FLAG_AUTOCLEAR | (FLAG_READ_ONLY if read_only else 0) | (FLAG_DIRECT_IO if direct else 0)
        name = os.fsencode(file)[-63:]
        config = CONFIG.pack(backing, 0, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
        return _configure_free_device(file, config)
    finally:
        os.close(backing)


class LoopPool:
    """Read-only loop devices that are shared by all who want the same file.

    Sharing saves setting one up for each zone, and lets the host cache the file's blocks once.
    """

    def __init__(self) -> None:
        self._shared: dict[_FileIdentity, _Shared] = {}

    def acquire(self, file: Path) -> SharedLoop:
        """A handle on the device for ``file``, read-only; raises what :func:`open_loop` raises.

        A file that was replaced, or has changed size or time since, is another file.
        """
        try:
            status = file.stat()
        except FileNotFoundError:
            raise NotFoundError(f"{file} does not exist, so it cannot be a disk") from None
        identity = _FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        shared = self._shared.get(identity)
        if shared is None:
            shared = self._shared[identity] = _Shared(open_loop(file, read_only=True))
        shared.users += 1
        return SharedLoop(self, identity, shared.device)

    def release(self, identity: _FileIdentity) -> None:
        """Counts one user less; for the handles."""
        shared = self._shared[identity]
        shared.users -= 1
        if not shared.users:
            del self._shared[identity]
            shared.device.close()

    def __len__(self) -> int:
        return len(self._shared)


class SharedLoop:
    """One user's hold on a shared device. A context manager."""

    def __init__(self, pool: LoopPool, identity: _FileIdentity, device: LoopDevice) -> None:
        self.path = device.path
        self.device = device.device
        self._pool = pool
        self._identity: _FileIdentity | None = identity

    def close(self) -> None:
        """Lets go of the device. May be called again."""
        if self._identity is not None:
            self._pool.release(self._identity)
            self._identity = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _FileIdentity:
    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(slots=True)
class _Shared:
    device: LoopDevice
    users: int = 0


def _configure_free_device(file: Path, config: bytes) -> LoopDevice:
    try:
        control = os.open(CONTROL_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise UnavailableError(
            f"{CONTROL_DEVICE} cannot be opened: {error.strerror}",
            hint="Zonal must run as root, with the kernel module loop loaded",
        ) from None
    try:
        for _ in range(_ATTEMPTS):
            # Between finding a free device and taking it, another process may take it: then look for the next.
            path = Path(f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}")
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, LOOP_CONFIGURE, config)
                return LoopDevice(path, descriptor)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY:
                    raise
    except OSError as error:
        raise LoopError(f"{file} cannot be made a loop device: {error.strerror}") from error
    finally:
        os.close(control)
    raise ResourceExhaustedError(
        f"no loop device for {file}: {_ATTEMPTS} in a row were taken by others", hint="see losetup --list in the host"
    )
