"""Zonal's own CRI services as the pass-through calls them: with bytes that a client sent, or by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from zonal.cri.api import runtime_pb2
from zonal.daemon.rpc import Call, Context
from zonal.errors import InvalidInputError, UnsupportedError

Wanted = TypeVar("Wanted", bound=Message)
Write = Callable[[bytes], Awaitable[None]]

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    runtime_pb2.DESCRIPTOR.services_by_name[name] for name in ("RuntimeService", "ImageService")
)


def methods() -> Iterable[MethodDescriptor]:
    """Every call of the CRI, of both services."""
    for service in SERVICES:
        yield from service.methods


def calls_of(*servicers: object) -> dict[str, Call]:
    """The calls of servicers that have a method for each, by its name."""
    return {
        method.name: getattr(servicer, method.name)
        for method in methods()
        for servicer in servicers
        if hasattr(servicer, method.name)
    }


def decode(wanted: type[Wanted], data: bytes) -> Wanted:
    """A client's message. Raises ``InvalidInputError`` for what is none."""
    try:
        return wanted.FromString(data)
    except DecodeError as error:
        raise InvalidInputError(f"the request is no {wanted.__name__}") from error


class OwnCalls:
    """By the CRI's names; a call may be a coroutine that returns its reply or writes them, or a generator of them."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self._calls = calls
        self._methods = {method.name: method for method in methods()}

    async def unary(self, name: str, request: bytes | Message, context: Context) -> bytes:
        """One of our calls, and its reply."""
        reply = await self._call(name)(self._request(name, request), context)
        return cast("Message", reply).SerializeToString()

    async def reply(self, name: str, request: Message, context: Context, wanted: type[Wanted]) -> Wanted:
        """As ``unary``, with the reply as it is."""
        return wanted.FromString(await self.unary(name, request, context))

    async def stream(self, name: str, request: bytes, context: Context, write: Write) -> None:
        """One of our calls that has many replies."""

        async def write_message(message: Message) -> None:
            await write(message.SerializeToString())

        replies: Any = self._calls[name](
            self._request(name, request), cast("Context", _Writing(context, write_message))
        )
        if isinstance(replies, AsyncIterator):
            async for message in cast("AsyncIterator[Message]", replies):
                await write_message(message)
        else:
            await replies

    def _call(self, name: str) -> Call:
        if name not in self._calls:
            raise UnsupportedError(f"Zonal has no {name}")
        return self._calls[name]

    def _request(self, name: str, request: bytes | Message) -> Message:
        if isinstance(request, Message):
            return request
        return decode(GetMessageClass(self._methods[name].input_type), request)


class _Writing:
    """A call's context whose replies go through ``write``: the call's own are bytes, and it may have two writers."""

    def __init__(self, context: Context, write: Callable[[Message], Awaitable[None]]) -> None:
        self._context = context
        self.write = write

    async def send_initial_metadata(self, metadata: object) -> None:
        """Has been sent."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def one_writer(context: Context) -> Write:
    """The context's ``write``, for tasks that write at the same time: gRPC takes one message after another."""
    lock = asyncio.Lock()

    async def write(data: bytes) -> None:
        async with lock:
            await context.write(data)

    return write
