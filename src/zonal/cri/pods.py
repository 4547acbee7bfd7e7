"""Pod sandboxes: each a zone that houses the pod's containers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.pod_network import PodNetwork
from zonal.cri.pod_spec import check_handler, check_metadata, pod_request, pod_size
from zonal.cri.records import CriStore, PodEntry
from zonal.daemon.requested import RequestedZones
from zonal.errors import AlreadyExistsError, NotFoundError, WrongStateError
from zonal.zones.resources import ResourceChange
from zonal.zones.spec import ZoneRecord, ZoneService, ZoneState, ZoneUpdate

_Key = tuple[str, str, str, int]
LOOK_SECONDS = 60.0
"""Between two looks after the networks of all pods."""


class Pods:
    """See the module. Every call may come twice, or again after the kubelet gave up waiting."""

    def __init__(self, store: CriStore, zones: ZoneService, requested: RequestedZones, network: PodNetwork) -> None:
        self._store = store
        self._zones = zones
        self._requested = requested
        self._network = network
        self._making: dict[_Key, asyncio.Lock] = {}

    async def run(self, config: pb.PodSandboxConfig, handler: str) -> PodEntry:
        """A sandbox that is ready. The same one for the same request, as long as it is ready.

        Raises ``InvalidInputError``, ``UnsupportedError``, ``AlreadyExistsError``, and what making a zone raises;
        nothing is left then, nor when the call is cancelled.
        """
        check_metadata(config)
        check_handler(handler)
        request = pod_request(config)
        chosen = self._network.choose(request)
        key = _key(config)
        lock = self._making.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                if (there := self._named(key)) is not None:
                    if there.config == config and await self.ready(there):
                        return there
                    raise AlreadyExistsError(
                        f"there is a sandbox of pod {config.metadata.namespace}/{config.metadata.name}, attempt "
                        f"{config.metadata.attempt}, already: {there.id[:12]}",
                        hint="remove it, or count the attempt up",
                    )
                spec = await self._requested.resolve(request)
                spec = replace(spec, network=self._network.for_pod(spec.network, spec.id, config, chosen))
                entry = PodEntry(spec.id, config, handler)
                self._store.put_pod(entry)
                try:
                    zone = await self._zones.run(spec, arrived_ns=time.monotonic_ns())
                    await zone.detach()
                except BaseException:
                    self._store.remove_pod(entry.id)
                    raise
                entry = replace(entry, made=True)
                self._store.put_pod(entry)
                return entry
        finally:
            if not lock.locked():
                self._making.pop(key, None)

    async def stop(self, ref: str) -> PodEntry | None:
        """Ends a sandbox with all that is in it; one that is not there has ended."""
        try:
            entry = self._store.find_pod(ref)
        except NotFoundError:
            return None
        self._store.mark_stopped(entry.id)
        with suppress(NotFoundError):
            await self._zones.stop(entry.id, 0)
        return entry

    async def remove(self, ref: str) -> PodEntry | None:
        """Removes a sandbox with all that is in it, and ends it first if need be."""
        entry = await self.stop(ref)
        if entry is not None:
            with suppress(NotFoundError):
                await self._zones.remove(entry.id, force=True)
            self._store.remove_pod(entry.id)
            self._network.forget(entry.id)
        return entry

    async def ready(self, entry: PodEntry) -> bool:
        """Whether containers can be started in it."""
        return self._state(entry, await self.record(entry)) == pb.SANDBOX_READY

    async def check_ready(self, entry: PodEntry) -> None:
        """Raises ``WrongStateError`` for one that is not."""
        if not await self.ready(entry):
            raise WrongStateError(f"the sandbox {entry.id[:12]} is not ready")

    async def record(self, entry: PodEntry) -> ZoneRecord | None:
        """Its zone's; none when somebody has removed that by other ways."""
        with suppress(NotFoundError):
            return await self._zones.find(entry.id)
        return None

    async def status(self, entry: PodEntry) -> pb.PodSandboxStatus:
        """All that is known of it."""
        record = await self.record(entry)
        linux = entry.config.linux.security_context.namespace_options
        addresses = [each.partition("/")[0] for each in record.addresses] if record is not None else []
        ips = [pb.PodIP(ip=each) for each in addresses[1:]]
        return pb.PodSandboxStatus(
            id=entry.id,
            metadata=entry.config.metadata,
            state=self._state(entry, record),
            created_at=record.created_ns if record is not None else 0,
            network=pb.PodSandboxNetworkStatus(ip=addresses[0] if addresses else "", additional_ips=ips),
            linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=linux)),
            labels=entry.config.labels,
            annotations=entry.config.annotations,
            runtime_handler=entry.handler,
        )

    async def list(self, wanted: pb.PodSandboxFilter) -> list[pb.PodSandbox]:
        """Those that are wanted, the oldest first."""
        records = {record.id: record for record in await self._zones.list()}
        return [
            pb.PodSandbox(
                id=entry.id,
                metadata=entry.config.metadata,
                state=self._state(entry, records.get(entry.id)),
                created_at=records[entry.id].created_ns if entry.id in records else 0,
                labels=entry.config.labels,
                annotations=entry.config.annotations,
                runtime_handler=entry.handler,
            )
            for entry in tuple(self._store.pods.values())
            if entry.made
            and entry.id.startswith(wanted.id)
            and (not wanted.HasField("state") or wanted.state.state == self._state(entry, records.get(entry.id)))
            and selected(entry.config.labels, wanted.label_selector)
        ]

    async def resize(self, ref: str, overhead: pb.LinuxContainerResources, wanted: pb.LinuxContainerResources) -> None:
        """Gives a running sandbox's zone more or less."""
        entry = self._store.find_pod(ref)
        config = pb.PodSandboxConfig()
        config.CopyFrom(entry.config)
        config.linux.resources.MergeFrom(wanted)
        config.linux.overhead.MergeFrom(overhead)
        floor, ceiling, cpus, _ = pod_size(config.linux)
        change = ResourceChange(memory=floor, memory_max=ceiling, cpus=cpus)
        await self._zones.update(entry.id, ZoneUpdate(resources=change))
        self._store.put_pod(replace(self._store.find_pod(entry.id), config=config))

    async def watch_networks(self) -> None:
        """Has plugins give up what is nobody's, and looks after the networks of all pods, for ever."""
        await self._network.collect()
        while True:
            for entry in tuple(self._store.pods.values()):
                if entry.made and not entry.stopped and _runs(await self.record(entry)):
                    await self._network.look(entry.id)
            await asyncio.sleep(LOOK_SECONDS)

    def _state(self, entry: PodEntry, record: ZoneRecord | None) -> pb.PodSandboxState:
        lost = self._network.is_lost(entry.id)
        return pb.SANDBOX_READY if not entry.stopped and _runs(record) and not lost else pb.SANDBOX_NOTREADY

    def _named(self, key: _Key) -> PodEntry | None:
        return next((each for each in self._store.pods.values() if _key(each.config) == key), None)


def selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether all of a selector's labels are there."""
    return all(labels.get(name) == value for name, value in selector.items())


def _key(config: pb.PodSandboxConfig) -> _Key:
    metadata = config.metadata
    return metadata.namespace, metadata.name, metadata.uid, metadata.attempt


def _runs(record: ZoneRecord | None) -> bool:
    return record is not None and record.state in (ZoneState.RUNNING, ZoneState.PAUSED)
