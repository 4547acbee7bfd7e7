"""The store's wire protocol: messages, permissions, paths and values, as bytes.

Layouts and numbers are those of Xen's public header ``io/xs_wire.h`` and of its ``docs/misc/xenstore.txt``. Nothing
here does any input or output.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from zonal.xen.store.errors import StoreProtocolError, StoreRequestError, StoreValueError

HEADER = struct.Struct("<4I")
"""``struct xsd_sockmsg``: type, request id, transaction id, length of the payload in bytes."""

PAYLOAD_MAX = 4096
"""``XENSTORE_PAYLOAD_MAX``, bytes: xenstored cuts the connection of a client that sends more."""
ABSOLUTE_PATH_MAX = 3072
"""``XENSTORE_ABS_PATH_MAX``, bytes."""

_PATH_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@")
_DIGITS_MAX = 20  # of an integer of 64 bits


class MessageType(IntEnum):
    """``enum xsd_sockmsg_type``, without what only a debugger or a resume needs."""

    DIRECTORY = 1
    READ = 2
    GET_PERMISSIONS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MAKE_DIRECTORY = 12
    REMOVE = 13
    SET_PERMISSIONS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    DIRECTORY_PART = 22


class Access(Enum):
    """What a permission allows; the value is its letter on the wire."""

    NONE = "n"
    READ = "r"
    WRITE = "w"
    BOTH = "b"


@dataclass(frozen=True, slots=True)
class Permission:
    """One entry of a node's permissions.

    The first entry of a node names its owner, who may do everything, and the access of every domain that no later
    entry names.
    """

    domain_id: int
    access: Access = Access.NONE

    def __str__(self) -> str:
        return f"{self.access.value}{self.domain_id}"


@dataclass(frozen=True, slots=True)
class Entry:
    """A node to be written: what the device planners and the domain builder hand to a transaction.

    With no permissions the node keeps those it has, or inherits its parent's.
    """

    path: str
    value: str | bytes = b""
    permissions: tuple[Permission, ...] = ()


class Message(NamedTuple):
    """One message, in either direction."""

    type: int
    request_id: int
    transaction_id: int
    payload: bytes


def encode_message(message: Message) -> bytes:
    """Header and payload; raises :class:`StoreRequestError` (``E2BIG``) for a payload over :data:`PAYLOAD_MAX`."""
    size = len(message.payload)
    if size > PAYLOAD_MAX:
        raise StoreRequestError("E2BIG", f"a store request of {size} bytes", limit=PAYLOAD_MAX)
    return HEADER.pack(message.type, message.request_id, message.transaction_id, size) + message.payload


class MessageDecoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yields the messages that ``data`` completes; raises :class:`StoreProtocolError` for one that is too long."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            kind, request_id, transaction_id, length = HEADER.unpack_from(self._buffer)
            if length > PAYLOAD_MAX:
                raise StoreProtocolError(f"the store announced a message of {length} bytes; the most is {PAYLOAD_MAX}")
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            payload = bytes(self._buffer[HEADER.size : end])
            del self._buffer[:end]
            yield Message(kind, request_id, transaction_id, payload)


def encode_path(path: str) -> bytes:
    """The path with its closing NUL; raises :class:`StoreRequestError` (``EINVAL``) for one that cannot exist."""
    special = path.startswith("@")
    well_formed = (
        _PATH_CHARACTERS.issuperset(path)
        and (special or path.startswith("/"))
        and "//" not in path
        and (path == "/" or not path.endswith("/"))
    )
    if not well_formed or len(path) > ABSOLUTE_PATH_MAX:
        raise StoreRequestError("EINVAL", f"the store path {path[:80]!r}")
    return path.encode("ascii") + b"\0"


def encode_value(value: str | bytes | int) -> bytes:
    """A value as it is stored: text in UTF-8, an integer in decimal, no closing NUL."""
    if isinstance(value, bytes):
        return value
    return str(value).encode()


def encode_strings(strings: Iterable[str | int]) -> bytes:
    """Each string followed by a NUL."""
    return b"".join(str(string).encode() + b"\0" for string in strings)


def decode_strings(payload: bytes) -> list[str]:
    """The strings of a payload in which each is followed by a NUL (a missing last NUL is forgiven)."""
    parts = payload.split(b"\0")
    if not parts[-1]:
        parts.pop()
    return [decode_text(part) for part in parts]


def decode_text(value: bytes) -> str:
    """A value as text; bytes that are not UTF-8 become ``\\xNN``, so that hostile values still print."""
    return value.decode("utf-8", "backslashreplace")


def decode_permissions(payload: bytes) -> tuple[Permission, ...]:
    """The permissions of a ``GET_PERMS`` reply."""
    permissions: list[Permission] = []
    for text in decode_strings(payload):
        try:
            permissions.append(Permission(int(text[1:]), Access(text[:1])))
        except ValueError:
            raise StoreProtocolError(f"the store answered with the permission {text[:40]!r}") from None
    return tuple(permissions)


def parse_integer(value: bytes, minimum: int, maximum: int, *, name: str) -> int:
    """A decimal integer out of a value that a zone may have written.

    Only ASCII digits count, at most 20 of them. Raises :class:`StoreValueError`, which quotes ``name`` and the value,
    for anything else and for a number outside ``minimum`` … ``maximum``.
    """
    if 0 < len(value) <= _DIGITS_MAX and value.isdigit():
        number = int(value)
        if minimum <= number <= maximum:
            return number
    raise StoreValueError(name, value, f"a decimal number from {minimum} to {maximum}")
