"""Who waits for a domain's end is told of it, by whichever of the two looks sees it."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from zonal.xen import domctl
from zonal.xen.abi.domctl import (
    SHUTDOWN_CRASH,
    SHUTDOWN_POWEROFF,
    XEN_DOMINF_DYING,
    XEN_DOMINF_SHUTDOWN,
    XEN_DOMINF_SHUTDOWNSHIFT,
)
from zonal.xen.domctl import DomainInfo
from zonal.xen.hypercall import Hypervisor
from zonal.xen.shutdowns import Shutdowns
from zonal.xen.store import StoreClosedError

CRASHED = XEN_DOMINF_SHUTDOWN | SHUTDOWN_CRASH << XEN_DOMINF_SHUTDOWNSHIFT


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Of the domains that there are."""
    there = {1: 0, 2: 0, 3: 0}

    def info(_: Hypervisor, domain_id: int) -> DomainInfo | None:
        if domain_id not in there:
            return None
        return DomainInfo(domain_id, bytes(16), there[domain_id], 0, 0, 0, 0, 1, 0)

    def all_flags(_: Hypervisor) -> dict[int, int]:
        return dict(there)

    monkeypatch.setattr(domctl, "domain_info", info)
    monkeypatch.setattr(domctl, "domain_flags", all_flags)
    return there


@pytest.fixture
async def shutdowns(flags: dict[int, int]) -> Shutdowns:
    del flags
    return Shutdowns(cast("Hypervisor", None))


async def test_what_has_ended_before_is_told_at_once(shutdowns: Shutdowns, flags: dict[int, int]) -> None:
    flags[1] = CRASHED
    flags[2] = XEN_DOMINF_DYING
    assert [await shutdowns.wait(number) for number in (1, 2, 4)] == [SHUTDOWN_CRASH, *2 * [SHUTDOWN_POWEROFF]]


async def test_one_look_tells_those_whose_domains_have_ended(shutdowns: Shutdowns, flags: dict[int, int]) -> None:
    waiting = [asyncio.ensure_future(shutdowns.wait(number)) for number in (1, 1, 2, 3)]
    await asyncio.sleep(0)
    await shutdowns.look()
    await asyncio.sleep(0)
    assert not any(each.done() for each in waiting)
    flags[1] = CRASHED
    del flags[2]
    await shutdowns.look()
    assert await asyncio.gather(*waiting[:3]) == [SHUTDOWN_CRASH, SHUTDOWN_CRASH, SHUTDOWN_POWEROFF]
    assert not waiting[3].done()
    waiting[3].cancel()


async def test_a_domain_that_comes_during_a_look_is_not_taken_for_gone(
    shutdowns: Shutdowns, flags: dict[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, late = asyncio.get_running_loop(), list[asyncio.Future[int]]()

    async def come() -> None:
        flags[9] = 0
        late.append(asyncio.ensure_future(shutdowns.wait(9)))
        await asyncio.sleep(0)

    def list_then_come(_: Hypervisor) -> dict[int, int]:
        listed = dict(flags)
        asyncio.run_coroutine_threadsafe(come(), loop).result(10)
        return listed

    monkeypatch.setattr(domctl, "domain_flags", list_then_come)
    await shutdowns.look()
    await asyncio.sleep(0)
    assert not late[0].done()
    late[0].cancel()


async def test_without_the_store_nobody_waits_for_ever(shutdowns: Shutdowns) -> None:
    waiting = asyncio.ensure_future(shutdowns.wait(1))
    await asyncio.sleep(0)
    shutdowns.fail(StoreClosedError("the store has gone"))
    for each in (waiting, shutdowns.wait(2)):
        with pytest.raises(StoreClosedError, match="has gone"):
            await each
