"""The client against a store at the other end of a real socket that answers as each test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from zonal.errors import DeadlineError
from zonal.xen.store import (
    Access,
    Entry,
    Permission,
    Store,
    StoreClosedError,
    StoreConflictError,
    StoreNotFoundError,
    StoreProtocolError,
    StoreRequestError,
    Transaction,
)
from zonal.xen.store.wire import Message, MessageDecoder, MessageType, encode_message

Answer = Callable[[Message], list[Message]]


class Peer:
    """Answers every request by ``answer``, and remembers all of them."""

    def __init__(self) -> None:
        self.answer: Answer = lambda message: [ok(message)]
        self.requests: list[Message] = []
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        decoder = MessageDecoder()
        while data := await reader.read(65536):
            for message in decoder.feed(data):
                self.requests.append(message)
                for reply in self.answer(message):
                    writer.write(encode_message(reply))
        writer.close()

    def send(self, *messages: Message) -> None:
        assert self.writer is not None
        for message in messages:
            self.writer.write(encode_message(message))


def ok(message: Message, payload: bytes = b"OK\0") -> Message:
    return message._replace(payload=payload)


def error(message: Message, name: bytes) -> Message:
    return message._replace(type=MessageType.ERROR, payload=name + b"\0")


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[Peer]:
    peer = Peer()
    server = await asyncio.start_unix_server(peer.serve, tmp_path / "socket")
    async with server:
        yield peer
        if peer.writer is not None:
            peer.writer.close()


@pytest.fixture
async def store(peer: Peer, tmp_path: Path) -> AsyncIterator[Store]:
    async with await Store.connect(tmp_path / "socket") as store:
        yield store


async def test_no_socket_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StoreClosedError, match=r"No such file.*xenstored running"):
        await Store.connect(tmp_path / "missing")


async def test_replies_may_come_in_any_order(peer: Peer, store: Store) -> None:
    held: list[Message] = []

    def answer(message: Message) -> list[Message]:
        held.append(message)
        return [ok(entry, entry.payload[:-1]) for entry in reversed(held)] if len(held) == 3 else []

    peer.answer = answer
    assert await asyncio.gather(*(store.read(path) for path in ("/a", "/b", "/c"))) == [b"/a", b"/b", b"/c"]


async def test_errors_carry_name_and_path(peer: Peer, store: Store) -> None:
    peer.answer = lambda message: [error(message, b"ENOENT" if b"/gone" in message.payload else b"EACCES")]
    with pytest.raises(StoreNotFoundError, match="/gone does not exist"):
        await store.read("/gone")
    with pytest.raises(StoreRequestError, match="/shut") as caught:
        await store.read("/shut")
    assert (caught.value.error, caught.value.path) == ("EACCES", "/shut")
    assert await store.find("/gone") is None
    await store.remove("/gone")


async def test_entries_go_out_without_waiting_for_one_another(peer: Peer, store: Store) -> None:
    held: list[Message] = []

    def answer(message: Message) -> list[Message]:
        held.append(message)
        return list(map(ok, held)) if len(held) == 3 else []

    peer.answer = answer
    permissions = (Permission(0), Permission(7, Access.READ))
    await store.put([Entry("/a", "1", permissions), Entry("/b", b"2")])
    assert [request.payload for request in peer.requests] == [b"/a\x001", b"/a\0n0\0r7\0", b"/b\x002"]


async def test_the_first_refused_entry_is_raised(peer: Peer, store: Store) -> None:
    peer.answer = lambda message: [ok(message) if b"/a" in message.payload else error(message, b"EINVAL")]
    with pytest.raises(StoreRequestError, match="/b"):
        await store.put([Entry("/a"), Entry("/b"), Entry("/c")])


def transactional(conflicts: int, why: bytes = b"EAGAIN") -> Answer:
    ended = 0

    def answer(message: Message) -> list[Message]:
        nonlocal ended
        if message.type == MessageType.TRANSACTION_START:
            return [ok(message, b"%d\0" % (100 + ended))]
        if message.type == MessageType.TRANSACTION_END and message.payload == b"T\0":
            ended += 1
            return [error(message, why) if ended <= conflicts else ok(message)]
        return [ok(message)]

    return answer


async def test_a_store_that_cannot_count_a_dead_domain_s_nodes_is_asked_again_a_few_times(
    peer: Peer, store: Store
) -> None:
    runs: list[Transaction] = []

    async def body(transaction: Transaction) -> None:
        runs.append(transaction)

    peer.answer = transactional(2, b"ENOMEM")
    await store.transaction(body)
    assert len(runs) == 3
    peer.answer = transactional(100, b"ENOMEM")
    with pytest.raises(StoreRequestError, match="ENOMEM"):
        await store.transaction(body)
    assert len(runs) < 20
    peer.answer = transactional(1, b"ENOSPC")
    with pytest.raises(StoreRequestError, match="ENOSPC"):
        await store.transaction(body)


async def test_a_transaction_is_run_again_after_a_conflict(peer: Peer, store: Store) -> None:
    peer.answer = transactional(conflicts=2)
    runs: list[Transaction] = []

    async def body(transaction: Transaction) -> str:
        runs.append(transaction)
        await transaction.write("/a", "1")
        return "done"

    assert await store.transaction(body) == "done"
    assert len(runs) == 3
    writes = [request.transaction_id for request in peer.requests if request.type == MessageType.WRITE]
    assert writes == [100, 101, 102]


async def test_a_transaction_gives_up_after_so_many_conflicts(peer: Peer, store: Store) -> None:
    peer.answer = transactional(conflicts=1000)
    with pytest.raises(StoreConflictError):
        await store.transaction(lambda transaction: transaction.write("/a", "1"), attempts=3)
    assert len([request for request in peer.requests if request.type == MessageType.TRANSACTION_START]) == 3


async def test_a_transaction_that_fails_is_not_committed(peer: Peer, store: Store) -> None:
    peer.answer = transactional(conflicts=0)

    async def body(transaction: Transaction) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        await store.transaction(body)
    await store.read("/a")  # so that all that was sent before has arrived
    ends = [request.payload for request in peer.requests if request.type == MessageType.TRANSACTION_END]
    assert ends == [b"F\0"]


async def test_a_transaction_cancelled_at_its_start_is_ended(peer: Peer, store: Store) -> None:
    starts: asyncio.Queue[Message] = asyncio.Queue()
    ends: asyncio.Queue[Message] = asyncio.Queue()

    def answer(message: Message) -> list[Message]:
        (starts if message.type == MessageType.TRANSACTION_START else ends).put_nowait(message)
        return []

    peer.answer = answer
    task = asyncio.ensure_future(store.transaction(lambda transaction: transaction.write("/a", "1")))
    start = await starts.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    peer.send(ok(start, b"42\0"))
    end = await ends.get()
    assert (end.type, end.transaction_id, end.payload) == (MessageType.TRANSACTION_END, 42, b"F\0")


async def test_a_long_directory_comes_in_parts_of_one_generation(peer: Peer, store: Store) -> None:
    listing = b"".join(b"child-%d\0" % number for number in range(100))
    generations = iter([b"1", b"2", b"2", b"2", b"2", b"2", b"2", b"2", b"2"])

    def answer(message: Message) -> list[Message]:
        if message.type == MessageType.DIRECTORY:
            return [error(message, b"E2BIG")]
        offset = int(message.payload.split(b"\0")[1])
        piece = listing[offset : offset + 400]
        piece = piece[: piece.rindex(b"\0") + 1]
        if offset + len(piece) == len(listing):
            piece += b"\0"
        return [ok(message, next(generations) + b"\0" + piece)]

    peer.answer = answer
    assert await store.list("/many") == [f"child-{number}" for number in range(100)]


def event(path: str, token: bytes) -> Message:
    return Message(MessageType.WATCH_EVENT, 0, 0, path.encode() + b"\0" + token + b"\0")


def token_of(request: Message) -> bytes:
    return request.payload.split(b"\0")[1]


async def test_a_watch_tells_each_changed_path_once(peer: Peer, store: Store) -> None:
    async with store.watch("/a") as watch:
        token = token_of(peer.requests[-1])
        peer.send(event("/a", token), event("/a/b", token), event("/a", token), event("/x", b"of another"))
        await store.read("/sync")
        assert [await watch.next(), await watch.next()] == ["/a", "/a/b"]
        peer.send(event("/a/c", token))
        assert await watch.next() == "/a/c"
    await store.read("/sync")
    assert peer.requests[-2].type == MessageType.UNWATCH
    assert token_of(peer.requests[-2]) == token


async def test_a_flood_of_changes_is_bounded(peer: Peer, store: Store) -> None:
    async with store.watch("/a") as watch:
        token = token_of(peer.requests[-1])
        peer.send(*(event(f"/a/{number}", token) for number in range(10_000)))
        await store.read("/sync")
        seen: set[str] = set()
        while "/a/9999" not in seen:
            seen.add(await watch.next())
        assert len(seen) <= 65
        assert "/a" in seen


async def test_all_ends_when_the_store_goes_away(peer: Peer, store: Store) -> None:
    arrived = asyncio.Event()

    def answer(message: Message) -> list[Message]:
        if message.type == MessageType.WATCH:
            return [ok(message)]
        arrived.set()
        return []

    peer.answer = answer
    async with store.watch("/a") as watch:
        reading = asyncio.ensure_future(store.read("/b"))
        waiting = asyncio.ensure_future(watch.next())
        await arrived.wait()
        assert peer.writer is not None
        peer.writer.close()
        with pytest.raises(StoreClosedError, match="xenstored closed"):
            await reading
        with pytest.raises(StoreClosedError):
            await waiting
    with pytest.raises(StoreClosedError):
        await store.read("/c")


def unknown_id(message: Message) -> Message:
    return message._replace(request_id=message.request_id + 7)


def other_type(message: Message) -> Message:
    return message._replace(type=MessageType.WRITE)


def event_of_nothing(message: Message) -> Message:
    return Message(MessageType.WATCH_EVENT, 0, 0, b"")


@pytest.mark.parametrize("nonsense", [unknown_id, other_type, event_of_nothing])
async def test_a_store_that_breaks_the_protocol_is_left(
    peer: Peer, store: Store, nonsense: Callable[[Message], Message]
) -> None:
    peer.answer = lambda message: [nonsense(message)]
    with pytest.raises(StoreClosedError, match=r"the store (answered|sent)"):
        await store.read("/a")


async def test_a_bad_transaction_number_is_refused(peer: Peer, store: Store) -> None:
    peer.answer = lambda message: [ok(message, b"0\0")]
    with pytest.raises(StoreProtocolError):
        await store.transaction(lambda transaction: transaction.write("/a", "1"))


async def test_a_deadline_tells_the_last_value(peer: Peer, store: Store) -> None:
    peer.answer = lambda message: (
        [ok(message), event("/a", token_of(message))]
        if message.type == MessageType.WATCH
        else [ok(message, b"half\x1b[2J")]
    )
    with pytest.raises(DeadlineError, match=r"the whole did not come within 0.05 s: /a is b'half\\x1b\[2J'"):
        await store.wait_until("/a", lambda value: value == b"whole" or None, timeout=0.05, what="the whole")
