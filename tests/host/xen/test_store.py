"""The client against the host's own xenstored, over its socket and through the kernel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from zonal.errors import DeadlineError
from zonal.xen.store import (
    Access,
    Entry,
    Permission,
    Store,
    StoreConflictError,
    StoreNotFoundError,
    StoreRequestError,
    StoreValueError,
    Transaction,
)

BASE = "/zonal-test-store"


@pytest.fixture(params=["/run/xenstored/socket", "/dev/xen/xenbus"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    async with await Store.connect(Path(request.param)) as store:
        yield store
        await store.remove(BASE)


@pytest.fixture
async def other() -> AsyncIterator[Store]:
    async with await Store.connect() as store:
        yield store


async def test_values_are_kept(store: Store, other: Store) -> None:
    await store.write(f"{BASE}/a/b", "zwölf")
    await store.write(f"{BASE}/a/c", bytes(range(256)))
    await store.write(f"{BASE}/a/d", 12)
    await store.make_directory(f"{BASE}/a/e")
    assert await other.read_text(f"{BASE}/a/b") == "zwölf"
    assert await other.read(f"{BASE}/a/c") == bytes(range(256))
    assert await other.read_int(f"{BASE}/a/d", 0, 12) == 12
    assert await other.read(f"{BASE}/a/e") == b""
    assert sorted(await other.list(f"{BASE}/a")) == ["b", "c", "d", "e"]
    with pytest.raises(StoreValueError, match="from 0 to 11"):
        await other.read_int(f"{BASE}/a/d", 0, 11)
    with pytest.raises(StoreValueError, match="at most 3 bytes"):
        await other.read_text(f"{BASE}/a/b", limit=3)
    await store.remove(f"{BASE}/a")
    await store.remove(f"{BASE}/a")
    assert not await other.exists(f"{BASE}/a/b")
    with pytest.raises(StoreNotFoundError, match=f"{BASE}/a/b"):
        await other.read(f"{BASE}/a/b")


async def test_the_largest_value_fits(store: Store) -> None:
    path = f"{BASE}/large"
    largest = 2048  # xenstored's own bound on a node, unless it is started with another
    await store.write(path, bytes(largest - 256))
    with pytest.raises(StoreRequestError, match="E2BIG"):
        await store.write(path, bytes(4096))
    assert await store.read(path) == bytes(largest - 256)


async def test_permissions_are_kept(store: Store, other: Store) -> None:
    permissions = (Permission(0), Permission(7, Access.READ), Permission(8, Access.BOTH))
    await store.put([Entry(f"{BASE}/a", "1", permissions)])
    assert await other.permissions(f"{BASE}/a") == permissions
    await store.set_permissions(f"{BASE}/a", permissions[:1])
    assert await other.permissions(f"{BASE}/a") == permissions[:1]


async def test_long_directories_are_whole(store: Store) -> None:
    names = [f"child-with-a-long-name-{number:04}" for number in range(500)]

    async def fill(transaction: Transaction) -> None:
        await transaction.put(Entry(f"{BASE}/many/{name}") for name in names)

    await store.transaction(fill)
    assert sorted(await store.list(f"{BASE}/many")) == names


async def test_a_watch_sees_the_changes_of_others(store: Store, other: Store) -> None:
    async with store.watch(BASE) as watch:
        assert await watch.next() == BASE
        await other.write(f"{BASE}/x/y", "1")
        assert await watch.next() == f"{BASE}/x/y"
        await other.remove(BASE)
        assert (await watch.next()).startswith(BASE)


async def test_others_see_a_transaction_only_when_it_is_committed(store: Store, other: Store) -> None:
    async def body(transaction: Transaction) -> None:
        await transaction.write(f"{BASE}/t", "1")
        assert await transaction.read(f"{BASE}/t") == b"1"
        assert not await other.exists(f"{BASE}/t")

    await store.transaction(body)
    assert await other.read(f"{BASE}/t") == b"1"


async def test_a_conflict_runs_the_transaction_again(store: Store, other: Store) -> None:
    runs = 0
    await store.write(f"{BASE}/counter", 0)

    async def increment(transaction: Transaction) -> None:
        nonlocal runs
        runs += 1
        number = await transaction.read_int(f"{BASE}/counter", 0, 100)
        if runs == 1:
            await other.write(f"{BASE}/counter", 10)
        await transaction.write(f"{BASE}/counter", number + 1)

    await store.transaction(increment)
    assert (runs, await other.read(f"{BASE}/counter")) == (2, b"11")


async def test_transactions_of_many_tasks_lose_nothing(store: Store) -> None:
    await store.write(f"{BASE}/counter", 0)

    async def increment(transaction: Transaction) -> None:
        await transaction.write(f"{BASE}/counter", await transaction.read_int(f"{BASE}/counter", 0, 100) + 1)

    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(store.transaction(increment))
    assert await store.read_int(f"{BASE}/counter", 0, 100) == 5


async def test_an_endless_conflict_ends(store: Store, other: Store) -> None:
    async def body(transaction: Transaction) -> None:
        await transaction.write(f"{BASE}/t", "1")
        await other.write(f"{BASE}/t", "2")

    with pytest.raises(StoreConflictError):
        await store.transaction(body, attempts=3)


async def test_waiting_for_a_value(store: Store, other: Store) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(
            store.wait_until(f"{BASE}/v", lambda value: value == b"3" or None, timeout=30, what="three")
        )
        for number in range(4):
            await other.write(f"{BASE}/v", number)
    assert waiting.result() is True
    with pytest.raises(DeadlineError, match="four did not come"):
        await store.wait_until(f"{BASE}/v", lambda value: value == b"4" or None, timeout=0.05, what="four")


async def test_domains_are_known(store: Store) -> None:
    assert await store.is_domain_introduced(0)
    assert not await store.is_domain_introduced(32000)
    assert await store.get_domain_path(3) == "/local/domain/3"
    with pytest.raises(StoreRequestError, match="domain 32000"):
        await store.introduce(32000, 1, 1)
