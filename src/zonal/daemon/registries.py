"""The calls that go to registries: pull, with news of each layer, and push."""

from __future__ import annotations

import asyncio

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.daemon.services import ImageService
from zonal.daemon.uploads import image_message
from zonal.images.image import Pulled
from zonal.images.pull import LayerProgress
from zonal.images.skopeo import Access, Login

NEWS_SECONDS = 0.2
"""Between two reports of what has changed meanwhile."""


class RegistryCalls:
    """Pull and push."""

    def __init__(self, images: ImageService) -> None:
        self._images = images

    async def pull(self, request: pb.PullImageRequest, context: Context) -> None:
        """Pulls, and tells now and then how far each layer is."""
        loop = asyncio.get_running_loop()
        lines: list[str] = []
        layers: dict[str, LayerProgress] = {}

        def hear(news: LayerProgress) -> None:
            loop.call_soon_threadsafe(layers.__setitem__, news.digest, news)

        async def report() -> None:
            while lines:
                await context.write(pb.PullImageReply(progress=lines.pop(0)))
            while layers:
                _, layer = layers.popitem()
                await context.write(pb.PullImageReply(layer=_layer_message(layer)))

        async def work() -> Pulled:
            return await self._images.pull(
                request.reference,
                access_of(request.access),
                progress=lines.append,
                news=hear,
            )

        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            while not task.done():
                await asyncio.wait([task], timeout=NEWS_SECONDS)
                await report()
        pulled = task.result()
        await report()
        reply = pb.PulledImage(image=image_message(pulled.image), changed=pulled.new)
        await context.write(pb.PullImageReply(pulled=reply))

    async def push(self, request: pb.PushImageRequest, _context: Context) -> pb.PushImageReply:
        """Pushes by the name that the image has."""
        return pb.PushImageReply(digest=await self._images.push(request.reference, access=access_of(request.access)))

    async def check_login(self, request: pb.CheckLoginRequest, _context: Context) -> pb.CheckLoginReply:
        """By asking the registry."""
        await self._images.check_login(request.registry, access_of(request.access))
        return pb.CheckLoginReply()


def access_of(message: pb.RegistryAccess) -> Access:
    """The credentials and the rest, as the stores want it."""
    login = Login(message.username, message.password, message.identity_token)
    return Access(login, message.verify_tls if message.HasField("verify_tls") else None)


def _layer_message(layer: LayerProgress) -> pb.LayerProgress:
    return pb.LayerProgress(digest=layer.digest, state=layer.state.value, done_bytes=layer.done, size_bytes=layer.size)
