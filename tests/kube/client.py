"""A client of both CRI services on a unix socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zonal.cri.api import runtime_pb2

Reply = TypeVar("Reply", bound=Message)

_SERVICES = [runtime_pb2.DESCRIPTOR.services_by_name[name] for name in ("RuntimeService", "ImageService")]
METHODS = {method.name: method for service in _SERVICES for method in service.methods}
TIMEOUT = 300.0
"""Seconds: an emulated host is slow, and a test that hangs is ended all the same."""


class CriClient:
    """Made within the event loop; ``close`` it."""

    def __init__(self, socket: Path) -> None:
        self._channel = cast("Any", grpc.aio).insecure_channel(
            f"unix:{socket}",
            options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 16 << 20)],
        )

    async def close(self) -> None:
        await self._channel.close()

    async def raw(self, name: str, request: bytes) -> bytes:
        """One call, in bytes."""
        service = METHODS[name].containing_service.full_name
        call = self._channel.unary_unary(f"/{service}/{name}")
        reply: bytes = await call(request, timeout=TIMEOUT, wait_for_ready=True)
        return reply

    async def call(self, name: str, request: Message, reply: type[Reply]) -> Reply:
        """One call."""
        return reply.FromString(await self.raw(name, request.SerializeToString()))

    def stream(self, name: str, request: Message) -> Any:
        """A call with many replies."""
        method = METHODS[name]
        opened = self._channel.unary_stream(
            f"/{method.containing_service.full_name}/{name}",
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return opened(request.SerializeToString(), timeout=TIMEOUT)
