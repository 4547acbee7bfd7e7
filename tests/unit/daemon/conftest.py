from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from tests.unit.daemon.local_zones import LocalZones, open_local_services
from zonal.api import control_pb2 as pb
from zonal.daemon.control import Services
from zonal.daemon.rpc import CHANNEL_OPTIONS
from zonal.daemon.server import serving


class Client:
    """Calls by name, over a real socket."""

    def __init__(self, channel: Any, services: Services, target: str) -> None:
        self.target = target
        self._channel = channel
        self.services = services

    @property
    def zones(self) -> LocalZones:
        return cast("LocalZones", self.services.zones)

    async def call(self, name: str, request: Any, reply: Any) -> Any:
        return await self._multi("unary_unary", name, reply)(request)

    def stream(self, name: str, request: Any, reply: Any) -> Any:
        return self._multi("unary_stream", name, reply)(request)

    def upload(self, name: str, requests: Any, reply: Any) -> Any:
        return self._multi("stream_unary", name, reply)(requests)

    def converse(self, name: str, requests: Any, reply: Any) -> Any:
        return self._multi("stream_stream", name, reply)(requests)

    def start(self, **spec: Any) -> Any:
        """A run whose stream stays open; requests are written to it."""
        return self.converse("Run", None, pb.RunReply)

    async def run(self, *requests: pb.RunRequest) -> list[pb.RunReply]:
        """A run with these requests, after which the client has nothing more to say."""
        return [reply async for reply in self.converse("Run", iter(requests), pb.RunReply)]

    def _multi(self, kind: str, name: str, reply: Any) -> Any:
        return getattr(self._channel, kind)(
            f"/zonal.control.v1.Control/{name}",
            request_serializer=_serialise,
            response_deserializer=reply.FromString,
        )


def spec(*command: str, **values: Any) -> pb.RunRequest:
    return pb.RunRequest(spec=pb.RunSpec(image="local:1", command=command, **values))


def output(replies: list[pb.RunReply]) -> bytes:
    return b"".join(reply.stdout for reply in replies)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of ours alone, with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="zonal-") as path:
        yield Path(path)


@asynccontextmanager
async def connected(folder: Path) -> AsyncGenerator[Client]:
    socket = folder / "zonald.sock"
    async with open_local_services(folder) as services, serving(services, socket):
        channel = cast("Any", grpc.aio).insecure_channel(f"unix:{socket}", options=CHANNEL_OPTIONS)
        async with channel:
            yield Client(channel, services, f"unix:{socket}")


@pytest_asyncio.fixture
async def client(folder: Path) -> AsyncGenerator[Client]:
    async with connected(folder) as made:
        yield made


def metadata(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return dict(cast("Any", error.trailing_metadata()))


def _serialise(message: Any) -> bytes:
    return message.SerializeToString()
