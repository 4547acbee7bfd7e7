"""What is known about a lab between two commands: one JSON file, replaced in one step.

It names the snapshot that counts. A snapshot in the disks that it does not name was never finished, or is out of date.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from zonal.errors import WrongStateError
from zonal.lab.paths import LabPaths
from zonal.lab.spec import Spec

_FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """A saved moment of the lab: its disks, its memory and its devices together."""

    tag: str
    """Its name in the qcow2 files."""
    machine: str
    """Digest of the virtual machine that it fits, QEMU's version included."""
    source: str
    """Digest of the Zonal source in it."""
    taken: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Run:
    """A QEMU that was started; whether it still runs, only its lock tells."""

    zonald_port: int
    ssh_port: int
    source: str
    """Digest of the Zonal source in it."""
    ready: bool
    """Whether zonald has answered."""
    machine: str
    """Digest of the virtual machine, as in `Snapshot`."""
    accelerator: str


@dataclass(frozen=True)
class LabState:
    """All that is known about a lab. ``run`` is None after an orderly end."""

    spec: Spec
    recipe: str
    base: str
    """Identity of the base disk under the root disk: built again, the same recipe gives another disk."""
    snapshot: Snapshot | None = None
    run: Run | None = None


def load(paths: LabPaths) -> LabState | None:
    """The lab's state; None when there is no lab, or only half of one.

    Raises `WrongStateError` for a lab that another version of Zonal keeps in another way.
    """
    try:
        raw: object = json.loads(paths.state.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    if not isinstance(raw, dict):
        return None
    fields = cast("dict[str, object]", raw)
    found = fields.get("format")
    if isinstance(found, int) and found != _FORMAT:
        raise WrongStateError(
            f"the lab {paths.name} was made by another version of Zonal (format {found}, this one has {_FORMAT})",
            hint=f"use that version, or remove the lab and all images in it: zonal lab destroy --name {paths.name}",
        )
    try:
        return _from_json(fields)
    except (KeyError, TypeError, AttributeError):
        return None


def save(paths: LabPaths, state: LabState) -> None:
    """Replaces the lab's state, durably."""
    temporary = paths.state.with_suffix(".new")
    with temporary.open("w") as file:
        json.dump({"format": _FORMAT, **asdict(state)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(paths.state)
    _sync_folder(paths.folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _from_json(raw: dict[str, object]) -> LabState:
    spec = cast("dict[str, object]", raw["spec"])
    snapshot = cast("dict[str, object] | None", raw["snapshot"])
    run = cast("dict[str, object] | None", raw["run"])
    return LabState(
        spec=Spec(
            memory_bytes=_number(spec["memory_bytes"]),
            cpus=_number(spec["cpus"]),
            devices=_texts(spec["devices"]),
            packages=_texts(spec["packages"]),
        ),
        recipe=_text(raw["recipe"]),
        base=_text(raw["base"]),
        snapshot=None
        if snapshot is None
        else Snapshot(
            tag=_text(snapshot["tag"]),
            machine=_text(snapshot["machine"]),
            source=_text(snapshot["source"]),
            taken=_moment(snapshot["taken"]),
        ),
        run=None
        if run is None
        else Run(
            zonald_port=_number(run["zonald_port"]),
            ssh_port=_number(run["ssh_port"]),
            source=_text(run["source"]),
            ready=bool(run["ready"]),
            machine=_text(run["machine"]),
            accelerator=_text(run["accelerator"]),
        ),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(value)
    return tuple(_text(item) for item in cast("list[object]", value))


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(value)
    return value


def _moment(value: object) -> float:
    if not isinstance(value, int | float):
        raise TypeError(value)
    return float(value)
