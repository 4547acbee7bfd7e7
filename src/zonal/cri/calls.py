"""The calls of the CRI's two services by their names in ``runtime.proto``, and what serves each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.containers import Containers
from zonal.cri.events import Events
from zonal.cri.execution import exec_sync
from zonal.cri.images import Images
from zonal.cri.info import RuntimeInfo
from zonal.cri.measure_calls import measure_calls
from zonal.cri.metrics import Metrics
from zonal.cri.pods import Pods
from zonal.cri.records import CriStore
from zonal.cri.stats import Stats
from zonal.cri.streaming.server import StreamingServer
from zonal.daemon.rpc import Call, Context
from zonal.errors import UnsupportedError
from zonal.zones.spec import ZoneService

_PIECE = 100
"""Entries in one part of an answer in parts."""
_REASONS = {
    "CheckpointContainer": "a zone cannot be checkpointed: its memory and devices are not saved",
    "CheckpointPod": "a zone cannot be checkpointed: its memory and devices are not saved",
    "RestorePod": "there are no checkpoints of zones to be restored",
}


@dataclass(frozen=True)
class Parts:
    """All that serves the calls."""

    store: CriStore
    zones: ZoneService
    pods: Pods
    containers: Containers
    images: Images
    events: Events
    streaming: StreamingServer
    stats: Stats
    metrics: Metrics
    info: RuntimeInfo


def cri_calls(parts: Parts) -> dict[str, Call]:
    """Every call of both services; those that make no sense for zones are refused with their reason."""
    calls: dict[str, Call] = {**_pod_calls(parts), **_container_calls(parts), **_image_calls(parts)}
    calls |= {**_list_calls(parts), **_stream_calls(parts), **_own_calls(parts.info)}
    calls |= measure_calls(parts.stats, parts.metrics)
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            calls.setdefault(method.name, _refusing(method.name))
    return calls


def _pod_calls(parts: Parts) -> dict[str, Call]:
    pods, events = parts.pods, parts.events

    async def run(request: pb.RunPodSandboxRequest, _: Context) -> pb.RunPodSandboxResponse:
        entry = await pods.run(request.config, request.runtime_handler)
        events.tell(pb.CONTAINER_CREATED_EVENT, entry.id, entry.id)
        events.tell(pb.CONTAINER_STARTED_EVENT, entry.id, entry.id)
        return pb.RunPodSandboxResponse(pod_sandbox_id=entry.id)

    async def stop(request: pb.StopPodSandboxRequest, _: Context) -> pb.StopPodSandboxResponse:
        await pods.stop(request.pod_sandbox_id)
        return pb.StopPodSandboxResponse()

    async def remove(request: pb.RemovePodSandboxRequest, _: Context) -> pb.RemovePodSandboxResponse:
        entry = await pods.remove(request.pod_sandbox_id)
        parts.containers.release_gone()
        if entry is not None:
            events.tell(pb.CONTAINER_DELETED_EVENT, entry.id, entry.id)
        return pb.RemovePodSandboxResponse()

    async def status(request: pb.PodSandboxStatusRequest, _: Context) -> pb.PodSandboxStatusResponse:
        entry = parts.store.find_pod(request.pod_sandbox_id)
        inside = [await parts.containers.status(each) for each in parts.store.containers_of(entry.id) if each.made]
        return pb.PodSandboxStatusResponse(status=await pods.status(entry), containers_statuses=inside)

    async def listed(request: pb.ListPodSandboxRequest, _: Context) -> pb.ListPodSandboxResponse:
        return pb.ListPodSandboxResponse(items=await pods.list(request.filter))

    async def update(request: pb.UpdatePodSandboxResourcesRequest, _: Context) -> pb.UpdatePodSandboxResourcesResponse:
        await pods.resize(request.pod_sandbox_id, request.overhead, request.resources)
        return pb.UpdatePodSandboxResourcesResponse()

    return {
        "RunPodSandbox": run,
        "StopPodSandbox": stop,
        "RemovePodSandbox": remove,
        "PodSandboxStatus": status,
        "ListPodSandbox": listed,
        "UpdatePodSandboxResources": update,
    }


def _container_calls(parts: Parts) -> dict[str, Call]:
    containers, events = parts.containers, parts.events

    async def create(request: pb.CreateContainerRequest, _: Context) -> pb.CreateContainerResponse:
        entry = await containers.create(request)
        events.tell(pb.CONTAINER_CREATED_EVENT, entry.id, entry.pod)
        return pb.CreateContainerResponse(container_id=entry.id)

    async def start(request: pb.StartContainerRequest, _: Context) -> pb.StartContainerResponse:
        entry = await containers.start(request.container_id)
        events.tell(pb.CONTAINER_STARTED_EVENT, entry.id, entry.pod)
        return pb.StartContainerResponse()

    async def stop(request: pb.StopContainerRequest, _: Context) -> pb.StopContainerResponse:
        await containers.stop(request.container_id, request.timeout)
        return pb.StopContainerResponse()

    async def remove(request: pb.RemoveContainerRequest, _: Context) -> pb.RemoveContainerResponse:
        entry = await containers.remove(request.container_id)
        if entry is not None:
            events.tell(pb.CONTAINER_DELETED_EVENT, entry.id, entry.pod)
        return pb.RemoveContainerResponse()

    async def status(request: pb.ContainerStatusRequest, _: Context) -> pb.ContainerStatusResponse:
        return pb.ContainerStatusResponse(
            status=await containers.status(parts.store.find_container(request.container_id))
        )

    async def listed(request: pb.ListContainersRequest, _: Context) -> pb.ListContainersResponse:
        return pb.ListContainersResponse(containers=await containers.list(request.filter))

    async def update(request: pb.UpdateContainerResourcesRequest, _: Context) -> pb.UpdateContainerResourcesResponse:
        await containers.update(request.container_id, request.linux)
        return pb.UpdateContainerResourcesResponse()

    async def reopen(request: pb.ReopenContainerLogRequest, _: Context) -> pb.ReopenContainerLogResponse:
        await containers.reopen_log(request.container_id)
        return pb.ReopenContainerLogResponse()

    async def execute(request: pb.ExecSyncRequest, _: Context) -> pb.ExecSyncResponse:
        entry = parts.store.find_container(request.container_id)
        return await exec_sync(parts.zones, entry.id, list(request.cmd), request.timeout)

    return {
        "CreateContainer": create,
        "StartContainer": start,
        "StopContainer": stop,
        "RemoveContainer": remove,
        "ContainerStatus": status,
        "ListContainers": listed,
        "UpdateContainerResources": update,
        "ReopenContainerLog": reopen,
        "ExecSync": execute,
    }


def _stream_calls(parts: Parts) -> dict[str, Call]:
    store, server = parts.store, parts.streaming

    async def execute(request: pb.ExecRequest, _: Context) -> pb.ExecResponse:
        await parts.containers.check_running(store.find_container(request.container_id))
        return pb.ExecResponse(url=server.exec_url(request))

    async def attach(request: pb.AttachRequest, _: Context) -> pb.AttachResponse:
        await parts.containers.check_running(store.find_container(request.container_id))
        return pb.AttachResponse(url=server.attach_url(request))

    async def forward(request: pb.PortForwardRequest, _: Context) -> pb.PortForwardResponse:
        await parts.pods.check_ready(store.find_pod(request.pod_sandbox_id))
        return pb.PortForwardResponse(url=server.port_forward_url(request))

    async def events(_request: pb.GetEventsRequest, context: Context) -> None:
        async for event in parts.events.follow():
            await context.write(event)

    return {"Exec": execute, "Attach": attach, "PortForward": forward, "GetContainerEvents": events}


def _list_calls(parts: Parts) -> dict[str, Call]:
    """The lists in parts."""

    async def sandboxes(request: pb.StreamPodSandboxesRequest, context: Context) -> None:
        for piece in _pieces(await parts.pods.list(request.filter)):
            await context.write(pb.StreamPodSandboxesResponse(pod_sandboxes=piece))

    async def containers(request: pb.StreamContainersRequest, context: Context) -> None:
        for piece in _pieces(await parts.containers.list(request.filter)):
            await context.write(pb.StreamContainersResponse(containers=piece))

    async def images(request: pb.StreamImagesRequest, context: Context) -> None:
        for piece in _pieces(parts.images.list(request.filter)):
            await context.write(pb.StreamImagesResponse(images=piece))

    return {"StreamPodSandboxes": sandboxes, "StreamContainers": containers, "StreamImages": images}


def _image_calls(parts: Parts) -> dict[str, Call]:
    images = parts.images

    async def listed(request: pb.ListImagesRequest, _: Context) -> pb.ListImagesResponse:
        return pb.ListImagesResponse(images=images.list(request.filter))

    async def status(request: pb.ImageStatusRequest, _: Context) -> pb.ImageStatusResponse:
        return images.status(request)

    async def pull(request: pb.PullImageRequest, _: Context) -> pb.PullImageResponse:
        return await images.pull(request)

    async def remove(request: pb.RemoveImageRequest, _: Context) -> pb.RemoveImageResponse:
        images.remove(request.image.image)
        return pb.RemoveImageResponse()

    async def usage(_request: pb.ImageFsInfoRequest, _: Context) -> pb.ImageFsInfoResponse:
        return await images.usage()

    return {
        "ListImages": listed,
        "ImageStatus": status,
        "PullImage": pull,
        "RemoveImage": remove,
        "ImageFsInfo": usage,
    }


def _own_calls(info: RuntimeInfo) -> dict[str, Call]:
    """What the runtime tells of itself."""

    async def version(_request: pb.VersionRequest, _: Context) -> pb.VersionResponse:
        return info.version()

    async def status(request: pb.StatusRequest, _: Context) -> pb.StatusResponse:
        return await info.status(verbose=request.verbose)

    async def configure(request: pb.UpdateRuntimeConfigRequest, _: Context) -> pb.UpdateRuntimeConfigResponse:
        info.configure(request.runtime_config)
        return pb.UpdateRuntimeConfigResponse()

    async def configured(_request: pb.RuntimeConfigRequest, _: Context) -> pb.RuntimeConfigResponse:
        return info.configuration()

    return {"Version": version, "Status": status, "UpdateRuntimeConfig": configure, "RuntimeConfig": configured}


def _pieces(items: list[Any]) -> list[list[Any]]:
    return [items[at : at + _PIECE] for at in range(0, len(items), _PIECE)]


def _refusing(name: str) -> Call:
    async def refuse(_request: object, _context: Context) -> None:
        raise UnsupportedError(_REASONS.get(name, f"{name} is not served"))

    return refuse
