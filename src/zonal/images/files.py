"""Files that are there whole or not at all, even after a power cut."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


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
