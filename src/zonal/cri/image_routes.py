"""Images beside another runtime: pulled to where their pod will run, listed of both, removed from both.

A kubelet by default names no handler with an image (its feature ``RuntimeClassInImageCriApi`` is off), so an image
may be asked for on one side and be needed on the other. Then it is fetched when its container is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from zonal.cri.api import runtime_pb2 as cri
from zonal.cri.lists import pieces
from zonal.cri.merging import merge_file_systems, merge_images
from zonal.cri.other_runtime import IMAGE_SERVICE, OtherRuntime
from zonal.cri.own_calls import OwnCalls, decode
from zonal.cri.routes import Recent, Routes, RoutingRule, pod_key, shares_host
from zonal.daemon.rpc import Context

MAX_CREDENTIALS = 128
"""Images whose credentials are remembered, in memory alone."""


class ImageRoutes:
    """The image service of both."""

    def __init__(self, own: OwnCalls, other: OtherRuntime, rule: RoutingRule, routes: Routes) -> None:
        self._own = own
        self._other = other
        self._rule = rule
        self._routes = routes
        self._credentials: Recent[str, cri.AuthConfig] = Recent(MAX_CREDENTIALS)

    def unary(self) -> dict[str, Callable[[bytes, Context], Awaitable[bytes]]]:
        """The calls with one reply."""
        return {
            "ListImages": self._list,
            "ImageStatus": self._status,
            "PullImage": self._pull,
            "RemoveImage": self._remove,
            "ImageFsInfo": self._file_systems,
        }

    def streams(self) -> dict[str, Callable[[bytes, Context], Awaitable[None]]]:
        """The call with many."""
        return {"StreamImages": self._stream}

    async def bring(self, request: cri.CreateContainerRequest, ours: bool, context: Context) -> bool:
        """Sees to it that a container's image is where the container will be, as far as it is anywhere.

        Returns whether it changed ``request``, to name the image as it is named there.
        """
        image = request.config.image
        if not image.image or await self._has(image, ours, context):
            return False
        if not await self._has(image, not ours, context):
            return False  # whoever is to make the container says so
        wanted = cri.ImageSpec()
        wanted.CopyFrom(image)
        # A kubelet puts the id into ``image`` and keeps the name that the pod has for it beside it.
        wanted.image = image.user_specified_image or image.image
        pull = cri.PullImageRequest(image=wanted, sandbox_config=request.sandbox_config)
        if (credentials := self._credentials.get(wanted.image)) is not None:
            pull.auth.CopyFrom(credentials)
        reply = cri.PullImageResponse.FromString(await self._pull_to(pull.SerializeToString(), ours, context))
        if not await self._has(image, ours, context):
            image.image = reply.image_ref  # the tag has moved since
            return True
        return False

    async def _list(self, data: bytes, context: Context) -> bytes:
        own, theirs = await asyncio.gather(
            self._own.unary("ListImages", data, context), self._other.ask(IMAGE_SERVICE, "ListImages", data)
        )
        if theirs is None:
            return own
        response = cri.ListImagesResponse
        images = merge_images(response.FromString(own).images, response.FromString(theirs).images)
        return response(images=images).SerializeToString()

    async def _stream(self, data: bytes, context: Context) -> None:
        for piece in pieces(await self._list(data, context), cri.StreamImagesResponse):
            await context.write(piece)

    async def _status(self, data: bytes, context: Context) -> bytes:
        image = decode(cri.ImageStatusRequest, data).image
        ours = image.runtime_handler in self._rule.handlers
        if image.runtime_handler:
            return await self._status_at(data, ours, context)
        first = await self._status_at(data, ours, context)
        if _is_there(first):
            return first
        if not ours:
            second = await self._status_at(data, True, context)
        else:
            # Of an image that is nowhere, ours is the answer; the other runtime may be gone.
            second = await self._other.ask(IMAGE_SERVICE, "ImageStatus", data) or b""
        return second if _is_there(second) else first

    async def _status_at(self, data: bytes, ours: bool, context: Context) -> bytes:
        if ours:
            return await self._own.unary("ImageStatus", data, context)
        return await self._other.call(IMAGE_SERVICE, "ImageStatus", data, context.time_remaining())

    async def _has(self, image: cri.ImageSpec, ours: bool, context: Context) -> bool:
        request = cri.ImageStatusRequest(image=image).SerializeToString()
        if ours:
            return _is_there(await self._own.unary("ImageStatus", request, context))
        return _is_there(await self._other.ask(IMAGE_SERVICE, "ImageStatus", request) or b"")

    async def _pull(self, data: bytes, context: Context) -> bytes:
        request = decode(cri.PullImageRequest, data)
        reply = await self._pull_to(data, self._runs_here(request), context)
        if request.HasField("auth"):
            self._credentials[request.image.image] = request.auth
        return reply

    async def _pull_to(self, data: bytes, ours: bool, context: Context) -> bytes:
        if ours:
            return await self._own.unary("PullImage", data, context)
        return await self._other.call(IMAGE_SERVICE, "PullImage", data, context.time_remaining())

    def _runs_here(self, request: cri.PullImageRequest) -> bool:
        """Whether it is for a pod of ours: told by the handler, the pod, or else as for a pod without RuntimeClass."""
        if request.image.runtime_handler:
            return request.image.runtime_handler in self._rule.handlers
        if request.HasField("sandbox_config"):
            ours = self._routes.pods.get(pod_key(request.sandbox_config.metadata))
            if ours is not None:
                return ours
            if shares_host(request.sandbox_config):
                return False
        return "" in self._rule.handlers

    async def _remove(self, data: bytes, context: Context) -> bytes:
        # Ours first: its space is free even if the other runtime is away, which then fails the call.
        await self._own.unary("RemoveImage", data, context)
        return await self._other.call(IMAGE_SERVICE, "RemoveImage", data, context.time_remaining())

    async def _file_systems(self, data: bytes, context: Context) -> bytes:
        own, theirs = await asyncio.gather(
            self._own.unary("ImageFsInfo", data, context), self._other.ask(IMAGE_SERVICE, "ImageFsInfo", data)
        )
        if theirs is None:
            return own
        response = cri.ImageFsInfoResponse
        return merge_file_systems(response.FromString(own), response.FromString(theirs)).SerializeToString()


def _is_there(reply: bytes) -> bool:
    return cri.ImageStatusResponse.FromString(reply).HasField("image")
