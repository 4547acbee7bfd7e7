"""What the store knows about its images, in SQLite: small, and safe against a crash at any moment.

Only file names and digests are in it; the files themselves are the store's business.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

_SCHEMA_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE filesystem (
    chain_id TEXT PRIMARY KEY,
    size INTEGER NOT NULL
) STRICT;
CREATE TABLE image (
    id TEXT PRIMARY KEY,
    chain_id TEXT NOT NULL REFERENCES filesystem (chain_id),
    manifest TEXT,
    diff_ids TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    imported_ns INTEGER NOT NULL,
    source TEXT NOT NULL
) STRICT;
CREATE INDEX image_chain ON image (chain_id);
CREATE TABLE reference (
    name TEXT PRIMARY KEY,
    image_id TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX reference_image ON reference (image_id);
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One image."""

    id: str
    """Digest of its configuration."""
    chain_id: str
    manifest: str | None
    """Digest of its manifest, where it came with one."""
    diff_ids: tuple[str, ...]
    created_ns: int
    imported_ns: int
    source: str
    """What it was made from, in the words of who asked."""
    size: int
    """Bytes of its erofs."""
    references: tuple[str, ...] = ()
    """Names in full, in the order of the alphabet."""


class Catalogue:
    """A database of records. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA cache_size = -512;"
        )
        with self._transaction():
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            elif version > _SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"{path} was made by a later version of Zonal")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def images(self) -> list[Record]:
        """Every image, the one imported last first."""
        return self._select("ORDER BY imported_ns DESC, id", ())

    def by_id(self, image_id: str) -> Record | None:
        """The image with this id."""
        return next(iter(self._select("WHERE image.id = ?", (image_id,))), None)

    def by_id_prefix(self, prefix: str, most: int) -> list[Record]:
        """At most ``most`` images whose id begins like this."""
        # Past every hexadecimal digit and before any longer prefix: ids with this prefix are a range of the index.
        return self._select("WHERE image.id >= ? AND image.id < ? LIMIT ?", (prefix, f"{prefix}g", most))

    def by_name(self, name: str) -> Record | None:
        """The image with this reference, in full."""
        found = self._select("WHERE image.id = (SELECT image_id FROM reference WHERE name = ?)", (name,))
        return next(iter(found), None)

    def by_manifest(self, digest: str, repository: str) -> Record | None:
        """The image of this manifest, if one of its references is in ``repository``."""
        for record in self._select("WHERE image.manifest = ?", (digest,)):
            if any(name.startswith((f"{repository}:", f"{repository}@")) for name in record.references):
                return record
        return None

    def filesystem_size(self, chain_id: str) -> int | None:
        """Bytes of the erofs of this chain of layers, if there is one."""
        row = self._database.execute("SELECT size FROM filesystem WHERE chain_id = ?", (chain_id,)).fetchone()
        return row[0] if row else None

    def filesystems(self) -> dict[str, int]:
        """Size in bytes of every erofs by its chain id."""
        return dict(self._database.execute("SELECT chain_id, size FROM filesystem").fetchall())

    def add(self, record: Record) -> None:
        """Add an image, its erofs and its references at once. A reference of another image moves to this one."""
        with self._transaction():
            self._database.execute(
                "INSERT INTO filesystem VALUES (?, ?) ON CONFLICT (chain_id) DO UPDATE SET size = excluded.size",
                (record.chain_id, record.size),
            )
            self._database.execute(
                "INSERT INTO image VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                " manifest = coalesce(excluded.manifest, manifest), imported_ns = excluded.imported_ns",
                (
                    record.id, record.chain_id, record.manifest, json.dumps(record.diff_ids), record.created_ns,
                    record.imported_ns, record.source,
                ),
            )  # fmt: skip
            self._point(record.id, record.references)

    def add_references(self, image_id: str, names: Iterable[str]) -> None:
        """Give an image more names; one of another image moves to it."""
        with self._transaction():
            self._point(image_id, names)

    def remove_reference(self, name: str) -> None:
        """Take a name away from its image."""
        self._database.execute("DELETE FROM reference WHERE name = ?", (name,))

    def remove_image(self, image_id: str) -> bool:
        """Remove an image and its references; whether its erofs is nobody else's and has been removed too."""
        with self._transaction():
            self._database.execute("DELETE FROM image WHERE id = ?", (image_id,))
            removed = self._database.execute(
                "DELETE FROM filesystem WHERE chain_id NOT IN (SELECT chain_id FROM image)"
            ).rowcount
        return removed > 0

    def remove_filesystem(self, chain_id: str) -> None:
        """Remove an erofs and every image that needs it."""
        with self._transaction():
            self._database.execute("DELETE FROM image WHERE chain_id = ?", (chain_id,))
            self._database.execute("DELETE FROM filesystem WHERE chain_id = ?", (chain_id,))

    def _point(self, image_id: str, names: Iterable[str]) -> None:
        self._database.executemany(
            "INSERT INTO reference VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET image_id = excluded.image_id",
            [(name, image_id) for name in names],
        )

    def _select(self, condition: str, values: tuple[Any, ...]) -> list[Record]:
        rows = self._database.execute(
            "SELECT image.id, image.chain_id, manifest, diff_ids, created_ns, imported_ns, source, size,"
            " (SELECT group_concat(name, ' ') FROM reference WHERE image_id = image.id)"
            f" FROM image JOIN filesystem USING (chain_id) {condition}",
            values,
        ).fetchall()
        return [
            Record(
                id=image_id,
                chain_id=chain_id,
                manifest=manifest,
                diff_ids=tuple(json.loads(diff_ids)),
                created_ns=created_ns,
                imported_ns=imported_ns,
                source=source,
                size=size,
                references=tuple(sorted((names or "").split())),
            )
            for image_id, chain_id, manifest, diff_ids, created_ns, imported_ns, source, size, names in rows
        ]

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")
