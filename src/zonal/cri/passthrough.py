"""Beside another runtime: a layer before our CRI services that hands the pods of others to containerd's socket.

One kubelet then serves both. Which pod goes where is told by ``routes``; after that each call follows the id of its
sandbox or container. Lists, statistics and events are those of both. What is handed on is handed on in bytes, so
that fields of newer versions survive. While the other runtime does not answer, calls for its pods fail with one line,
lists tell of them as they were last seen (a kubelet would take a pod that is not listed for dead), and ours go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from zonal.cri.api import runtime_pb2 as cri
from zonal.cri.image_routes import ImageRoutes
from zonal.cri.lists import Lists
from zonal.cri.merging import merge_descriptors, merge_status
from zonal.cri.other_runtime import RUNTIME_SERVICE, OtherRuntime
from zonal.cri.own_calls import OwnCalls, decode, methods, one_writer
from zonal.cri.routes import Routes, RoutingRule
from zonal.daemon.rpc import Call, Context, Handler, shorten, single_cause
from zonal.errors import ZonalError

log = logging.getLogger(__name__)

UnaryRoute = Callable[[bytes, Context], Awaitable[bytes]]
StreamRoute = Callable[[bytes, Context], Awaitable[None]]

MAX_ERROR = 8192
_STATUS_DETAILS = "grpc-status-details-bin"
_untyped_grpc = cast("Any", grpc)

BY_SANDBOX: dict[str, type[Message]] = {
    "StopPodSandbox": cri.StopPodSandboxRequest,
    "RemovePodSandbox": cri.RemovePodSandboxRequest,
    "PodSandboxStatus": cri.PodSandboxStatusRequest,
    "PodSandboxStats": cri.PodSandboxStatsRequest,
    "PortForward": cri.PortForwardRequest,
    "UpdatePodSandboxResources": cri.UpdatePodSandboxResourcesRequest,
    "CheckpointPod": cri.CheckpointPodRequest,
}
"""Calls that follow their ``pod_sandbox_id``."""
BY_CONTAINER: dict[str, type[Message]] = {
    "StartContainer": cri.StartContainerRequest,
    "StopContainer": cri.StopContainerRequest,
    "RemoveContainer": cri.RemoveContainerRequest,
    "ContainerStatus": cri.ContainerStatusRequest,
    "UpdateContainerResources": cri.UpdateContainerResourcesRequest,
    "ReopenContainerLog": cri.ReopenContainerLogRequest,
    "ExecSync": cri.ExecSyncRequest,
    "Exec": cri.ExecRequest,
    "Attach": cri.AttachRequest,
    "ContainerStats": cri.ContainerStatsRequest,
    "CheckpointContainer": cri.CheckpointContainerRequest,
}
"""Calls that follow their ``container_id``. The URLs that some answer with are the answering runtime's own."""


@asynccontextmanager
async def passing_through(
    calls: Mapping[str, Call], socket: Path, rule: RoutingRule | None = None
) -> AsyncGenerator[list[Handler]]:
    """Handlers of both CRI services for a server: ours, ``calls``, before the runtime behind ``socket``.

    ``calls`` are of both services by the CRI's names (``own_calls.calls_of`` makes them of servicers); one that is not
    there is ``UNIMPLEMENTED`` for pods of ours. The server bounds the size of what a client sends.
    """
    other = OtherRuntime(socket)
    try:
        layer = PassThrough(calls, other, rule or RoutingRule())
        yield layer.handlers()
    finally:
        await other.close()


class PassThrough:
    """Routes each call of the CRI."""

    def __init__(self, calls: Mapping[str, Call], other: OtherRuntime, rule: RoutingRule) -> None:
        self._own = OwnCalls(calls)
        self._other = other
        self._rule = rule
        self._routes = Routes()
        self._primed = asyncio.Lock()
        self._is_primed = False
        self._lists = Lists(self._own, other, self._routes)
        self._images = ImageRoutes(self._own, other, rule, self._routes)
        self._unary: dict[str, UnaryRoute] = {
            "Version": self._only_ours("Version"),
            "Status": self._status,
            "RuntimeConfig": self._runtime_config,
            "UpdateRuntimeConfig": self._update_runtime_config,
            "ListMetricDescriptors": self._list_metric_descriptors,
            "RunPodSandbox": self._new_sandbox("RunPodSandbox", cri.RunPodSandboxRequest),
            "RestorePod": self._new_sandbox("RestorePod", cri.RestorePodRequest),
            "CreateContainer": self._create_container,
            **{name: self._by_id(name, "sandbox", request) for name, request in BY_SANDBOX.items()},
            **{name: self._by_id(name, "container", request) for name, request in BY_CONTAINER.items()},
            **self._lists.unary(),
            **self._images.unary(),
        }
        self._streams: dict[str, StreamRoute] = {
            "GetContainerEvents": self._events,
            **self._lists.streams(),
            **self._images.streams(),
        }

    def handlers(self) -> list[Handler]:
        """One for each service; requests and replies are bytes."""
        made: dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = {}
        for method in methods():
            # Types of the makers of handlers have parameters that nothing can determine.
            if method.server_streaming:
                handler = _untyped_grpc.unary_stream_rpc_method_handler(self._stream(self._streams[method.name]))
            else:
                handler = _untyped_grpc.unary_unary_rpc_method_handler(self._call(self._unary[method.name]))
            made.setdefault(method.containing_service.full_name, {})[method.name] = handler
        return [_untyped_grpc.method_handlers_generic_handler(name, calls) for name, calls in made.items()]

    def _call(self, route: UnaryRoute) -> UnaryRoute:
        async def call(data: bytes, context: Context) -> bytes:
            try:
                await self._prime(context)
                return await route(data, context)
            except Exception as error:
                await self._abort(error, context)
                raise

        return call

    def _stream(self, route: StreamRoute) -> StreamRoute:
        async def stream(data: bytes, context: Context) -> None:
            try:
                # Before anything can fail: see zonal.daemon.rpc.
                await context.send_initial_metadata(())
                await self._prime(context)
                await route(data, context)
            except Exception as error:
                await self._abort(error, context)

        return stream

    async def _abort(self, error: BaseException, context: Context) -> None:
        """Ends the call with the status of an error of ours, or of the other runtime's; both in a line."""
        if isinstance(error, BaseExceptionGroup):
            error = single_cause(cast("BaseExceptionGroup[BaseException]", error))
        if isinstance(error, (grpc.aio.AbortError, asyncio.CancelledError)):
            raise error
        if isinstance(error, ZonalError):
            await context.abort(grpc.StatusCode[error.grpc_code], shorten(str(error), MAX_ERROR))
        elif isinstance(error, grpc.aio.AioRpcError):
            metadata = cast("tuple[tuple[str, str | bytes], ...]", error.trailing_metadata() or ())
            details = tuple((key, value) for key, value in metadata if key == _STATUS_DETAILS)
            await context.abort(error.code(), self._other.describe(error), details)
        else:
            log.error("a call failed", exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "an internal error in zonald; its log has the details")

    async def _prime(self, context: Context) -> None:
        """Learns once, with the first call, what there is; what comes later is learnt as it is listed or looked up."""
        if self._is_primed:
            return
        async with self._primed:
            if not self._is_primed:
                await self._lists.sandboxes(cri.ListPodSandboxRequest(), context)
                await self._lists.containers(cri.ListContainersRequest(), context)
                self._is_primed = True

    async def _is_ours(self, kind: str, key: str, context: Context) -> bool:
        """Whose a sandbox or container is; what nobody knows is ours to answer for.

        Raises ``UnavailableError`` when the other runtime may know it and does not answer.
        """
        routes, other = self._routes, self._other
        if routes.ids.get(key) or not key:
            return True
        if key in other.sandboxes or key in other.containers:
            return False
        if await self._lists.own_has(kind, key, context):
            return True
        return await other.lookup(kind, key) is None

    def _only_ours(self, name: str) -> UnaryRoute:
        async def call(data: bytes, context: Context) -> bytes:
            return await self._own.unary(name, data, context)

        return call

    async def _theirs(self, name: str, data: bytes, context: Context) -> bytes:
        return await self._other.call(RUNTIME_SERVICE, name, data, context.time_remaining())

    def _by_id(self, name: str, kind: str, request: type[Message]) -> UnaryRoute:
        field = "pod_sandbox_id" if kind == "sandbox" else "container_id"

        async def call(data: bytes, context: Context) -> bytes:
            key: str = getattr(decode(request, data), field)
            if await self._is_ours(kind, key, context):
                return await self._own.unary(name, data, context)
            reply = await self._theirs(name, data, context)
            if name == "RemovePodSandbox":
                self._other.forget_sandbox(key)
            elif name == "RemoveContainer":
                self._other.containers.pop(key, None)
            return reply

        return call

    def _new_sandbox(
        self, name: str, wanted: type[cri.RunPodSandboxRequest] | type[cri.RestorePodRequest]
    ) -> UnaryRoute:
        async def call(data: bytes, context: Context) -> bytes:
            request = decode(wanted, data)
            config = request.config
            ours = self._rule.is_ours(request.runtime_handler, config)
            # The answer of both has the field 1, ``pod_sandbox_id``.
            reply = await (self._own.unary(name, data, context) if ours else self._theirs(name, data, context))
            sandbox = cri.PodSandbox(
                id=cri.RunPodSandboxResponse.FromString(reply).pod_sandbox_id,
                metadata=config.metadata,
                labels=config.labels,
                annotations=config.annotations,
                runtime_handler=request.runtime_handler,
            )
            self._routes.learn([sandbox], ours)
            if not ours:
                self._other.sandboxes[sandbox.id] = sandbox
            return reply

        return call

    async def _create_container(self, data: bytes, context: Context) -> bytes:
        request = decode(cri.CreateContainerRequest, data)
        ours = await self._is_ours("sandbox", request.pod_sandbox_id, context)
        if await self._images.bring(request, ours, context):
            data = request.SerializeToString()
        if ours:
            reply = await self._own.unary("CreateContainer", data, context)
            self._routes.ids[cri.CreateContainerResponse.FromString(reply).container_id] = True
            return reply
        reply = await self._theirs("CreateContainer", data, context)
        container = cri.Container(
            id=cri.CreateContainerResponse.FromString(reply).container_id,
            pod_sandbox_id=request.pod_sandbox_id,
            metadata=request.config.metadata,
            image=request.config.image,
            image_ref=request.config.image.image,
            labels=request.config.labels,
            annotations=request.config.annotations,
        )
        self._other.containers[container.id] = container
        return reply

    async def _status(self, data: bytes, context: Context) -> bytes:
        own, theirs = await asyncio.gather(
            self._own.unary("Status", data, context), self._other.ask(RUNTIME_SERVICE, "Status", data)
        )
        merged = merge_status(
            cri.StatusResponse.FromString(own),
            None if theirs is None else cri.StatusResponse.FromString(theirs),
            self._rule.handlers,
            self._other.trouble,
        )
        return merged.SerializeToString()

    async def _runtime_config(self, data: bytes, context: Context) -> bytes:
        """The other's: the kubelet names cgroups by it, which its containers are put into, and ours are not."""
        theirs = await self._other.ask(RUNTIME_SERVICE, "RuntimeConfig", data)
        return theirs if theirs is not None else await self._own.unary("RuntimeConfig", data, context)

    async def _update_runtime_config(self, data: bytes, context: Context) -> bytes:
        reply = await self._own.unary("UpdateRuntimeConfig", data, context)
        await self._other.ask(RUNTIME_SERVICE, "UpdateRuntimeConfig", data)
        return reply

    async def _list_metric_descriptors(self, data: bytes, context: Context) -> bytes:
        own, theirs = await asyncio.gather(
            self._own.unary("ListMetricDescriptors", data, context),
            self._other.ask(RUNTIME_SERVICE, "ListMetricDescriptors", data),
        )
        if theirs is None:
            return own
        response = cri.ListMetricDescriptorsResponse
        return merge_descriptors(response.FromString(own), response.FromString(theirs)).SerializeToString()

    async def _events(self, data: bytes, context: Context) -> None:
        write = one_writer(context)

        async def relay() -> None:
            async with aclosing(self._other.events(data)) as events:
                async for event in events:
                    await write(event)

        relaying = asyncio.create_task(relay())
        try:
            await self._own.stream("GetContainerEvents", data, context, write)
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
