"""Zonal's own source, as it goes into a lab: with its boot, and later when it has changed."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import zonal
from zonal.lab.initrd import Entry, directory, regular

# Python compares a source's modification time with the one noted in its compiled form. Making the time out of the
# content keeps what is compiled inside the lab in use exactly as long as it is right.
_MTIME_MASK = (1 << 30) - 1


@dataclass(frozen=True)
class Source:
    """The files of the package, by their paths under the folder that holds it, sorted."""

    files: tuple[tuple[str, bytes], ...]
    digest: str
    """SHA-256 over paths and contents, hexadecimal."""

    def tar(self) -> bytes:
        """The files as a tar archive, owned by root."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, data in self.files:
                member = tarfile.TarInfo(path)
                member.size = len(data)
                member.mode = 0o644
                member.mtime = _mtime(data)
                archive.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    def entries(self, prefix: str) -> list[Entry]:
        """The files, and the directories that hold them below ``prefix``, for an initrd."""
        folders = sorted({str(parent) for path, _ in self.files for parent in Path(path).parents} - {"."})
        return [
            *(directory(f"{prefix}/{folder}") for folder in folders),
            *(regular(f"{prefix}/{path}", data, mtime=_mtime(data)) for path, data in self.files),
        ]


def read_source(package: Path = Path(zonal.__file__).parent) -> Source:
    """The source of the Zonal that runs this."""
    found: list[tuple[str, bytes]] = []
    for path in sorted(package.rglob("*")):
        if "__pycache__" not in path.parts and path.suffix not in (".pyc", ".pyi") and path.is_file():
            found.append((str(path.relative_to(package.parent)), path.read_bytes()))
    digest = hashlib.sha256()
    for name, data in found:
        digest.update(f"{len(name)}:{name}:{len(data)}:".encode())
        digest.update(data)
    return Source(tuple(found), digest.hexdigest())


def _mtime(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "big") & _MTIME_MASK
