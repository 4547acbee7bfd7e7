"""Where the files of the image store are, and how they come through a crash.

::

    images/
      catalogue.sqlite           names, images, which erofs belongs to which
      blobs/sha256/HEX           configurations, manifests and layers as they came, by their digest
      erofs/HEX.erofs            flattened trees, by the chain id of their layers
      tmp/                       what is being made; emptied when the store is opened
      lock                       held by the one process that has the store open

A file has its final name only once it is whole and on the disk, and is in use only once the catalogue says so, which
is one transaction. What a crash leaves is either in ``tmp`` or known to nobody, and goes when the store is opened.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

from zonal.errors import InvalidInputError, WrongStateError
from zonal.images.blobs import Blobs
from zonal.images.catalogue import Catalogue
from zonal.images.files import is_full, no_room

_LOG: Final = logging.getLogger(__name__)


class Layout:
    """The paths below one folder, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        for folder in ("blobs/sha256", "erofs", "tmp", "unpacked"):
            (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def catalogue(self) -> Path:
        """The database."""
        return self._root / "catalogue.sqlite"

    def erofs(self, chain_id: str) -> Path:
        """The flattened tree of a chain of layers."""
        return self._root / "erofs" / f"{chain_id.removeprefix('sha256:')}.erofs"

    @property
    def blobs(self) -> Path:
        """The folder of `blobs.Blobs`."""
        return self._root / "blobs"

    @property
    def unpacked(self) -> Path:
        """The folder of `unpacked.Unpacked`."""
        return self._root / "unpacked"

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Keep other processes out.

        Raises:
            WrongStateError: another one was first.
        """
        fd = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise WrongStateError(
                f"the image store {self._root} is in use by another process", hint="stop the other zonald"
            ) from error
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def scratch(self) -> Generator[Path]:
        """A folder for one import, on the disk of the store, gone afterwards.

        Raises:
            ResourceExhaustedError: the disk was full, here or in what was done with the folder.
        """
        try:
            with tempfile.TemporaryDirectory(dir=self._root / "tmp") as folder:
                yield Path(folder)
        except (OSError, sqlite3.OperationalError) as error:
            full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
            if full or (isinstance(error, OSError) and is_full(error)):
                raise no_room(self._root) from error
            raise

    def clean(self, catalogue: Catalogue, blobs: Blobs) -> None:
        """Make files and catalogue agree, after whatever ended the process before this one."""
        for path in (self._root / "tmp").iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for chain_id, size in catalogue.filesystems().items():
            path = self.erofs(chain_id)
            if not path.is_file() or path.stat().st_size != size:
                _LOG.warning("the filesystem %s is gone or damaged: its images are dropped", path)
                catalogue.remove_filesystem(chain_id)
        for record in catalogue.images():
            try:
                lacking = [digest for digest in blobs.of(record) if not blobs.has(digest)]
            except (OSError, InvalidInputError):
                lacking = [record.manifest]
            if lacking:
                _LOG.warning("%s of image %s is gone or damaged: the image is dropped", lacking[0], record.id)
                catalogue.remove_image(record.id)
        known = {self.erofs(chain_id) for chain_id in catalogue.filesystems()}
        for path in (self._root / "erofs").iterdir():
            if path not in known:
                path.unlink()
        blobs.remove_unused(catalogue.images())
