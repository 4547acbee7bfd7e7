"""Blobs: configurations, manifests and layers, each a file named by its digest, kept once however many images share it.

A layer is kept as it came, so that an image can be pushed and saved with the digests that it had. What an interrupted
pull has fetched whole stays for a day, for the next try.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Final

from zonal.errors import InvalidInputError
from zonal.images.catalogue import Record
from zonal.images.files import publish, write_file
from zonal.images.limits import Limits
from zonal.images.manifest import parse_manifest
from zonal.images.tarformat import Source
from zonal.images.work import in_thread

KEPT_SECONDS: Final = 86_400
"""How long a layer stays that no image has."""
_PIECE: Final = 64 << 20


class Blobs:
    """The folder ``blobs``; what is in use is its caller's to know."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self._limits = limits
        self._held: Counter[str] = Counter()

    def path(self, digest: str) -> Path:
        """Where a blob is, or would be."""
        return self.folder / "sha256" / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether it is there."""
        return self.path(digest).is_file()

    def has_all(self, manifest: bytes) -> bool:
        """Whether all that a manifest needs is there."""
        return all(map(self.has, parse_manifest(manifest, "manifest", self._limits).digests))

    def size(self, digest: str) -> int:
        """Bytes; 0 when it is not there."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return 0

    def sizes(self) -> dict[str, int]:
        """Bytes of every blob, by its digest."""
        return {f"sha256:{path.name}": path.stat().st_size for path in (self.folder / "sha256").iterdir()}

    async def keep(self, digest: str, blob: Source, folder: Path) -> None:
        """Keep what is in a range of an open file, by way of a file in ``folder``; its digest has been checked."""
        if self.has(digest):
            return
        finished = folder / f"blob-{digest[-64:]}"

        def copy() -> None:
            with finished.open("wb") as file:
                offset, end = blob.offset, blob.offset + blob.size
                while offset < end:
                    count = os.sendfile(file.fileno(), blob.fd, offset, min(_PIECE, end - offset))
                    if count == 0:
                        raise InvalidInputError(f"{blob.label} was cut short while it was read")
                    offset += count
            publish(finished, self.path(digest))

        await in_thread(lambda _: copy())

    def write(self, digest: str, data: bytes, folder: Path) -> None:
        """Keep a document, by way of a file in ``folder``. One that is there as it should be stays as it is: to have a
        file on the disk takes longer than to read one."""
        path = self.path(digest)
        if self.size(digest) != len(data) or path.read_bytes() != data:
            write_file(path, data, folder)

    def of(self, record: Record) -> frozenset[str]:
        """The digests of all that an image is made of."""
        if record.manifest is None:
            return frozenset((record.id,))
        document = self.path(record.manifest).read_bytes()
        manifest = parse_manifest(document, f"manifest {record.manifest}", self._limits)
        return frozenset((record.id, record.manifest, *manifest.digests))

    @contextlib.contextmanager
    def hold(self, digests: Iterable[str]) -> Generator[None]:
        """Keep blobs from being removed while an image is made that needs them and that is no image yet."""
        held = Counter(digests)
        self._held += held
        try:
            yield
        finally:
            self._held -= held

    def remove(self, digests: Iterable[str], records: Iterable[Record]) -> None:
        """Remove those of some blobs that none of the images in ``records`` needs."""
        for digest in frozenset(digests).difference(self._held, *map(self.of, records)):
            self.path(digest).unlink(missing_ok=True)

    def remove_damaged(self, manifest: bytes) -> None:
        """Remove those blobs of a manifest that are not what their digest says, for the next pull to fetch them."""
        for digest in parse_manifest(manifest, "manifest", self._limits).digests:
            with contextlib.suppress(FileNotFoundError), self.path(digest).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest.removeprefix("sha256:"):
                    self.path(digest).unlink()

    def remove_unused(self, records: Iterable[Record], *, older_than: float = KEPT_SECONDS) -> int:
        """Remove what no image needs, and has been there for that many seconds; the bytes that this frees."""
        needed = {digest for record in records for digest in self.of(record)}.union(self._held)
        freed = 0
        for path in (self.folder / "sha256").iterdir():
            status = path.stat()
            if f"sha256:{path.name}" not in needed and status.st_mtime <= time.time() - older_than:
                path.unlink()
                freed += status.st_size
        return freed
