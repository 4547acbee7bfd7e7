"""What containers and pods use, as the kubelet asks (the CRI's ContainerStats and PodSandboxStats, and their lists).

A container's figures are those of its control group in the zone. A pod's are those of the whole zone, with its kernel:
the CPU time that the hypervisor counts, the memory that its agent counts, and what went through its interface.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.metric_kinds import INTERFACE
from zonal.cri.pods import selected
from zonal.cri.rates import Rates
from zonal.cri.records import ContainerEntry, CriStore, PodEntry
from zonal.errors import NotFoundError, ZonalError
from zonal.zones.figures import ContainerFigures, Pressure
from zonal.zones.spec import ZoneService, ZoneStatistics

AT_ONCE: Final = 16
"""Zones that are asked at the same time, so that one that does not answer keeps few others waiting."""

_Entry = TypeVar("_Entry")
_Answer = TypeVar("_Answer")


class Stats:
    """See the module. ``folder``: on the file system that has the zones' scratch disks."""

    def __init__(self, store: CriStore, zones: ZoneService, folder: Path) -> None:
        self._store = store
        self._zones = zones
        self._folder = folder
        self._rates = Rates()
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def container(self, ref: str) -> pb.ContainerStats:
        """Of one. Raises ``NotFoundError``."""
        return await self._container(self._store.find_container(ref))

    async def containers(self, wanted: pb.ContainerStatsFilter) -> list[pb.ContainerStats]:
        """Of those that are wanted; what goes meanwhile is left out."""
        entries = [
            entry
            for entry in self._store.containers.values()
            if entry.made
            and entry.id.startswith(wanted.id)
            and entry.pod.startswith(wanted.pod_sandbox_id)
            and selected(entry.config.labels, wanted.label_selector)
        ]
        return await self._all(entries, self._container)

    async def pod(self, ref: str) -> pb.PodSandboxStats:
        """Of one. Raises ``NotFoundError``."""
        return await self._pod(self._store.find_pod(ref))

    async def pods(self, wanted: pb.PodSandboxStatsFilter) -> list[pb.PodSandboxStats]:
        """Of those that are wanted; what goes meanwhile is left out."""
        entries = [
            entry
            for entry in self._store.pods.values()
            if entry.made and entry.id.startswith(wanted.id) and selected(entry.config.labels, wanted.label_selector)
        ]
        return await self._all(entries, self._pod)

    async def measure(self, ref: str) -> ZoneStatistics | None:
        """Of a zone, or of a workload in one; None of one that does not run, or does not answer."""
        try:
            async with self._slots:
                return await self._zones.statistics(ref)
        except ZonalError:
            return None

    async def _all(self, entries: Iterable[_Entry], measure: Callable[[_Entry], Awaitable[_Answer]]) -> list[_Answer]:
        async def one(entry: _Entry) -> _Answer | None:
            try:
                return await measure(entry)
            except NotFoundError:
                return None

        answers = await asyncio.gather(*(one(entry) for entry in entries))
        self._rates.keep_only(self._store.pods.keys() | self._store.containers.keys())
        return [answer for answer in answers if answer is not None]

    async def _container(self, entry: ContainerEntry) -> pb.ContainerStats:
        return await self._container_stats(entry, await self.measure(entry.id))

    async def _container_stats(self, entry: ContainerEntry, used: ZoneStatistics | None) -> pb.ContainerStats:
        now = time.time_ns()
        stats = pb.ContainerStats(
            attributes=pb.ContainerAttributes(
                id=entry.id,
                metadata=entry.config.metadata,
                labels=entry.config.labels,
                annotations=entry.config.annotations,
            )
        )
        if used is not None:
            figures = used.figures or ContainerFigures()
            stats.cpu.CopyFrom(self._cpu(entry.id, used, figures, now))
            stats.memory.CopyFrom(_memory(used, figures, now))
            stats.swap.CopyFrom(_swap(figures, now))
            if (pressure := _pressure(figures.pressure.get("io"))) is not None:
                stats.io.CopyFrom(pb.IoUsage(timestamp=now, psi=pressure))
        stats.writable_layer.CopyFrom(await self._layer(entry, used, now))
        return stats

    async def _pod(self, entry: PodEntry) -> pb.PodSandboxStats:
        inside = [each for each in self._store.containers_of(entry.id) if each.made]
        used, *parts = await asyncio.gather(*(self.measure(each.id) for each in (entry, *inside)))
        containers = [await self._container_stats(each, part) for each, part in zip(inside, parts, strict=True)]
        now = time.time_ns()
        stats = pb.PodSandboxStats(
            attributes=pb.PodSandboxAttributes(
                id=entry.id,
                metadata=entry.config.metadata,
                labels=entry.config.labels,
                annotations=entry.config.annotations,
            ),
            linux=pb.LinuxPodSandboxStats(containers=containers),
        )
        if used is not None:
            linux = stats.linux
            linux.cpu.CopyFrom(self._cpu(entry.id, used, ContainerFigures(), now))
            linux.memory.CopyFrom(_memory(used, ContainerFigures(), now))
            linux.network.CopyFrom(_network(used, now))
            linux.process.CopyFrom(pb.ProcessUsage(timestamp=now, process_count=_value(sum(map(_processes, parts)))))
        return stats

    def _cpu(self, key: str, used: ZoneStatistics, figures: ContainerFigures, now: int) -> pb.CpuUsage:
        usage = pb.CpuUsage(timestamp=now, usage_core_nano_seconds=_value(used.cpu_time_ns))
        if (rate := self._rates.take(key, used.time_ns, used.cpu_time_ns)) is not None:
            usage.usage_nano_cores.value = rate
        if (pressure := _pressure(figures.pressure.get("cpu"))) is not None:
            usage.psi.CopyFrom(pressure)
        return usage

    async def _layer(self, entry: ContainerEntry, used: ZoneStatistics | None, now: int) -> pb.FilesystemUsage:
        """What its disk and its logs take here, or more by the zone's word: it cannot hide what it takes."""
        figures = used.figures if used is not None else None
        usage = pb.FilesystemUsage(timestamp=now, fs_id=pb.FilesystemIdentifier(mountpoint=str(self._folder)))
        taken = 0
        with suppress(NotFoundError, OSError):  # it goes at this moment
            taken = await self._zones.disk_usage(entry.id)
        said = figures.layer_used if figures is not None else None
        usage.used_bytes.value = max(taken, said or 0)
        if figures is not None and figures.layer_inodes_used is not None:
            usage.inodes_used.value = figures.layer_inodes_used
        return usage


def _processes(used: ZoneStatistics | None) -> int:
    if used is None:
        return 0
    return used.processes if used.figures is None else used.figures.processes or 0


def _memory(used: ZoneStatistics, figures: ContainerFigures, now: int) -> pb.MemoryUsage:
    working = figures.working_set if figures.working_set is not None else used.memory_bytes
    usage = pb.MemoryUsage(
        timestamp=now,
        working_set_bytes=_value(working),
        available_bytes=_value(max(used.memory_limit_bytes - working, 0)),
        usage_bytes=_value(figures.memory_usage if figures.memory_usage is not None else used.memory_bytes),
    )
    for field, value in (
        (usage.rss_bytes, figures.memory_anon),
        (usage.page_faults, figures.page_faults),
        (usage.major_page_faults, figures.major_page_faults),
    ):
        if value is not None:
            field.value = value
    if (pressure := _pressure(figures.pressure.get("memory"))) is not None:
        usage.psi.CopyFrom(pressure)
    return usage


def _swap(figures: ContainerFigures, now: int) -> pb.SwapUsage:
    """Zones have none, unless their kernels say so."""
    used = figures.swap_usage or 0
    available = max((figures.swap_limit or 0) - used, 0)
    return pb.SwapUsage(timestamp=now, swap_usage_bytes=_value(used), swap_available_bytes=_value(available))


def _network(used: ZoneStatistics, now: int) -> pb.NetworkUsage:
    interface = pb.NetworkInterfaceUsage(
        name=INTERFACE,
        rx_bytes=_value(used.traffic.received.bytes),
        rx_errors=_value(used.traffic.received.errors),
        tx_bytes=_value(used.traffic.sent.bytes),
        tx_errors=_value(used.traffic.sent.errors),
    )
    return pb.NetworkUsage(timestamp=now, default_interface=interface, interfaces=[interface])


def _pressure(kinds: Mapping[str, Pressure] | None) -> pb.PsiStats | None:
    if not kinds:
        return None
    return pb.PsiStats(
        **{
            name: pb.PsiData(
                Total=kinds[kind].total_ns,
                Avg10=kinds[kind].average_10,
                Avg60=kinds[kind].average_60,
                Avg300=kinds[kind].average_300,
            )
            for name, kind in (("Full", "full"), ("Some", "some"))
            if kind in kinds
        }
    )


def _value(number: int) -> pb.UInt64Value:
    return pb.UInt64Value(value=number)
