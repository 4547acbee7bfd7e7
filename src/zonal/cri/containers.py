"""Containers: each a workload in its pod's zone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.container_spec import container_request, limits_of
from zonal.cri.logs import ContainerLogs, log_path
from zonal.cri.pods import Pods, selected
from zonal.cri.records import ContainerEntry, CriStore
from zonal.daemon.requested import RequestedZones
from zonal.daemon.services import ImageFinder
from zonal.errors import AlreadyExistsError, NotFoundError, WrongStateError
from zonal.images.image import Image
from zonal.images.lease import Lease
from zonal.zones.spec import ZoneRecord, ZoneService, ZoneState, ZoneUpdate
from zonal.zones.workload import OUT_OF_MEMORY

_KILLED = 137


class Containers:
    """See the module."""

    def __init__(
        self,
        store: CriStore,
        zones: ZoneService,
        images: ImageFinder,
        requested: RequestedZones,
        pods: Pods,
        logs: ContainerLogs,
    ) -> None:
        self._store = store
        self._zones = zones
        self._images = images
        self._requested = requested
        self._pods = pods
        self._logs = logs
        self._making = asyncio.Lock()
        self._leases: dict[str, Lease[Image]] = {}
        """Of those that are not started: from then on their workloads have leases of their own."""

    async def take_back(self) -> None:
        """After another zonald: what it has left of logs is written on, and images for those to be started are held."""
        for entry in tuple(self._store.containers.values()):
            record = await self.record(entry)
            if record is not None and record.state is ZoneState.CREATED:
                with suppress(NotFoundError):
                    self._leases[entry.id] = self._use(entry)
            elif record is not None:
                with suppress(Exception):  # a log that cannot be written keeps nothing else from going on
                    self._logs.begin(entry)

    async def create(self, request: pb.CreateContainerRequest) -> ContainerEntry:
        """One that is written down, to be started; the same one for the same request."""
        pod = self._store.find_pod(request.pod_sandbox_id)
        config = request.config
        async with self._making:
            for each in self._store.containers_of(pod.id):
                if each.config.metadata == config.metadata:
                    if each.config == config:
                        return each
                    raise AlreadyExistsError(
                        f"there is a container {config.metadata.name}, attempt {config.metadata.attempt}, in this pod"
                    )
            if not await self._pods.ready(pod):
                raise WrongStateError(f"the sandbox {pod.id[:12]} is not ready", hint="run another one")
            image = self._images.resolve(config.image.image)
            wanted = container_request(config, pod.config, pod.id, image.id)
            spec = await self._requested.resolve(wanted)
            directory = request.sandbox_config.log_directory or pod.config.log_directory
            entry = ContainerEntry(spec.id, pod.id, config, image.id, image.id, log_path(directory, config.log_path))
            self._store.put_container(entry)
            try:
                self._leases[entry.id] = self._use(entry)
                await self._requested.named(spec, wanted, self._zones.create)
            except BaseException:
                self._store.remove_container(entry.id)
                self._release(entry.id)
                raise
            entry = replace(entry, made=True)
            self._store.put_container(entry)
            return entry

    async def start(self, ref: str) -> ContainerEntry:
        """Raises ``WrongStateError`` for one that was started before."""
        entry = self._store.find_container(ref)
        record = await self._zones.find(entry.id)
        if record.state is not ZoneState.CREATED:
            raise WrongStateError(f"container {entry.id[:12]} was started before: it is {record.state}")
        await self._zones.start(entry.id)
        self._release(entry.id)
        self._logs.begin(entry)
        return entry

    async def stop(self, ref: str, timeout: float) -> ContainerEntry | None:
        """Stop signal, ``timeout`` seconds, SIGKILL; one that does not run, or is not there, has ended."""
        try:
            entry = self._store.find_container(ref)
        except NotFoundError:
            return None
        with suppress(NotFoundError):
            await self._zones.stop(entry.id, max(0.0, timeout))
        await self._logs.settled(entry.id)
        return entry

    async def remove(self, ref: str) -> ContainerEntry | None:
        """Removes one, and kills it first if need be; its log stays, which is the kubelet's."""
        try:
            entry = self._store.find_container(ref)
        except NotFoundError:
            return None
        with suppress(NotFoundError):
            await self._zones.remove(entry.id, force=True)
        await self._logs.settled(entry.id)
        self._store.remove_container(entry.id)
        self._release(entry.id)
        return entry

    def release_gone(self) -> None:
        """A pod has gone with all that was in it: images that were held for its containers are free."""
        for container_id in self._leases.keys() - self._store.containers.keys():
            self._release(container_id)

    def _use(self, entry: ContainerEntry) -> Lease[Image]:
        return self._images.use(entry.image_id, f"container {entry.config.metadata.name}")

    def _release(self, container_id: str) -> None:
        if (lease := self._leases.pop(container_id, None)) is not None:
            lease.release()

    async def check_running(self, entry: ContainerEntry) -> None:
        """Raises ``WrongStateError`` for one that does not run."""
        if _state(await self.record(entry)) != pb.CONTAINER_RUNNING:
            raise WrongStateError(f"container {entry.id[:12]} does not run")

    async def reopen_log(self, ref: str) -> None:
        """The kubelet has moved the file."""
        self._logs.reopen(self._store.find_container(ref))

    async def update(self, ref: str, wanted: pb.LinuxContainerResources) -> None:
        """Changes what it may use."""
        entry = self._store.find_container(ref)
        record = await self._zones.find(entry.id)
        if record.state in (ZoneState.EXITED, ZoneState.CRASHED):
            raise WrongStateError(f"container {entry.id[:12]} has ended")
        await self._zones.update(entry.id, ZoneUpdate(limits=limits_of(wanted, record.spec.runtime.limits)))
        config = pb.ContainerConfig()
        config.CopyFrom(entry.config)
        config.linux.resources.MergeFrom(wanted)
        self._store.put_container(replace(self._store.find_container(entry.id), config=config))

    async def record(self, entry: ContainerEntry) -> ZoneRecord | None:
        """Its workload's; none when somebody has removed that by other ways."""
        with suppress(NotFoundError):
            return await self._zones.find(entry.id)
        return None

    async def status(self, entry: ContainerEntry) -> pb.ContainerStatus:
        """All that is known of it."""
        record = await self.record(entry)
        state = _state(record)
        ended = state == pb.CONTAINER_EXITED
        status = pb.ContainerStatus(
            id=entry.id,
            metadata=entry.config.metadata,
            state=state,
            created_at=record.created_ns if record is not None else 0,
            image=_image(entry),
            image_ref=entry.image_ref,
            image_id=entry.image_id,
            labels=entry.config.labels,
            annotations=entry.config.annotations,
            mounts=entry.config.mounts,
            log_path=entry.log_path,
            stop_signal=entry.config.stop_signal,
            resources=pb.ContainerResources(linux=entry.config.linux.resources),
        )
        if record is not None and state != pb.CONTAINER_CREATED:
            status.started_at = record.started_ns
        if ended:
            status.exit_code = record.exit_status if record is not None else _KILLED
            status.finished_at = record.finished_ns if record is not None else 0
            status.reason = _reason(record)
            status.message = record.reason if record is not None else "somebody has removed it"
        return status

    async def list(self, wanted: pb.ContainerFilter) -> list[pb.Container]:
        """Those that are wanted, the oldest first."""
        records = {record.id: record for record in await self._zones.list()}
        return [
            pb.Container(
                id=entry.id,
                pod_sandbox_id=entry.pod,
                metadata=entry.config.metadata,
                image=_image(entry),
                image_ref=entry.image_ref,
                image_id=entry.image_id,
                state=_state(records.get(entry.id)),
                created_at=records[entry.id].created_ns if entry.id in records else 0,
                labels=entry.config.labels,
                annotations=entry.config.annotations,
            )
            for entry in tuple(self._store.containers.values())
            if entry.made
            and entry.id.startswith(wanted.id)
            and entry.pod.startswith(wanted.pod_sandbox_id)
            and (not wanted.HasField("state") or wanted.state.state == _state(records.get(entry.id)))
            and selected(entry.config.labels, wanted.label_selector)
        ]


def _image(entry: ContainerEntry) -> pb.ImageSpec:
    spec = entry.config.image
    return pb.ImageSpec(image=spec.user_specified_image or spec.image, annotations=spec.annotations)


def _state(record: ZoneRecord | None) -> pb.ContainerState:
    if record is None or record.state in (ZoneState.EXITED, ZoneState.CRASHED):
        return pb.CONTAINER_EXITED
    if record.state in (ZoneState.CREATED, ZoneState.CREATING):
        return pb.CONTAINER_CREATED
    return pb.CONTAINER_RUNNING


def _reason(record: ZoneRecord | None) -> str:
    if record is None:
        return "Unknown"
    if record.reason == OUT_OF_MEMORY:
        return "OOMKilled"
    return "Completed" if record.exit_status == 0 else "Error"
