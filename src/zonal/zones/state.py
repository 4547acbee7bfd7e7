"""The records of all zones, in SQLite with a write-ahead log.

A zone is recorded before anything is made for it, so that after the daemon was killed at any point the next one can
finish or undo what is half made. One process at a time uses the file; who that is, is the daemon's to see to.
"""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

from zonal.devices.host_devices import WantedDevice
from zonal.errors import AlreadyExistsError, InvalidInputError, NotFoundError, UnavailableError
from zonal.network.ports import Port
from zonal.zones.boot_log import BootStep
from zonal.zones.health import check_from, health_from
from zonal.zones.mounts import Attached, Mount, MountKind
from zonal.zones.network_spec import NetworkSpec
from zonal.zones.plain import from_plain
from zonal.zones.resources import Resources
from zonal.zones.restart import Restarts, policy_from
from zonal.zones.runtime_options import RuntimeOptions
from zonal.zones.spec import SHORT_ID, LogLimits, Phase, TerminalSize, ZoneRecord, ZoneSpec, ZoneState

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE zones (
    id TEXT PRIMARY KEY CHECK (length(id) = 64),
    name TEXT NOT NULL UNIQUE,
    created_ns INTEGER NOT NULL,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID
"""
_SHARED = "json_extract(record, '$.spec.zone')"
INDEX = f"CREATE INDEX IF NOT EXISTS zones_shared ON zones ({_SHARED}) WHERE {_SHARED} <> ''"
"""Of the workloads in zones that they share; an older Zonal keeps it up without knowing it."""
_UNIQUE_NAME = "zones.name"
_MOST_DECODED = 512
"""Records that are kept in memory, of 10 KB or so."""
_Decoded = ZoneRecord | ZoneSpec | Attached | Mount | NetworkSpec | Port | Resources | Restarts


class NameTakenError(AlreadyExistsError):
    """Another zone has the name; one that was made up can be made up anew."""


class ZoneStore:
    """The records. Calls are short and synchronous: one small transaction each, without waiting for the disk."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._decoded: OrderedDict[str, tuple[str, ZoneRecord]] = OrderedDict()
        """Those that were asked for last, by id, with the text that they are of: one is asked for many times."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the file, or makes it. Raises ``UnavailableError`` when it cannot be read."""
        try:
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise UnavailableError(f"the zones' records cannot be opened: {path}: {error}") from error
        try:
            path.chmod(0o600)
            _prepare(database, path)
        except sqlite3.Error as error:
            database.close()
            raise UnavailableError(
                f"the zones' records cannot be read: {path}: {error}",
                hint="stop zonald, move the file away and start zonald again; zones that run now are then lost to it",
            ) from error
        except BaseException:
            database.close()
            raise
        return cls(database)

    def close(self) -> None:
        """Folds the log into the file and closes it."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, record: ZoneRecord) -> None:
        """Records a new zone. Raises ``NameTakenError``."""
        try:
            self._database.execute(
                "INSERT INTO zones VALUES (?, ?, ?, ?)",
                (record.id, record.name, record.created_ns, encode_record(record)),
            )
        except sqlite3.IntegrityError as error:
            if _UNIQUE_NAME not in str(error):
                raise
            holder = self.find(record.name)
            raise NameTakenError(
                f"the name {record.name!r} is in use by zone {holder.id[:SHORT_ID]}",
                hint=f"choose another with --name, or remove that zone: zonal zone rm -f {record.name}",
            ) from error

    def update(self, zone_id: str, **changes: Any) -> ZoneRecord:
        """Replaces fields of a record, but for its spec, and returns it. Raises ``NotFoundError``."""
        if "spec" in changes:
            raise TypeError("a zone's spec is changed by change_spec")
        return self._change(zone_id, lambda record: replace(record, **changes))

    def change_spec(self, zone_id: str, **changes: Any) -> ZoneRecord:
        """Replaces fields of a spec, but for its id and name, and returns the record. Raises ``NotFoundError``."""
        return self._change(zone_id, lambda record: replace(record, spec=replace(record.spec, **changes)))

    def rename(self, zone_id: str, name: str) -> ZoneRecord:
        """Gives a zone another name. Raises ``NotFoundError``, and ``AlreadyExistsError`` when the name is taken."""
        record = self.get(zone_id)
        record = replace(record, spec=replace(record.spec, name=name))
        try:
            self._database.execute(
                "UPDATE zones SET name = ?, record = ? WHERE id = ?", (name, encode_record(record), zone_id)
            )
        except sqlite3.IntegrityError as error:
            if _UNIQUE_NAME not in str(error):
                raise
            raise AlreadyExistsError(f"the name {name!r} is in use by another zone", hint="choose another") from error
        return record

    def add_resource(self, zone_id: str, kind: str, name: str) -> ZoneRecord:
        """Notes something about to be made for a zone, so that it can be undone. Raises ``NotFoundError``."""
        return self._change(zone_id, lambda record: replace(record, resources=(*record.resources, (kind, name))))

    def drop_resource(self, zone_id: str, kind: str, name: str) -> ZoneRecord:
        """Forgets something that is gone again. Raises ``NotFoundError`` for an unknown zone."""
        gone = (kind, name)
        return self._change(
            zone_id, lambda record: replace(record, resources=tuple(r for r in record.resources if r != gone))
        )

    def get(self, zone_id: str) -> ZoneRecord:
        """The record with this full id. Raises ``NotFoundError``."""
        record = self._by_id(zone_id)
        if record is None:
            raise no_such_zone(zone_id)
        return record

    def find(self, ref: str) -> ZoneRecord:
        """The zone with this id, name, or unique beginning of an id; in that order.

        Raises ``NotFoundError``, or ``InvalidInputError`` when several ids begin so.
        """
        if (found := self._by_id(ref)) is not None:
            return found
        row = self._database.execute("SELECT id, record FROM zones WHERE name = ?", (ref,)).fetchone()
        if row is not None:
            return self._decode(*row)
        if not ref or not set(ref) <= set("0123456789abcdef"):
            raise no_such_zone(ref)
        rows = self._database.execute(
            "SELECT id, record FROM zones WHERE id >= ? AND id < ? ORDER BY id LIMIT 3", (ref, ref + "g")
        ).fetchall()
        if not rows:
            raise no_such_zone(ref)
        if len(rows) > 1:
            ids = ", ".join(row[0][:SHORT_ID] for row in rows)
            raise InvalidInputError(f"{ref!r} is the beginning of several zones' ids: {ids}", hint="give more of it")
        return self._decode(*rows[0])

    def list(self) -> list[ZoneRecord]:
        """All records, the oldest first."""
        rows = self._database.execute("SELECT id, record FROM zones ORDER BY created_ns, id").fetchall()
        return [self._decode(*row) for row in rows]

    def sharing(self, zone_id: str) -> list[ZoneRecord]:
        """The workloads in a zone that they share, the oldest first, also those that have ended."""
        query = f"SELECT id, record FROM zones WHERE {_SHARED} = ? AND {_SHARED} <> '' ORDER BY created_ns, id"
        return [self._decode(*row) for row in self._database.execute(query, (zone_id,)).fetchall()]

    def remove(self, zone_id: str) -> None:
        """Forgets a zone; one that is not there is fine."""
        self._database.execute("DELETE FROM zones WHERE id = ?", (zone_id,))
        self._decoded.pop(zone_id, None)

    def _by_id(self, zone_id: str) -> ZoneRecord | None:
        row = self._database.execute("SELECT id, record FROM zones WHERE id = ?", (zone_id,)).fetchone()
        return None if row is None else self._decode(*row)

    def _decode(self, zone_id: str, text: str) -> ZoneRecord:
        known = self._decoded.get(zone_id)
        return self._keep(text, known[1] if known is not None and known[0] == text else decode_record(text))

    def _keep(self, text: str, record: ZoneRecord) -> ZoneRecord:
        zone_id = record.id
        self._decoded[zone_id] = (text, record)
        self._decoded.move_to_end(zone_id)
        if len(self._decoded) > _MOST_DECODED:
            self._decoded.popitem(last=False)
        return record

    def _change(self, zone_id: str, change: Callable[[ZoneRecord], ZoneRecord]) -> ZoneRecord:
        before = self.get(zone_id)
        record = change(before)
        if record == before:
            return before
        text = encode_record(record)
        self._database.execute("UPDATE zones SET record = ? WHERE id = ?", (text, zone_id))
        return self._keep(text, record)


def no_such_zone(ref: str) -> NotFoundError:
    """The error for a reference that names no zone."""
    return NotFoundError(f"there is no zone {ref!r}", hint="zonal zone ls -a lists them all")


def encode_record(record: ZoneRecord) -> str:
    """The record as JSON."""
    return json.dumps(record, default=_fields_of, ensure_ascii=False, separators=(",", ":"))


def _fields_of(value: object) -> dict[str, Any]:
    """Of what JSON does not know, which are dataclasses: ``asdict`` would copy all that is in them first."""
    if is_dataclass(value):
        # Those with slots have no dictionary.
        return (
            vars(value)
            if hasattr(value, "__dict__")
            else {each.name: getattr(value, each.name) for each in fields(value)}
        )
    raise TypeError(f"{type(value).__name__} in a zone's record")


def decode_record(text: str) -> ZoneRecord:
    """The record of what ``encode_record`` made; a field that is not there has its default."""
    values = _known(ZoneRecord, json.loads(text))
    values["spec"] = _decode_spec(values["spec"])
    values["state"] = ZoneState(values["state"])
    values["phases"] = tuple(Phase(**phase) for phase in values.get("phases", ()))
    values["boot_steps"] = tuple(BootStep(**step) for step in values.get("boot_steps", ()))
    values["resources"] = tuple((kind, name) for kind, name in values.get("resources", ()))
    values["attached"] = tuple(_decode_attached(each) for each in values.get("attached", ()))
    values["addresses"] = tuple(values.get("addresses", ()))
    values["ports"] = tuple(_decode_port(each) for each in values.get("ports", ()))
    values["restarts"] = Restarts(**_known(Restarts, values.get("restarts", {})))
    values["health"] = health_from(values.get("health"))
    values["disks"] = tuple(values.get("disks", ("", "")))
    return ZoneRecord(**values)


def _decode_spec(data: dict[str, Any]) -> ZoneSpec:
    values = _known(ZoneSpec, data)
    values["command"] = tuple(values["command"])
    values["env"] = tuple(values["env"])
    values["terminal_size"] = TerminalSize(**values.get("terminal_size", {}))
    values["mounts"] = tuple(_decode_mount(each) for each in values.get("mounts", ()))
    values["network"] = _decode_network(values.get("network", {}))
    values["log"] = LogLimits(**values.get("log", {}))
    # Records had two of its values in the spec itself.
    before = {name: data[key] for name, key in (("memory", "memory_bytes"), ("cpus", "cpus")) if key in data}
    values["resources"] = Resources(**_known(Resources, data.get("resources", before)))
    values["runtime"] = from_plain(RuntimeOptions, values.get("runtime", {}))
    values["labels"] = tuple((name, value) for name, value in values.get("labels", ()))
    values["exposed_ports"] = tuple(values.get("exposed_ports", ()))
    values["restart"] = policy_from(values.get("restart", {}))
    values["health"] = check_from(values.get("health"))
    values["pci"] = tuple(from_plain(WantedDevice, each) for each in values.get("pci", ()))
    return ZoneSpec(**values)


def _decode_network(data: Any) -> NetworkSpec:
    values = _known(NetworkSpec, data)
    for name in ("dns", "dns_search", "dns_options"):
        values[name] = tuple(values.get(name, ()))
    values["ports"] = tuple(_decode_port(each) for each in values.get("ports", ()))
    for name in ("hosts", "arguments"):
        values[name] = tuple((first, second) for first, second in values.get(name, ()))
    return NetworkSpec(**values)


def _decode_port(data: Any) -> Port:
    return Port(**_known(Port, data))


def _decode_attached(data: Any) -> Attached:
    values = _known(Attached, data)
    values["mount"] = _decode_mount(values["mount"])
    return Attached(**values)


def _decode_mount(data: Any) -> Mount:
    values = _known(Mount, data)
    values["kind"] = MountKind(values["kind"])
    values["options"] = tuple(values.get("options", ()))
    return Mount(**values)


def _known(cls: type[_Decoded], data: Any) -> dict[str, Any]:
    names = {field.name for field in fields(cls)}
    return {key: value for key, value in cast("dict[str, Any]", data).items() if key in names}


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    # NORMAL outlives a kill of the process at any point; only a crash of the whole host may lose the last commits,
    # and then the domains are gone as well.
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000", "cache_size = -256"):
        with closing(database.execute(f"PRAGMA {pragma}")):
            pass
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise UnavailableError(
            f"the zones' records are of version {version}, and this Zonal knows {SCHEMA_VERSION}: {path}",
            hint="run the newer Zonal that made them",
        )
    if version == 0:
        database.execute("BEGIN IMMEDIATE")
        database.execute(SCHEMA)
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        database.execute("COMMIT")
    database.execute(INDEX)
