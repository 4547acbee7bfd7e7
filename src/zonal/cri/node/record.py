"""Which files of a node are ours: a record with their digests, written before they are."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from zonal.errors import AccessDeniedError, InvalidInputError

RECORD = "/var/lib/zonal/kubernetes-node.json"
_MAX_RECORD = 1 << 20


@dataclass(frozen=True)
class Record:
    """What was written: SHA-256 digests by path, and the folders that were made for them."""

    digests: Mapping[str, str] = field(default_factory=dict[str, str])
    folders: tuple[str, ...] = ()


def read_record(root: Path) -> Record:
    """The record below ``root``; an empty one where there is none. Raises ``InvalidInputError`` for a damaged one."""
    path = inside(root, RECORD)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_RECORD)
    except FileNotFoundError:
        return Record()
    except OSError as error:
        raise AccessDeniedError(f"{path} cannot be read: {error.strerror}", hint="run it as root") from error
    try:
        document: Any = json.loads(text)
        digests = {str(key): str(value) for key, value in cast("dict[str, Any]", document["files"]).items()}
        folders = tuple(str(each) for each in document["folders"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"the record of what was installed is damaged: {path}", hint="remove it, and the files it should name"
        ) from error
    return Record(digests, folders)


def write_record(root: Path, record: Record) -> None:
    """Replaces the record at once; an empty one is no file."""
    path = inside(root, RECORD)
    if not record.digests:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    document = {"files": dict(record.digests), "folders": list(record.folders)}
    replace(path, json.dumps(document, indent=2) + "\n", 0o600)


def inside(root: Path, path: str) -> Path:
    """Where ``path`` is below ``root``. Raises ``InvalidInputError`` when a link leads out of it."""
    place = root / path.lstrip("/")
    parent = place.parent.resolve()
    if not parent.is_relative_to(root.resolve()):
        raise InvalidInputError(f"{place} is outside of {root}: a link leads to {parent}")
    return place


def digest(content: str | bytes) -> str:
    """SHA-256, in hexadecimal digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def digest_at(path: Path) -> str | None:
    """Of the file that is there: ``None`` when none is, something that no file has when it is none of its own."""
    if path.is_symlink():
        return "a link"
    try:
        return digest(path.read_bytes())
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return "a folder"


def replace(path: Path, content: str, mode: int) -> None:
    """Writes a file whole, or not at all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
