"""What can go wrong between Zonal and the store."""

from __future__ import annotations

from zonal.errors import InvalidInputError, UnavailableError, ZonalError

_MEANINGS = {
    "EINVAL": "is malformed",
    "EACCES": "may not be touched with these permissions",
    "EPERM": "may not be touched with these permissions",
    "EEXIST": "exists already",
    "ENOENT": "does not exist",
    "ENOSPC": "does not fit into the owner's quota",
    "E2BIG": "is too large",
    "EAGAIN": "was changed by another client meanwhile",
    "EBUSY": "is in use",
    "EROFS": "cannot be changed: the store is read-only",
}


class StoreError(ZonalError):
    """Every failure of a store operation."""

    grpc_code = "INTERNAL"


class StoreRequestError(StoreError):
    """The store refused a request; ``error`` is the errno's name, ``path`` what the request was about."""

    def __init__(self, error: str, path: str, *, limit: int | None = None) -> None:
        meaning = _MEANINGS.get(error, "could not be handled")
        bound = f", the most is {limit}" if limit is not None else ""
        super().__init__(f"{path} {meaning}{bound} ({error})")
        self.error = error
        self.path = path


class StoreNotFoundError(StoreRequestError):
    """``ENOENT``: no such node."""


class StoreConflictError(StoreRequestError):
    """``EAGAIN``: a transaction lost against other writers, as often as it was tried."""


class StoreProtocolError(StoreError):
    """The store sent something that its protocol does not know."""


class StoreClosedError(StoreError, UnavailableError):
    """There is no connection to the store, or no longer."""

    grpc_code = "UNAVAILABLE"


class StoreValueError(StoreError, InvalidInputError):
    """A value in the store, usually one that a zone wrote, is not what it must be."""

    grpc_code = "INVALID_ARGUMENT"

    def __init__(self, name: str, value: bytes, expected: str) -> None:
        quoted = repr(value[:40])[1:] + ("…" if len(value) > 40 else "")
        super().__init__(f"{name} is {quoted} in the store; it must be {expected}")
        self.name = name
        self.value = value


def request_error(error: str, path: str) -> StoreRequestError:
    """The most specific error for an errno's name as the store sends it."""
    match error:
        case "ENOENT":
            return StoreNotFoundError(error, path)
        case "EAGAIN":
            return StoreConflictError(error, path)
        case _:
            return StoreRequestError(error, path)
