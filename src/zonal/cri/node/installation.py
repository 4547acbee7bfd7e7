"""Installing a node's files, looking at them, and taking back exactly what was written."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from zonal.cri.node.files import NodeFile, node_files
from zonal.cri.node.options import NodeOptions
from zonal.cri.node.record import RECORD, Record, digest, digest_at, inside, read_record, replace, write_record
from zonal.errors import AccessDeniedError, InvalidInputError

_MODE = 0o644


class Change(Enum):
    """What is to happen, or has happened, to a file."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    REMOVED = "removed"
    KEPT = "kept"
    """It is not as we wrote it, or not from us: it stays as it is."""
    MISSING = "missing"


@dataclass(frozen=True)
class FileChange:
    """A file, and what of it."""

    path: str
    change: Change
    detail: str = ""
    content: str = ""
    """What is written."""


def plan(root: Path, options: NodeOptions, units: Mapping[str, str]) -> list[FileChange]:
    """What ``install`` would do below ``root``. Raises ``ZonalError`` for a root or record that is none."""
    with _errors():
        record = read_record(_checked(root))
        files = node_files(root, options, units, frozenset(record.digests))
        return [_planned(root, record, file) for file in files]


def install(root: Path, options: NodeOptions, units: Mapping[str, str]) -> list[FileChange]:
    """Writes what is not there yet; a file that is there and not as we wrote it is kept.

    Doing it again changes nothing, or what the options, or the kubelet's units, have changed.
    """
    changes = plan(root, options, units)
    with _errors():
        record = read_record(root)
        digests = dict(record.digests)
        folders = list(record.folders)
        writes = [each for each in changes if each.change is Change.WRITTEN]
        if writes:
            folders += (folder for folder in _missing_folders(root, RECORD) if folder not in folders)
        for each in writes:
            digests[each.path] = digest(each.content)
            folders += (folder for folder in _missing_folders(root, each.path) if folder not in folders)
        # First the record: whatever happens between, `uninstall` knows of all that may be there.
        if writes:
            write_record(root, Record(digests, tuple(folders)))
        for each in writes:
            path = inside(root, each.path)
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace(path, each.content, _MODE)
    return changes


def removals(root: Path) -> list[FileChange]:
    """What ``uninstall`` would do."""
    with _errors():
        return [_removal(root, path, wrote) for path, wrote in read_record(_checked(root)).digests.items()]


def uninstall(root: Path) -> list[FileChange]:
    """Removes the files of the record that are as they were written, then the folders made for them if empty.

    What was changed since is kept, and forgotten: it is its editor's now.
    """
    changes = removals(root)
    with _errors():
        record = read_record(root)
        for each in changes:
            if each.change is Change.REMOVED:
                inside(root, each.path).unlink(missing_ok=True)
        write_record(root, Record())
        for folder in sorted(record.folders, key=len, reverse=True):
            path = inside(root, folder)
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
    return changes


def installed(root: Path) -> list[FileChange]:
    """The files of the record, and whether they are as they were written; none when nothing is installed."""
    found: list[FileChange] = []
    with _errors():
        for path, wrote in read_record(_checked(root)).digests.items():
            there = digest_at(inside(root, path))
            if there is None:
                found.append(FileChange(path, Change.MISSING, "it was removed"))
            elif there != wrote:
                found.append(FileChange(path, Change.KEPT, "it was changed"))
            else:
                found.append(FileChange(path, Change.UNCHANGED))
    return found


def _planned(root: Path, record: Record, file: NodeFile) -> FileChange:
    there = digest_at(inside(root, file.path))
    wrote = record.digests.get(file.path)
    if there is not None and there == digest(file.content):
        return FileChange(file.path, Change.UNCHANGED, file.purpose, file.content)
    if there is not None and there != wrote:
        detail = "it was changed since" if wrote else "it is there already, and not from here"
        return FileChange(file.path, Change.KEPT, detail, file.content)
    return FileChange(file.path, Change.WRITTEN, file.purpose, file.content)


def _removal(root: Path, path: str, wrote: str) -> FileChange:
    there = digest_at(inside(root, path))
    if there is None:
        return FileChange(path, Change.MISSING, "it was removed already")
    if there != wrote:
        return FileChange(path, Change.KEPT, "it was changed since")
    return FileChange(path, Change.REMOVED)


def _missing_folders(root: Path, path: str) -> Iterable[str]:
    for folder in list(Path(path).parents)[:-1]:
        if not (root / str(folder).lstrip("/")).exists():
            yield str(folder)


def _checked(root: Path) -> Path:
    if not root.is_dir():
        raise InvalidInputError(f"--root {root} is not a folder")
    return root


@contextmanager
def _errors() -> Generator[None]:
    """Says what the system refuses in one line."""
    try:
        yield
    except PermissionError as error:
        raise AccessDeniedError(f"{error.filename}: {error.strerror}", hint="run it as root") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidInputError(f"{error.filename}: {error.strerror}") from error
    except OSError as error:
        if error.filename is None or error.errno is None:
            raise
        raise InvalidInputError(f"{error.filename}: {error.strerror}") from error
