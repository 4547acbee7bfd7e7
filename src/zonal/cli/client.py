"""The command line's end of the control API: typed calls, and errors as they were raised in zonald."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import grpc
from google.protobuf.message import Message

from zonal import errors
from zonal.errors import UnavailableError, ZonalError

Request = TypeVar("Request", bound=Message)
Reply = TypeVar("Reply", bound=Message)
Reply_co = TypeVar("Reply_co", bound=Message, covariant=True)

HINT_KEY = "zonal-hint-bin"
EXIT_STATUS_KEY = "zonal-exit-status"
_SERVICE = "/zonal.control.v1.Control/"
_ERRORS: dict[str, type[ZonalError]] = {
    "INVALID_ARGUMENT": errors.InvalidInputError,
    "NOT_FOUND": errors.NotFoundError,
    "ALREADY_EXISTS": errors.AlreadyExistsError,
    "FAILED_PRECONDITION": errors.WrongStateError,
    "RESOURCE_EXHAUSTED": errors.ResourceExhaustedError,
    "PERMISSION_DENIED": errors.AccessDeniedError,
    "UNAVAILABLE": errors.UnavailableError,
    "DEADLINE_EXCEEDED": errors.DeadlineError,
    "ABORTED": errors.ZoneFailedError,
}


class Replies(Protocol[Reply_co]):
    """The replies of a streaming call; iterating raises ``ZonalError``."""

    def __iter__(self) -> Iterator[Reply_co]:
        """Each reply as it comes."""
        ...

    def cancel(self) -> None:
        """Hangs up; the iteration then ends with ``CallCancelled``."""
        ...


class CallCancelled(Exception):  # noqa: N818
    """The call was given up by ``Replies.cancel``."""


class Control:
    """Calls on zonald over a channel; every one raises ``ZonalError``."""

    def __init__(self, channel: grpc.Channel, socket: Path | None = None) -> None:
        """``socket``: the unix socket that the channel leads to, if it is one."""
        self.socket = socket
        # The types of its makers of calls have parameters that nothing can determine.
        self._channel = cast("Any", channel)

    def call(self, name: str, request: Message, reply: type[Reply]) -> Reply:
        """A call with one request and one reply."""
        method = self._channel.unary_unary(_SERVICE + name, _serialise, _parser(reply))
        with _translated():
            return method(request)

    def stream(self, name: str, request: Message, reply: type[Reply]) -> Replies[Reply]:
        """A call with one request and a stream of replies."""
        method = self._channel.unary_stream(_SERVICE + name, _serialise, _parser(reply))
        return _Replies(method(request))

    def upload(self, name: str, requests: Iterable[Message], reply: type[Reply]) -> Reply:
        """A call with a stream of requests and one reply."""
        method = self._channel.stream_unary(_SERVICE + name, _serialise, _parser(reply))
        with _translated():
            return method(iter(requests))

    def converse(self, name: str, requests: Iterable[Message], reply: type[Reply]) -> Replies[Reply]:
        """A call with streams both ways."""
        method = self._channel.stream_stream(_SERVICE + name, _serialise, _parser(reply))
        return _Replies(method(iter(requests)))


class _Replies(Replies[Reply]):
    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[Reply]:
        with _translated():
            yield from self._call

    def cancel(self) -> None:
        self._call.cancel()


def _serialise(message: Message) -> bytes:
    return message.SerializeToString()


def _parser(reply: type[Reply]) -> Callable[[bytes], Reply]:
    return reply.FromString


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except grpc.RpcError as error:
        call = cast("grpc.Call", error)
        if call.code() is grpc.StatusCode.CANCELLED:
            raise CallCancelled from error
        raise error_of(call) from error


def error_of(call: grpc.Call) -> ZonalError:
    """What a failed call says, as the class of error that zonald raised."""
    metadata = dict(call.trailing_metadata() or ())
    code, message = call.code().name, call.details() or "no reason was given"
    hint = metadata.get(HINT_KEY)
    text = hint.decode(errors="replace") if isinstance(hint, bytes) else None
    status = metadata.get(EXIT_STATUS_KEY)
    if code == "UNAVAILABLE" and status is None:
        # It is gRPC's own: the connection could not be made, or broke.
        return UnavailableError(f"the connection to zonald failed: {message}", hint="is it running? zonal info")
    error = _ERRORS.get(code, ZonalError)(message, hint=text)
    if isinstance(status, str) and status.isdecimal():
        error.exit_status = int(status)
    return error
