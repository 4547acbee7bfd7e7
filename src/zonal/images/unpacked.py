"""Layers kept decompressed for a while, so that the next image that shares them need not do it again.

A file is named by what a layer was when it came and by what it decompresses to, both of which had been verified: so no
image gets at a layer that it does not have. Nothing here outlives the process; the next one begins with an empty
folder, and so needs not ask whether a power cut has left a file half written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

_LOG: Final = logging.getLogger(__name__)

BUDGET: Final = 4 << 30
"""Bytes of all that is kept; the longest unused goes first."""
LEAST_FREE: Final = 4 << 30
"""Bytes free on the disk below which nothing is kept."""


class Unpacked:
    """The folder ``unpacked``; its methods may be called from any thread."""

    def __init__(self, folder: Path, *, budget: int = BUDGET, least_free: int = LEAST_FREE) -> None:
        self._folder = folder
        self._budget = budget
        self._least_free = least_free

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        return sum(size for _, size, _ in self._all())

    def find(self, digest: str | None, diff_id: str | None) -> int | None:
        """A descriptor, for the caller to close, of what ``digest`` decompresses to, if that is ``diff_id``."""
        if digest is None or diff_id is None:
            return None
        path = self._path(digest, diff_id)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
            return fd
        return None

    def keep(self, fd: int, digest: str, diff_id: str) -> None:
        """Give an unnamed file on the same file system its place, if there is room; nobody may write to it any more."""
        folder = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # With a descriptor Python calls linkat, which follows the link; without one it calls link, which does not.
            name = self._path(digest, diff_id).name
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=folder, follow_symlinks=True)
        except OSError as error:
            # Another image may have had the same layer just now; what cannot be kept is decompressed again.
            _LOG.debug("%s is not kept decompressed: %s", digest, error)
        finally:
            os.close(folder)
        self.trim()

    def trim(self) -> None:
        """Remove what is over the budget; all of it when the disk is filling up."""
        left = self._budget if shutil.disk_usage(self._folder).free >= self._least_free else 0
        for _, size, path in sorted(self._all(), reverse=True):
            left -= size
            if left < 0:
                path.unlink(missing_ok=True)

    def remove_unless(self, wanted: Callable[[str], bool]) -> None:
        """Remove the layers whose digest is not ``wanted``."""
        for _, _, path in self._all():
            if not wanted(f"sha256:{path.name.partition('.')[0]}"):
                path.unlink(missing_ok=True)

    def clear(self) -> int:
        """Remove everything; the bytes that this frees."""
        freed = self.size
        self.remove_unless(lambda _: False)
        return freed

    def _all(self) -> list[tuple[float, int, Path]]:
        found: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    def _path(self, digest: str, diff_id: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}.{diff_id.removeprefix('sha256:')}"
