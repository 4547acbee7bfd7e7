"""How a lab stands, without changing anything about it or waiting for anybody who does."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from zonal.errors import ZonalError
from zonal.lab.paths import LabPaths, cache
from zonal.lab.qemu import NO_SPACE, is_running
from zonal.lab.ready import run_state
from zonal.lab.recipe import recipe
from zonal.lab.source import read_source
from zonal.lab.spec import Spec
from zonal.lab.state import LabState, Snapshot, load

_ANSWER_SECONDS = 5


@dataclass(frozen=True)
class Status:
    """How a lab stands."""

    name: str
    condition: str
    """``absent``, ``asleep`` (down, with a snapshot to resume from), ``down``, ``starting``, ``up``, ``silent`` (runs,
    but zonald does not answer), ``stuck`` (stands still, for there is no space to write) or ``damaged`` (only half
    there)."""
    folder: str
    spec: Spec | None = None
    accelerator: str | None = None
    qemu_pid: int | None = None
    zonald_port: int | None = None
    ssh_port: int | None = None
    zonald_version: str | None = None
    clock_offset: float | None = None
    """Seconds by which the lab's clock is ahead of this machine's."""
    snapshot: Snapshot | None = None
    disk_bytes: int = 0
    """What the lab takes of this machine's disk, without its base disk."""
    recipe_current: bool | None = None
    source_current: bool | None = None


def lab_names() -> list[str]:
    """The labs that there are."""
    return sorted(folder.name for folder in cache().labs.iterdir() if not folder.name.startswith("."))


def status(name: str) -> Status:
    """How the lab stands now."""
    paths = cache().lab(name)
    state = load(paths)
    running = is_running(paths)
    if state is None:
        return Status(name, "damaged" if paths.folder.exists() else "absent", str(paths.folder))
    condition, version, offset = "asleep" if state.snapshot else "down", None, None
    if running:
        condition, version, offset = _ask(paths, state)
    run = state.run if running else None
    source = run.source if run else state.snapshot.source if state.snapshot else None
    return Status(
        name=name,
        condition=condition,
        folder=str(paths.folder),
        spec=state.spec,
        accelerator=run.accelerator if run else None,
        qemu_pid=int(paths.qemu_pid.read_text()) if running and paths.qemu_pid.exists() else None,
        zonald_port=run.zonald_port if run else None,
        ssh_port=run.ssh_port if run else None,
        zonald_version=version,
        clock_offset=offset,
        snapshot=state.snapshot,
        disk_bytes=sum(path.lstat().st_blocks * 512 for path in paths.folder.rglob("*")),
        recipe_current=state.recipe == recipe(state.spec.packages).digest,
        source_current=None if source is None else source == read_source().digest,
    )


def _ask(paths: LabPaths, state: LabState) -> tuple[str, str | None, float | None]:
    from zonal.lab.access import answer, endpoint

    if state.run is None or not state.run.ready:
        return "starting", None, None
    try:
        begin = time.time_ns()
        info = asyncio.run(answer(endpoint(paths, state.run.zonald_port), _ANSWER_SECONDS))
        middle = (begin + time.time_ns()) / 2
    except ZonalError:
        return ("stuck" if run_state(paths) == NO_SPACE else "silent"), None, None
    return "up", info.version, (info.wall_clock_ns - middle) / 1e9
