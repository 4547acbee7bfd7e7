"""What a zone says that its kernel counts of a container. It may say anything: so numbers are bounded, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import cast

_MOST = (1 << 63) - 1
_KINDS = ("some", "full")
_RESOURCES = ("cpu", "memory", "io")
_PER_CENT = 100
"""Shares come in hundredths of a per cent."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """How much of the time tasks have waited for something: Linux, accounting/psi.rst."""

    average_10: float
    """Per cent of the last 10 seconds."""
    average_60: float
    average_300: float
    total_ns: int


Pressures = Mapping[str, Mapping[str, Pressure]]
"""By what is waited for (``cpu``, ``memory``, ``io``), then ``some`` or ``full``; empty where nobody counts."""


@dataclass(frozen=True, slots=True)
class ContainerFigures:
    """Times in ns, sizes in bytes, since the container's start; None: its kernel does not count it, or no limit is set.

    Linux, cgroup-v2.rst.
    """

    cpu_usage_ns: int | None = None
    cpu_user_ns: int | None = None
    cpu_system_ns: int | None = None
    cpu_periods: int | None = None
    cpu_throttled_periods: int | None = None
    cpu_throttled_ns: int | None = None
    memory_usage: int | None = None
    memory_peak: int | None = None
    memory_limit: int | None = None
    memory_limit_hits: int | None = None
    memory_anon: int | None = None
    memory_file: int | None = None
    memory_mapped: int | None = None
    memory_kernel: int | None = None
    memory_inactive_file: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    oom_kills: int | None = None
    swap_usage: int | None = None
    swap_limit: int | None = None
    processes: int | None = None
    threads: int | None = None
    threads_limit: int | None = None
    file_descriptors: int | None = None
    sockets: int | None = None
    disk_read_bytes: int | None = None
    disk_written_bytes: int | None = None
    disk_reads: int | None = None
    disk_writes: int | None = None
    layer_size: int | None = None
    """Of the file system that its writable layer is."""
    layer_used: int | None = None
    layer_inodes: int | None = None
    layer_inodes_used: int | None = None
    pressure: Pressures = field(default_factory=dict[str, dict[str, Pressure]])

    @property
    def working_set(self) -> int | None:
        """What cannot be taken back at once: what it uses, less its cache of files that nobody has asked for lately."""
        if self.memory_usage is None:
            return None
        return max(self.memory_usage - (self.memory_inactive_file or 0), 0)


_NAMES = tuple(each.name for each in fields(ContainerFigures) if each.name != "pressure")


def parse_figures(said: object) -> ContainerFigures | None:
    """What ``statistics`` has under ``figures``; None when there is nothing of the kind, as from an older agent."""
    if not isinstance(said, Mapping):
        return None
    values = cast("Mapping[object, object]", said)
    numbers = {name: number for name in _NAMES if (number := _number(values.get(name))) is not None}
    return ContainerFigures(**numbers, pressure=_pressures(values.get("pressure")))


def _pressures(said: object) -> Pressures:
    found: dict[str, dict[str, Pressure]] = {}
    for resource in _RESOURCES:
        kinds = _get(said, resource)
        for kind in _KINDS:
            values = _get(kinds, kind)
            if not isinstance(values, list | tuple):
                continue
            numbers = [_number(each) for each in cast("list[object]", values)[:4]]
            tens, minutes, longer, total = (numbers + [None] * 4)[:4]
            if tens is None or minutes is None or longer is None or total is None:
                continue
            found.setdefault(resource, {})[kind] = Pressure(_share(tens), _share(minutes), _share(longer), total)
    return found


def _share(hundredths: int) -> float:
    return min(hundredths / _PER_CENT, 100.0)


def _get(said: object, name: str) -> object:
    return cast("Mapping[object, object]", said).get(name) if isinstance(said, Mapping) else None


def _number(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, 0), _MOST)
    return None
