"""The other runtime behind the pass-through: its socket, what it was seen to hold, and how long it is waited for.

Calls go as they came, in bytes: what a newer kubelet says to a newer containerd is not ours to understand.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio

from zonal.cri.api import runtime_pb2 as cri
from zonal.errors import UnavailableError

log = logging.getLogger(__name__)

RUNTIME_SERVICE = "runtime.v1.RuntimeService"
IMAGE_SERVICE = "runtime.v1.ImageService"
PATIENCE = 3.0
"""Seconds that a call for both runtimes waits for the other one; then ours is answered for alone."""
SHORT_PATIENCE = 0.25
"""Seconds, once it has used up ``PATIENCE``."""
SLOW_FOR = 10.0
"""Seconds that it counts as slow after that."""
MAX_ERROR = 2048
"""Characters of an error of its that are handed on."""
MAX_ID = 256
"""Characters of an id that it is asked about."""

_CHANNEL_OPTIONS = (
    # Lists of a busy node are larger than gRPC's 4 MiB; the other runtime is the operator's, and trusted so far.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Back within a second of its restart: gRPC itself would wait up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Each connection of its own: a channel that is closed must not leave its backing off to the next.
    ("grpc.use_local_subchannel_pool", 1),
)


class OtherRuntime:
    """A CRI runtime behind a unix socket. Made within the event loop; ``close`` it."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._channel = cast("Any", grpc.aio).insecure_channel(f"unix:{socket}", options=_CHANNEL_OPTIONS)
        self._unary: dict[str, Any] = {}
        self._slow_until = 0.0
        self.answers: bool | None = None
        """Whether its last answer came, or ``None`` at first; said in the log when it changes."""
        self.trouble = "it has not been asked yet"
        """Why it does not answer, in a line."""
        self.sandboxes: dict[str, cri.PodSandbox] = {}
        """By id, as last listed: what is told of them while it does not answer."""
        self.containers: dict[str, cri.Container] = {}
        """By id, as last listed."""

    async def close(self) -> None:
        """Ends the connection and the calls on it."""
        await self._channel.close()

    def forget_sandbox(self, key: str) -> None:
        """A sandbox of its was removed, and its containers with it."""
        self.sandboxes.pop(key, None)
        self.containers = {id: each for id, each in self.containers.items() if each.pod_sandbox_id != key}

    async def call(self, service: str, method: str, request: bytes, timeout: float | None = None) -> bytes:
        """One call, forwarded. Raises ``grpc.aio.AioRpcError``, whose status is its own or tells that it is gone."""
        path = f"/{service}/{method}"
        if path not in self._unary:
            self._unary[path] = self._channel.unary_unary(path)
        try:
            reply: bytes = await self._unary[path](request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                self._lost(error)
            raise
        self._found()
        return reply

    async def ask(self, service: str, method: str, request: bytes = b"") -> bytes | None:
        """Its part of an answer for both: ``None`` where it has none, does not know the call, or takes too long."""
        patience = SHORT_PATIENCE if time.monotonic() < self._slow_until else PATIENCE
        try:
            return await self.call(service, method, request, patience)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                self._slow_until = time.monotonic() + SLOW_FOR
                self._lost(error)
            elif error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNIMPLEMENTED):
                self.trouble = f"the runtime at {self.socket} fails {method}: {self.describe(error)}"
                log.warning("%s", self.trouble)
            return None

    async def events(self, request: bytes) -> AsyncGenerator[bytes]:
        """Its containers' events, over its restarts, until the caller stops; ends where it has none to tell."""
        listen = self._channel.unary_stream(f"/{RUNTIME_SERVICE}/GetContainerEvents")
        while True:
            try:
                async for event in listen(request, wait_for_ready=True):
                    self._found()
                    yield event
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                    return
                log.debug("events of the runtime at %s ended: %s", self.socket, self.describe(error))
            # It may end each stream at once.
            await asyncio.sleep(1)

    async def lookup(self, kind: str, key: str) -> str | None:
        """The id of its sandbox or container that begins with ``key``, or ``None``.

        Raises ``UnavailableError`` when it does not answer: it might know it.
        """
        if not key or len(key) > MAX_ID:
            return None
        known = self.sandboxes if kind == "sandbox" else self.containers
        if key in known:
            return key
        found: Iterable[cri.PodSandbox] | Iterable[cri.Container]
        if kind == "sandbox":
            request = cri.ListPodSandboxRequest(filter=cri.PodSandboxFilter(id=key)).SerializeToString()
            data = await self.ask(RUNTIME_SERVICE, "ListPodSandbox", request)
            found = cri.ListPodSandboxResponse.FromString(data).items if data else ()
        else:
            request = cri.ListContainersRequest(filter=cri.ContainerFilter(id=key)).SerializeToString()
            data = await self.ask(RUNTIME_SERVICE, "ListContainers", request)
            found = cri.ListContainersResponse.FromString(data).containers if data else ()
        if data is None:
            raise UnavailableError(f"{kind} {key[:80]} is not Zonal's, and nobody else can be asked: {self.trouble}")
        return next((each.id for each in found if each.id.startswith(key)), None)

    def describe(self, error: grpc.aio.AioRpcError) -> str:
        """What went wrong, in a line."""
        details = " ".join((error.details() or error.code().name).split())
        if len(details) > MAX_ERROR:
            details = f"{details[: MAX_ERROR // 2]} … {details[-MAX_ERROR // 2 :]}"
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            if details.startswith("failed to connect"):
                details = details.rpartition("error: ")[2]  # what the system said, without gRPC's addresses
            return f"the runtime at {self.socket} does not answer: {details}"
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"the runtime at {self.socket} did not answer in time"
        return details

    def _lost(self, error: grpc.aio.AioRpcError) -> None:
        self.trouble = self.describe(error)
        if self.answers is not False:
            log.warning("%s", self.trouble)
        self.answers = False

    def _found(self) -> None:
        if not self.answers:
            log.info("the runtime at %s answers", self.socket)
        self.answers = True
