"""Pods' and containers' metrics as the kubelet hands them to monitoring (ListPodSandboxMetrics)."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.metric_kinds import ALL, OF_CONTAINERS, OF_PODS, Measured
from zonal.cri.records import ContainerEntry, CriStore, PodEntry
from zonal.cri.stats import Stats
from zonal.errors import NotFoundError
from zonal.zones.figures import ContainerFigures
from zonal.zones.spec import ZoneService


class Metrics:
    """See the module."""

    def __init__(self, store: CriStore, zones: ZoneService, stats: Stats) -> None:
        self._store = store
        self._zones = zones
        self._stats = stats

    @staticmethod
    def descriptors() -> list[pb.MetricDescriptor]:
        """What there can be."""
        return [kind.descriptor for kind in ALL]

    async def pods(self) -> list[pb.PodSandboxMetrics]:
        """Of all pods that run."""
        entries = [entry for entry in self._store.pods.values() if entry.made]
        answers = await asyncio.gather(*map(self._pod, entries))
        return [answer for answer in answers if answer is not None]

    async def _pod(self, entry: PodEntry) -> pb.PodSandboxMetrics | None:
        inside = [each for each in self._store.containers_of(entry.id) if each.made]
        measured = await self._measured(entry.id, None)
        if measured is None:
            return None
        containers = await asyncio.gather(*(self._container(entry, each) for each in inside))
        metadata, now = entry.config.metadata, time.time_ns()
        labels = ("", entry.id, "", entry.id, metadata.namespace, metadata.name)
        return pb.PodSandboxMetrics(
            pod_sandbox_id=entry.id,
            metrics=[metric for kind in OF_PODS for metric in kind.metrics(measured, labels, now)],
            container_metrics=[each for each in containers if each is not None],
        )

    async def _container(self, pod: PodEntry, entry: ContainerEntry) -> pb.ContainerMetrics | None:
        measured = await self._measured(entry.id, entry.config)
        if measured is None:
            return None
        metadata, now = pod.config.metadata, time.time_ns()
        image = entry.config.image.user_specified_image or entry.config.image.image
        labels = (entry.config.metadata.name, entry.id, image, entry.id, metadata.namespace, metadata.name)
        return pb.ContainerMetrics(
            container_id=entry.id,
            metrics=[metric for kind in OF_CONTAINERS for metric in kind.metrics(measured, labels, now)],
        )

    async def _measured(self, ref: str, config: pb.ContainerConfig | None) -> Measured | None:
        used, started = await self._stats.measure(ref), 0
        if used is None:
            return None
        with suppress(NotFoundError):
            started = (await self._zones.find(ref)).started_ns
        return Measured(used, started, config, used.figures or ContainerFigures())
