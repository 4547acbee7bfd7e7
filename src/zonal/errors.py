"""The one way in for every error that a user can cause.

Each class fixes the two things that the edges need: the gRPC status code that the daemon answers with, and the exit
status of the command line (docker's 125, 126 and 127 where docker has them). Anything that is not a ``ZonalError`` is
a fault of ours and ends in a traceback in the log.
"""

from __future__ import annotations

from typing import ClassVar


class ZonalError(Exception):
    """What was wrong, with which value; ``hint`` says what to do next."""

    grpc_code: ClassVar[str] = "UNKNOWN"
    """Name of the member of ``grpc.StatusCode`` that the control API answers with."""
    exit_status: int = 125
    """Exit status of the command line, as docker has it: 125 for the runtime's own refusals."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidInputError(ZonalError):
    """A value that can never work: a malformed name, a negative size, a corrupt file."""

    grpc_code = "INVALID_ARGUMENT"


class NotFoundError(ZonalError):
    """No such image, zone, kernel, file."""

    grpc_code = "NOT_FOUND"


class AlreadyExistsError(ZonalError):
    """The name is taken."""

    grpc_code = "ALREADY_EXISTS"


class WrongStateError(ZonalError):
    """The thing exists, but not in a state in which this can be done."""

    grpc_code = "FAILED_PRECONDITION"


class ResourceExhaustedError(ZonalError):
    """Not enough memory, disk, grants or another finite thing."""

    grpc_code = "RESOURCE_EXHAUSTED"


class AccessDeniedError(ZonalError):
    """Not root, or a socket that is not ours."""

    grpc_code = "PERMISSION_DENIED"


class UnavailableError(ZonalError):
    """The daemon, Xen, QEMU or another part that must be there is not."""

    grpc_code = "UNAVAILABLE"


class UnsupportedError(ZonalError):
    """What cannot be done with zones at all."""

    grpc_code = "UNIMPLEMENTED"


class DeadlineError(ZonalError):
    """Something did not answer in its time."""

    grpc_code = "DEADLINE_EXCEEDED"


class ZoneFailedError(ZonalError):
    """A zone's kernel or agent failed; the message carries the end of its console."""

    grpc_code = "ABORTED"


class CommandNotExecutableError(ZonalError):
    """The workload's command is there but cannot be executed: status 126, as docker has it."""

    grpc_code = "FAILED_PRECONDITION"
    exit_status = 126


class CommandNotFoundError(ZonalError):
    """The workload's command does not exist in the image: status 127, as docker has it."""

    grpc_code = "NOT_FOUND"
    exit_status = 127
