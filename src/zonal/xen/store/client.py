"""The client: a connection, its watches and its transactions."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from zonal.errors import DeadlineError
from zonal.xen.store.connection import Connection, Request
from zonal.xen.store.errors import StoreClosedError, StoreConflictError, StoreProtocolError, StoreRequestError
from zonal.xen.store.nodes import Nodes
from zonal.xen.store.watch import Watch
from zonal.xen.store.wire import MessageType, encode_strings

_T = TypeVar("_T")

TRANSACTION_ATTEMPTS = 100
_FAILED_ATTEMPTS = 5
"""How often a transaction is tried that the store cannot count."""
_PAUSE = 0.05


class Transaction(Nodes):
    """The nodes as one transaction sees them; others see nothing of it until it is committed."""

    async def commit(self) -> None:
        """Ends it with effect; raises :class:`StoreConflictError` if another writer came in between."""
        await self._send(self._end_request(b"T\0"))

    def abandon(self) -> None:
        """Ends it without effect."""
        self._connection.send_and_forget(self._transaction_id, self._end_request(b"F\0"))

    def _end_request(self, verdict: bytes) -> Request:
        return Request(MessageType.TRANSACTION_END, verdict, "what a transaction read or wrote")


class Store(Nodes):
    """The store, as an async context manager: ``async with await Store.connect() as store``.

    One client serves any number of tasks of one event loop; their requests do not wait for one another.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._watches: dict[str, Watch] = {}
        self._last_token = 0
        connection.on_event = self._on_event
        connection.on_failure = self._on_failure

    @classmethod
    async def connect(cls, path: Path | None = None) -> Self:
        """Connects to xenstored's socket or, where there is none, through the kernel; or to ``path``."""
        return cls(await Connection.open(path))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection; watches and transactions that are open end with :class:`StoreClosedError`."""
        self._connection.close()

    async def transaction(
        self, body: Callable[[Transaction], Awaitable[_T]], *, attempts: int = TRANSACTION_ATTEMPTS
    ) -> _T:
        """Runs ``body`` with a transaction, commits it, and returns what ``body`` returned.

        When another writer came in between, all is run again, so ``body`` must not change anything but the store.
        After ``attempts`` conflicts :class:`StoreConflictError` is raised. If ``body`` raises or is cancelled, nothing
        is committed.
        """
        failed = 0
        for attempt in range(1, attempts + 1):
            transaction = await self._start_transaction()
            try:
                result = await body(transaction)
            except BaseException:
                transaction.abandon()
                raise
            try:
                await transaction.commit()
            except StoreConflictError:
                if attempt == attempts:
                    raise
            except StoreRequestError as error:
                # xenstored says ENOMEM also when a domain that owns some of the nodes died meanwhile, so that it can
                # no longer count them as that domain's. A moment later it has forgotten the domain.
                failed += 1
                if error.error != "ENOMEM" or failed == _FAILED_ATTEMPTS or attempt == attempts:
                    raise
                await asyncio.sleep(_PAUSE * failed)
            else:
                return result
        raise ValueError(f"a transaction was to be tried {attempts} times")

    def watch(self, path: str) -> Watch:
        """A watch of ``path`` and all below it, or of ``@introduceDomain`` or ``@releaseDomain``; enter it to begin."""
        self._last_token += 1
        return Watch(self._connection, self._watches, path, f"zonal-{self._last_token}")

    async def wait_until(
        self, path: str, accept: Callable[[bytes | None], _T | None], *, timeout: float, what: str
    ) -> _T:
        """Waits for a value of ``path`` for which ``accept`` returns something, and returns that.

        ``accept`` gets the value, or nothing while the node is missing, and may raise. After ``timeout`` seconds
        :class:`DeadlineError` says that ``what`` did not come, with the last value.
        """
        value: bytes | None = None
        try:
            async with asyncio.timeout(timeout), self.watch(path) as watch:
                async for _ in watch:
                    value = await self.find(path)
                    accepted = accept(value)
                    if accepted is not None:
                        return accepted
        except TimeoutError:
            last = "missing" if value is None else f"{value[:80]!r}"
            raise DeadlineError(
                f"{what} did not come within {timeout:g} s: {path} is {last} in the Xen store"
            ) from None
        raise AssertionError("a watch ends only by an exception")

    async def introduce(self, domain_id: int, frame: int, port: int) -> None:
        """Makes the store serve a domain: its ring is in guest frame ``frame``, its event channel is ``port``.

        For a PV domain the frame is a machine frame number. ``port`` is the domain's own end, unbound for the host.
        """
        await self._domain_request(MessageType.INTRODUCE, domain_id, frame, port)

    async def release(self, domain_id: int) -> None:
        """Makes the store let go of a domain's ring."""
        await self._domain_request(MessageType.RELEASE, domain_id)

    async def is_domain_introduced(self, domain_id: int) -> bool:
        """Whether the store serves the domain."""
        return (await self._domain_request(MessageType.IS_DOMAIN_INTRODUCED, domain_id)).rstrip(b"\0") == b"T"

    async def get_domain_path(self, domain_id: int) -> str:
        """The domain's directory, ``/local/domain/N``."""
        return (await self._domain_request(MessageType.GET_DOMAIN_PATH, domain_id)).rstrip(b"\0").decode("ascii")

    async def _domain_request(self, kind: MessageType, domain_id: int, *rest: int) -> bytes:
        return await self._send(Request(kind, encode_strings((domain_id, *rest)), f"domain {domain_id}"))

    async def _start_transaction(self) -> Transaction:
        reply = self._send(Request(MessageType.TRANSACTION_START, b"\0", "a transaction"))
        try:
            return self._transaction_from(await asyncio.shield(reply))
        except asyncio.CancelledError:
            # The store may have begun it already: end it as soon as its number is known.
            reply.add_done_callback(self._abandon_started)
            raise

    def _abandon_started(self, reply: asyncio.Future[bytes]) -> None:
        if not reply.cancelled() and reply.exception() is None:
            self._transaction_from(reply.result()).abandon()

    def _transaction_from(self, payload: bytes) -> Transaction:
        number = payload.rstrip(b"\0")
        if not number.isdigit() or not 0 < int(number) <= 0xFFFF_FFFF:
            raise StoreProtocolError(f"the store numbered a transaction {number[:20]!r}")
        return Transaction(self._connection, int(number))

    def _on_event(self, path: str, token: str) -> None:
        watch = self._watches.get(token)
        if watch is not None:
            watch.notify(path)

    def _on_failure(self, failure: StoreClosedError) -> None:
        for watch in self._watches.values():
            watch.fail(failure)
