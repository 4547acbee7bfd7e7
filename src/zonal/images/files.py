"""Files that are there whole or not at all, even after a power cut."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import uuid
from pathlib import Path
from typing import Final

from zonal.errors import ResourceExhaustedError


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def is_full(error: OSError) -> bool:
    """Whether it says that the disk, or a quota on it, has no room."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room(folder: Path, needed: int | None = None) -> ResourceExhaustedError:
    """The error for a full disk, in numbers."""
    wanted = f", {needed >> 20} MiB are needed" if needed is not None else ""
    return ResourceExhaustedError(
        f"not enough room on the disk that holds {folder}: {shutil.disk_usage(folder).free >> 20} MiB are free{wanted}",
        hint="see `zonal image df`; remove images, zones or volumes, or make the disk larger",
    )


_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE of linux/falloc.h."""


def punch_hole(fd: int, offset: int, size: int) -> bool:
    """Have a range of a file read as zeros and take no room; whether the file system can do so."""
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, offset, size) == 0


def publish(finished: Path, target: Path) -> None:
    """Give a finished file its name: its content is on the disk before the name is. Both are on one filesystem."""
    fd = os.open(finished, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    finished.replace(target)
    sync_folder(target.parent)


def write_file(target: Path, data: bytes, scratch: Path) -> None:
    """Write a whole file by way of one in ``scratch``."""
    finished = scratch / f"{target.name}.{uuid.uuid4().hex}"
    try:
        finished.write_bytes(data)
        publish(finished, target)
    except BaseException:
        finished.unlink(missing_ok=True)
        raise
