"""What a kubelet has said of its pods and containers, kept for as long as they are there: it asks for it again.

Zones and workloads have records of their own. Here is what only the CRI knows: names, labels, annotations, and the
configuration as it came. An entry is written before its zone or workload is made, and marked once that is done; so an
entry without a mark, which a killed zonald has left, stands for nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from zonal.cri.api import runtime_pb2 as pb
from zonal.errors import NotFoundError

_T = TypeVar("_T")

_SCHEMA = """\
CREATE TABLE IF NOT EXISTS pods (id TEXT PRIMARY KEY, config BLOB, handler TEXT, made INTEGER, stopped INTEGER);
CREATE TABLE IF NOT EXISTS containers (id TEXT PRIMARY KEY, pod TEXT, config BLOB, image_id TEXT, image_ref TEXT,
  log_path TEXT, made INTEGER);
"""
_SHORTEST_PREFIX = 2


@dataclass(frozen=True)
class PodEntry:
    """A pod's sandbox; its id is its zone's."""

    id: str
    config: pb.PodSandboxConfig
    handler: str = ""
    made: bool = False
    stopped: bool = False
    """Whether it was told to stop: it is not ready from then on."""


@dataclass(frozen=True)
class ContainerEntry:
    """A container; its id is its workload's."""

    id: str
    pod: str
    config: pb.ContainerConfig
    image_id: str = ""
    image_ref: str = ""
    log_path: str = ""
    """Absolute; empty: it has no log."""
    made: bool = False


@dataclass
class CriStore:
    """All of them, in memory and in a database."""

    database: sqlite3.Connection
    pods: dict[str, PodEntry] = field(default_factory=dict[str, PodEntry])
    containers: dict[str, ContainerEntry] = field(default_factory=dict[str, ContainerEntry])

    @classmethod
    def open(cls, path: Path) -> CriStore:
        """What is there, less what was never made."""
        database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000", "cache_size = -256"):
            with closing(database.execute(f"PRAGMA {pragma}")):
                pass
        database.executescript(_SCHEMA)
        for table in ("pods", "containers"):
            database.execute(f"DELETE FROM {table} WHERE NOT made")
        store = cls(database)
        for row in database.execute("SELECT id, config, handler, made, stopped FROM pods ORDER BY rowid"):
            config = pb.PodSandboxConfig.FromString(row[1])
            store.pods[row[0]] = PodEntry(row[0], config, row[2], bool(row[3]), bool(row[4]))
        for row in database.execute(
            "SELECT id, pod, config, image_id, image_ref, log_path, made FROM containers ORDER BY rowid"
        ):
            config = pb.ContainerConfig.FromString(row[2])
            image_id, image_ref, log_path, made = row[3:]
            store.containers[row[0]] = ContainerEntry(row[0], row[1], config, image_id, image_ref, log_path, bool(made))
        return store

    def close(self) -> None:
        """Gives the database back."""
        self.database.close()

    def put_pod(self, entry: PodEntry) -> None:
        """Writes it down, new or changed."""
        self.pods[entry.id] = entry
        self.database.execute(
            "INSERT OR REPLACE INTO pods VALUES (?, ?, ?, ?, ?)",
            (entry.id, entry.config.SerializeToString(), entry.handler, entry.made, entry.stopped),
        )

    def put_container(self, entry: ContainerEntry) -> None:
        """Likewise."""
        self.containers[entry.id] = entry
        self.database.execute(
            "INSERT OR REPLACE INTO containers VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(entry.id, entry.pod, entry.config.SerializeToString(), entry.image_id, entry.image_ref),
                *(entry.log_path, entry.made),
            ),
        )

    def remove_pod(self, pod_id: str) -> None:
        """With its containers."""
        for each in tuple(self.containers_of(pod_id)):
            self.remove_container(each.id)
        self.pods.pop(pod_id, None)
        self.database.execute("DELETE FROM pods WHERE id = ?", (pod_id,))

    def remove_container(self, container_id: str) -> None:
        """One that is not there is removed already."""
        self.containers.pop(container_id, None)
        self.database.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def mark_stopped(self, pod_id: str) -> None:
        """It is not ready any more."""
        entry = self.pods.get(pod_id)
        if entry is not None and not entry.stopped:
            self.put_pod(replace(entry, stopped=True))

    def containers_of(self, pod_id: str) -> Iterator[ContainerEntry]:
        """Those of a pod."""
        return (each for each in tuple(self.containers.values()) if each.pod == pod_id)

    def find_pod(self, ref: str) -> PodEntry:
        """By id, or a beginning of one that no other has. Raises ``NotFoundError``."""
        return _find("pod sandbox", {each.id: each for each in self.pods.values() if each.made}, ref)

    def find_container(self, ref: str) -> ContainerEntry:
        """Likewise."""
        return _find("container", {each.id: each for each in self.containers.values() if each.made}, ref)


def _find(what: str, entries: dict[str, _T], ref: str) -> _T:
    if (entry := entries.get(ref)) is not None:
        return entry
    found = [each for key, each in entries.items() if key.startswith(ref)] if len(ref) >= _SHORTEST_PREFIX else []
    if len(found) != 1:
        raise NotFoundError(f"there is no {what} {ref[:80]!r}" if not found else f"{ref!r} is several {what}s")
    return found[0]
