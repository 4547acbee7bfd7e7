"""A CRI runtime that keeps pods, containers and images in dictionaries: the peers of the pass-through's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zonal.cri.api import runtime_pb2 as cri
from zonal.cri.merging import matches_container, matches_sandbox
from zonal.cri.own_calls import calls_of, methods
from zonal.daemon.rpc import Call, Context, Handler
from zonal.errors import NotFoundError, WrongStateError

Images = dict[str, cri.Image]

_grpc = cast("Any", grpc)


class MemoryRuntime:
    """Both services; ``name`` begins its ids, and each call is noted in ``asked``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked: list[tuple[str, Message]] = []
        self.sandboxes: dict[str, cri.PodSandbox] = {}
        self.containers: dict[str, cri.Container] = {}
        self.images: Images = {}
        self.registry: dict[str, str] = {}
        """What can be pulled: ids by names."""
        self.network_ready = True
        self.streams_lists = True
        self.listening = asyncio.Event()
        self.events: asyncio.Queue[cri.ContainerEventResponse] = asyncio.Queue()
        self.stuck: asyncio.Event | None = None
        """While not set, no call is answered."""
        self._number = 0

    def calls(self) -> dict[str, Call]:
        calls = calls_of(self)
        return {method.name: self._noting(method.name, calls.get(method.name)) for method in methods()}

    def _noting(self, name: str, call: Call | None) -> Call:
        async def noting(request: Any, context: Context) -> Message | None:
            self.asked.append((name, request))
            if self.stuck is not None:
                await self.stuck.wait()
            if call is None or (name.startswith("Stream") and not self.streams_lists):
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{self.name} has no {name}")
            return await call(request, context)

        return noting

    def count(self, name: str) -> int:
        return sum(1 for asked, _ in self.asked if asked == name)

    def _id(self) -> str:
        self._number += 1
        return f"{self.name}{self._number:08x}"

    async def Version(self, request: cri.VersionRequest, context: Context) -> Message:  # noqa: N802
        return cri.VersionResponse(version="0.1.0", runtime_name=self.name, runtime_api_version="v1")

    async def Status(self, request: cri.StatusRequest, context: Context) -> Message:  # noqa: N802
        reply = cri.StatusResponse()
        reply.status.conditions.add(type="RuntimeReady", status=True)
        reply.status.conditions.add(
            type="NetworkReady", status=self.network_ready, reason="" if self.network_ready else "NoNetwork"
        )
        for handler in ("", f"{self.name}-handler"):
            reply.runtime_handlers.add(name=handler)
        reply.features.supplemental_groups_policy = self.name == "ours"
        reply.info["config"] = self.name
        return reply

    async def RuntimeConfig(self, request: Message, context: Context) -> Message:  # noqa: N802
        driver = cri.CGROUPFS if self.name == "ours" else cri.SYSTEMD
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def UpdateRuntimeConfig(self, request: Message, context: Context) -> Message:  # noqa: N802
        return cri.UpdateRuntimeConfigResponse()

    async def RunPodSandbox(self, request: cri.RunPodSandboxRequest, context: Context) -> Message:  # noqa: N802
        sandbox = cri.PodSandbox(
            id=self._id(),
            metadata=request.config.metadata,
            labels=request.config.labels,
            runtime_handler=request.runtime_handler,
        )
        self.sandboxes[sandbox.id] = sandbox
        return cri.RunPodSandboxResponse(pod_sandbox_id=sandbox.id)

    async def StopPodSandbox(self, request: cri.StopPodSandboxRequest, context: Context) -> Message:  # noqa: N802
        if request.pod_sandbox_id in self.sandboxes:
            self.sandboxes[request.pod_sandbox_id].state = cri.SANDBOX_NOTREADY
        return cri.StopPodSandboxResponse()

    async def RemovePodSandbox(self, request: cri.RemovePodSandboxRequest, context: Context) -> Message:  # noqa: N802
        self.sandboxes.pop(request.pod_sandbox_id, None)
        return cri.RemovePodSandboxResponse()

    async def PodSandboxStatus(self, request: cri.PodSandboxStatusRequest, context: Context) -> Message:  # noqa: N802
        for sandbox in self.sandboxes.values():
            if sandbox.id.startswith(request.pod_sandbox_id):
                return cri.PodSandboxStatusResponse(status=cri.PodSandboxStatus(id=sandbox.id))
        raise NotFoundError(f"{self.name} has no sandbox {request.pod_sandbox_id}")

    async def ListPodSandbox(self, request: cri.ListPodSandboxRequest, context: Context) -> Message:  # noqa: N802
        found = [each for each in self.sandboxes.values() if matches_sandbox(each, request.filter)]
        return cri.ListPodSandboxResponse(items=found)

    async def StreamPodSandboxes(self, request: cri.StreamPodSandboxesRequest, context: Context) -> None:  # noqa: N802
        for each in self.sandboxes.values():
            if matches_sandbox(each, request.filter):
                await context.write(cri.StreamPodSandboxesResponse(pod_sandboxes=[each]))

    async def CreateContainer(self, request: cri.CreateContainerRequest, context: Context) -> Message:  # noqa: N802
        image = self._image(request.config.image.image)
        if image is None:
            raise NotFoundError(f"{self.name} has no image {request.config.image.image}")
        container = cri.Container(
            id=self._id(), pod_sandbox_id=request.pod_sandbox_id, image_id=image.id, state=cri.CONTAINER_CREATED
        )
        self.containers[container.id] = container
        return cri.CreateContainerResponse(container_id=container.id)

    async def StartContainer(self, request: cri.StartContainerRequest, context: Context) -> Message:  # noqa: N802
        container = self.containers.get(request.container_id)
        if container is None:
            raise NotFoundError(f"{self.name} has no container {request.container_id}")
        if container.state == cri.CONTAINER_RUNNING:
            raise WrongStateError("it runs already", hint="stop it first")
        container.state = cri.CONTAINER_RUNNING
        return cri.StartContainerResponse()

    async def RemoveContainer(self, request: cri.RemoveContainerRequest, context: Context) -> Message:  # noqa: N802
        self.containers.pop(request.container_id, None)
        return cri.RemoveContainerResponse()

    async def ListContainers(self, request: cri.ListContainersRequest, context: Context) -> Message:  # noqa: N802
        found = [each for each in self.containers.values() if matches_container(each, request.filter)]
        return cri.ListContainersResponse(containers=found)

    async def Exec(self, request: cri.ExecRequest, context: Context) -> Message:  # noqa: N802
        return cri.ExecResponse(url=f"http://127.0.0.1:1/{self.name}/exec/{request.container_id}")

    async def PortForward(self, request: cri.PortForwardRequest, context: Context) -> Message:  # noqa: N802
        raise RuntimeError("a fault")

    async def ListContainerStats(self, request: cri.ListContainerStatsRequest, context: Context) -> Message:  # noqa: N802
        stats = [cri.ContainerStats(attributes=cri.ContainerAttributes(id=each)) for each in self.containers]
        return cri.ListContainerStatsResponse(stats=stats)

    async def ListMetricDescriptors(self, request: Message, context: Context) -> Message:  # noqa: N802
        reply = cri.ListMetricDescriptorsResponse()
        reply.descriptors.add(name="container_cpu_usage_seconds_total")
        reply.descriptors.add(name=f"of_{self.name}")
        return reply

    async def GetContainerEvents(self, request: Message, context: Context) -> None:  # noqa: N802
        self.listening.set()
        while True:
            await context.write(await self.events.get())

    async def ListImages(self, request: cri.ListImagesRequest, context: Context) -> Message:  # noqa: N802
        return cri.ListImagesResponse(images=self.images.values())

    async def ImageStatus(self, request: cri.ImageStatusRequest, context: Context) -> Message:  # noqa: N802
        return cri.ImageStatusResponse(image=self._image(request.image.image))

    async def PullImage(self, request: cri.PullImageRequest, context: Context) -> Message:  # noqa: N802
        name = request.image.image
        if name not in self.registry:
            raise NotFoundError(f"no registry has {name}")
        if name.startswith("private/") and request.auth.password != "right":
            raise WrongStateError(f"{name} is not for everyone")
        image = cri.Image(id=self.registry[name], repo_tags=[name], size=100)
        self.images[image.id] = image
        return cri.PullImageResponse(image_ref=image.id)

    async def RemoveImage(self, request: cri.RemoveImageRequest, context: Context) -> Message:  # noqa: N802
        image = self._image(request.image.image)
        if image is not None:
            del self.images[image.id]
        return cri.RemoveImageResponse()

    async def ImageFsInfo(self, request: Message, context: Context) -> Message:  # noqa: N802
        reply = cri.ImageFsInfoResponse()
        for usages in (reply.image_filesystems, reply.container_filesystems):
            if self.name == "theirs" or usages is reply.image_filesystems:
                usages.add(fs_id=cri.FilesystemIdentifier(mountpoint=f"/var/lib/{self.name}"))
        return reply

    def _image(self, name: str) -> cri.Image | None:
        return next((each for each in self.images.values() if name == each.id or name in each.repo_tags), None)


@asynccontextmanager
async def serving(handlers: list[Handler], socket: Path) -> AsyncGenerator[None]:
    """A server of these services, within the block."""
    server: grpc.aio.Server = cast("Any", grpc.aio).server(handlers=handlers)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
        socket.unlink(missing_ok=True)


def plain_handlers(runtime: MemoryRuntime) -> list[Handler]:
    """The runtime's services without anything before them."""
    made: dict[str, dict[str, Any]] = {}
    calls = runtime.calls()
    for method in methods():
        make = (
            _grpc.unary_stream_rpc_method_handler if method.server_streaming else _grpc.unary_unary_rpc_method_handler
        )
        made.setdefault(method.containing_service.full_name, {})[method.name] = make(
            _answering(calls[method.name]),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
    return [_grpc.method_handlers_generic_handler(name, table) for name, table in made.items()]


def _answering(call: Call) -> Call:
    async def answering(request: Any, context: Context) -> Message | None:
        try:
            return await call(request, context)
        except NotFoundError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        except WrongStateError as error:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))

    return answering
