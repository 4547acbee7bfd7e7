"""What can be done with the nodes of the store, inside a transaction or outside."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from zonal.xen.store.connection import Connection, Request, gather_replies
from zonal.xen.store.errors import StoreNotFoundError, StoreRequestError, StoreValueError
from zonal.xen.store.wire import (
    Entry,
    MessageType,
    Permission,
    decode_permissions,
    decode_strings,
    decode_text,
    encode_path,
    encode_strings,
    encode_value,
    parse_integer,
)

_LISTING_ATTEMPTS = 100


class Nodes:
    """Reads and writes nodes.

    Every call raises :class:`StoreNotFoundError` where a node that it needs is missing, and another
    :class:`StoreError` for every other failure.
    """

    def __init__(self, connection: Connection, transaction_id: int = 0) -> None:
        self._connection = connection
        self._transaction_id = transaction_id

    async def read(self, path: str) -> bytes:
        """The node's value."""
        return await self._request(MessageType.READ, path)

    async def find(self, path: str) -> bytes | None:
        """The node's value, or nothing if there is no such node."""
        try:
            return await self.read(path)
        except StoreNotFoundError:
            return None

    async def read_text(self, path: str, *, limit: int = 1024) -> str:
        """The node's value as text of at most ``limit`` bytes; what is not UTF-8 shows as ``\\xNN``."""
        value = await self.read(path)
        if len(value) > limit:
            raise StoreValueError(path, value, f"at most {limit} bytes")
        return decode_text(value)

    async def read_int(self, path: str, minimum: int, maximum: int) -> int:
        """The node's value as a decimal number; raises :class:`StoreValueError` unless it is within the bounds."""
        return parse_integer(await self.read(path), minimum, maximum, name=path)

    async def exists(self, path: str) -> bool:
        """Whether there is such a node."""
        return await self.find(path) is not None

    async def write(self, path: str, value: str | bytes | int) -> None:
        """Sets the node's value; makes the node and its parents where they are missing."""
        await self._request(MessageType.WRITE, path, encode_value(value))

    async def put(self, entries: Iterable[Entry]) -> None:
        """Writes all entries, with their permissions, in one go: the requests do not wait for one another."""
        requests: list[Request] = []
        for entry in entries:
            path = encode_path(entry.path)
            requests.append(Request(MessageType.WRITE, path + encode_value(entry.value), entry.path))
            if entry.permissions:
                permissions = encode_strings(map(str, entry.permissions))
                requests.append(Request(MessageType.SET_PERMISSIONS, path + permissions, entry.path))
        await gather_replies(self._connection.send(self._transaction_id, requests))

    async def make_directory(self, path: str) -> None:
        """Makes the node and its parents where they are missing; leaves one that exists as it is."""
        await self._request(MessageType.MAKE_DIRECTORY, path)

    async def remove(self, path: str) -> None:
        """Removes the node and all below it; that it does not exist is no error."""
        try:
            await self._request(MessageType.REMOVE, path)
        except StoreNotFoundError:
            return

    async def list(self, path: str) -> list[str]:
        """The names of the node's children."""
        try:
            return decode_strings(await self._request(MessageType.DIRECTORY, path))
        except StoreRequestError as error:
            if error.error != "E2BIG":
                raise
        for _ in range(_LISTING_ATTEMPTS):
            names = await self._list_in_parts(path)
            if names is not None:
                return names
        raise StoreRequestError("EAGAIN", path)

    async def permissions(self, path: str) -> tuple[Permission, ...]:
        """The node's permissions, its owner's first."""
        return decode_permissions(await self._request(MessageType.GET_PERMISSIONS, path))

    async def set_permissions(self, path: str, permissions: Iterable[Permission]) -> None:
        """Replaces the node's permissions; the first entry names the owner."""
        await self._request(MessageType.SET_PERMISSIONS, path, encode_strings(map(str, permissions)))

    async def _list_in_parts(self, path: str) -> list[str] | None:
        # A part is a generation number and a piece of the list; an empty name ends the list. A generation that
        # changes between two parts means that they are of different lists.
        listing = b""
        first_generation: bytes | None = None
        while True:
            part = await self._request(MessageType.DIRECTORY_PART, path, encode_strings((len(listing),)))
            generation, _, piece = part.partition(b"\0")
            if first_generation not in (None, generation):
                return None
            first_generation = generation
            if piece == b"\0" or piece.endswith(b"\0\0"):
                return decode_strings(listing + piece[:-1])
            if not piece:
                return None
            listing += piece

    async def _request(self, kind: MessageType, path: str, rest: bytes = b"") -> bytes:
        return await self._send(Request(kind, encode_path(path) + rest, path))

    def _send(self, request: Request) -> asyncio.Future[bytes]:
        (reply,) = self._connection.send(self._transaction_id, (request,))
        return reply
