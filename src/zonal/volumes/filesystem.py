"""Sparse files that hold an empty ext4.

Making one takes mkfs.ext4 some time. For scratch disks, of which every zone gets one, it is done once for a size, and
its few blocks that are not zero are copied from then on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from zonal.errors import InvalidInputError, UnavailableError, ZonalError
from zonal.images.files import is_full, no_room, publish
from zonal.volumes.sizes import MAX_SIZE, MIN_SIZE, show

BLOCK = 4096
# The file is all zeros, so nothing has to be zeroed; nobody but root may use it, so nothing is kept back for root.
_OPTIONS = ("-E", "assume_storage_prezeroed=1,nodiscard,root_owner=0:0", "-m", "0", "-b", str(BLOCK))

# Room to grow, which no scratch disk does, is 4 MiB of tables that are not zero: most of what there is to copy.
_PASSING = ("-O", "^has_journal,^resize_inode")

_RECIPE = hashlib.sha256(repr((_OPTIONS, _PASSING)).encode()).hexdigest()[:8]


_NO_ROOM = ("No space left", "short write")
"""mkfs.ext4's words for it, by what it writes just then."""


class FilesystemError(ZonalError):
    """mkfs.ext4 failed; the message carries its words."""

    grpc_code = "INTERNAL"


def make_filesystem(path: Path, size: int, folders: Sequence[str] = (), *, journal: bool = True) -> None:
    """Makes ``path``, a sparse file of ``size`` bytes with an ext4 that has ``folders`` (root's, mode 755) in it.

    Without a journal it is not to be trusted after a crash, but mounts at once: emulated, the journal takes 0.6 s. Nor
    can it grow by much then.

    Raises ``InvalidInputError`` for a size that cannot be, ``ResourceExhaustedError`` when the disk is full, and
    ``UnavailableError`` without mkfs.ext4. Nothing is left after a failure.
    """
    check_size(size)
    if not shutil.which("mkfs.ext4"):
        raise UnavailableError("mkfs.ext4 is missing in the host", hint="apt-get install e2fsprogs")
    try:
        with tempfile.TemporaryDirectory(prefix=".making-", dir=path.parent) as making:
            root, file = Path(making, "root"), Path(making, "file")
            root.mkdir(mode=0o755)
            for name in folders:
                (root / name).mkdir()
                (root / name).chmod(0o755)  # whatever our umask
            with file.open("xb") as made:
                os.fchmod(made.fileno(), 0o600)
                made.truncate(size)
            command = ["mkfs.ext4", "-q", *_OPTIONS, "-d", str(root), str(file)]
            command[2:2] = [] if journal else _PASSING
            done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
            if done.returncode and any(words in done.stderr for words in _NO_ROOM):
                raise no_room(path.parent)
            if done.returncode:
                last = (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]
                raise FilesystemError(f"mkfs.ext4 cannot make {path}: {last}")
            publish(file, path)
    except OSError as error:
        if is_full(error):
            raise no_room(path.parent) from error
        raise


class FilesystemTemplates:
    """Empty filesystems without a journal, one for the size that was asked for last, kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def copy(self, target: Path, size: int) -> None:
        """Makes ``target`` as ``make_filesystem`` does. Raises the same; nothing is left after a failure."""
        template = self._folder / f"{size}-{_RECIPE}.ext4"
        if not template.exists():
            self._make(template, size)
        try:
            copy_sparse(template, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            if is_full(error):
                raise no_room(target.parent) from error
            raise

    def _make(self, template: Path, size: int) -> None:
        check_size(size)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in self._folder.iterdir():
            # Sizes are mostly one and the same; a user who tries many leaves no more than the last.
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        make_filesystem(template, size, journal=False)


def copy_sparse(source: Path, target: Path) -> None:
    """A new file like ``source``, with its holes. Raises ``OSError``."""
    with source.open("rb") as old, target.open("xb") as new:
        os.fchmod(new.fileno(), 0o600)
        size = os.fstat(old.fileno()).st_size
        position = 0
        while position < size:
            try:
                begin = os.lseek(old.fileno(), position, os.SEEK_DATA)
            except OSError:
                break  # ENXIO: a hole to the end
            position = os.lseek(old.fileno(), begin, os.SEEK_HOLE)
            while begin < position:
                begin += os.copy_file_range(old.fileno(), new.fileno(), position - begin, begin, begin)
        new.truncate(size)


def check_size(size: int) -> None:
    """Raises ``InvalidInputError`` for a size that no filesystem of ours can have."""
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise InvalidInputError(
            f"a filesystem cannot have {size} bytes", hint=f"give {show(MIN_SIZE)} to {show(MAX_SIZE)}"
        )


def used_bytes(path: Path) -> int:
    """What a sparse file takes on the disk."""
    return path.stat().st_blocks * 512
