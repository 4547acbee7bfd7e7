"""The control service as gRPC serves it: a table of calls made from the protocol's own descriptor.

Here is the one place where an error becomes a status: a ``ZonalError`` keeps its code, message, hint and exit
status; anything else is a fault of ours, logged with its traceback and told to the client in a sentence.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from zonal.api import control_pb2
from zonal.errors import ZonalError

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.GenericRpcHandler[Any, Any]"
Context = grpc.aio.ServicerContext[Any, Any]
Call = Callable[[Any, Context], Awaitable[Message | None]]
"""A call's coroutine: gets the request, or an async iterator of them, and returns the reply, or ``None`` if it wrote
its replies itself with ``context.write``."""

# The types of its makers of handlers have parameters that nothing can determine.
_untyped_grpc = cast("Any", grpc)

HINT_KEY = "zonal-hint-bin"
EXIT_STATUS_KEY = "zonal-exit-status"
MAX_MESSAGE = 8192
MAX_HINT = 2048
"""Bounds in bytes of UTF-8, so that an error fits the client's bound on metadata; the middle is left out."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # Error messages carry the end of a console; gRPC's own bound of 8 KiB on metadata is too small for that.
    ("grpc.max_metadata_size", 65536),
    ("grpc.absolute_max_metadata_size", 131072),
)
"""For both ends of the connection."""


def control_handler(calls: Mapping[str, Call]) -> Handler:
    """The service, with ``calls`` by the names of the protocol; each must be there."""
    return service_handler(control_pb2.DESCRIPTOR.services_by_name["Control"], calls)


def service_handler(service: ServiceDescriptor, calls: Mapping[str, Call]) -> Handler:
    """Any service, likewise."""
    handlers = {method.name: _method_handler(method, calls[method.name]) for method in service.methods}
    return _untyped_grpc.method_handlers_generic_handler(service.full_name, handlers)


def _method_handler(method: MethodDescriptor, call: Call) -> grpc.RpcMethodHandler[Any, Any]:
    make = {
        (False, False): _untyped_grpc.unary_unary_rpc_method_handler,
        (False, True): _untyped_grpc.unary_stream_rpc_method_handler,
        (True, False): _untyped_grpc.stream_unary_rpc_method_handler,
        (True, True): _untyped_grpc.stream_stream_rpc_method_handler,
    }[method.client_streaming, method.server_streaming]
    return make(
        _guarded(method.name, call, streams=method.server_streaming),
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=GetMessageClass(method.output_type).SerializeToString,
    )


def _guarded(name: str, call: Call, *, streams: bool) -> Call:
    async def guarded(request: Any, context: Context) -> Message | None:
        try:
            if streams:
                # A call that fails while its first reply is on its way cannot be ended: gRPC would send the initial
                # metadata with both, which its core refuses, and the client would wait for ever.
                await context.send_initial_metadata(())
            return await call(request, context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except ZonalError as error:
            await _abort(name, error, context)
        except BaseExceptionGroup as group:
            error = single_cause(group)
            if isinstance(error, asyncio.CancelledError):
                raise error from group
            if not isinstance(error, ZonalError):
                await _abort_fault(name, context)
            await _abort(name, error, context)
        except Exception:
            await _abort_fault(name, context)

    return guarded


def single_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that matters in a group: a fault of ours if there is one, else the first ``ZonalError``."""
    errors: list[BaseException] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            error = single_cause(cast("BaseExceptionGroup[BaseException]", error))
        errors.append(error)
    faults = [error for error in errors if not isinstance(error, ZonalError)]
    return (faults or errors)[0]


def free_frames(error: BaseException) -> None:
    """Empties the frames that an error and its causes have gone through.

    An error and a frame that holds it keep each other, and with them all that the frame had, such as a whole kernel,
    until Python looks for cycles, which in a daemon that does little is hardly ever.
    """
    seen: set[BaseException] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or each in seen:
            continue
        seen.add(each)
        traceback.clear_frames(each.__traceback__)
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", each).exceptions


async def _abort(name: str, error: ZonalError, context: Context) -> NoReturn:
    log.info("%s: %s", name, error)
    free_frames(error)
    metadata: list[tuple[str, str | bytes]] = [(EXIT_STATUS_KEY, str(error.exit_status))]
    if error.hint:
        metadata.append((HINT_KEY, shorten(error.hint, MAX_HINT).encode()))
    await context.abort(grpc.StatusCode[error.grpc_code], shorten(error.message, MAX_MESSAGE), tuple(metadata))


async def _abort_fault(name: str, context: Context) -> NoReturn:
    log.exception("%s failed", name)
    await context.abort(
        grpc.StatusCode.INTERNAL, f"an internal error in zonald while it served {name}; its log has the details"
    )


def shorten(text: str, limit: int) -> str:
    """The text, or its beginning and end where it has more than ``limit`` bytes of UTF-8."""
    data = text.encode(errors="replace")
    if len(data) <= limit:
        return data.decode()
    head, tail = data[: limit // 4], data[-(limit - limit // 4 - 8) :]
    return f"{head.decode(errors='ignore')} … {tail.decode(errors='ignore')}"
