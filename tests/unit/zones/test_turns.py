"""No more at once than there are turns, in the order in which they came, and nobody is kept waiting for ever."""

from __future__ import annotations

import asyncio

import pytest

from zonal.zones.turns import Turns


async def test_so_many_at_once_and_the_others_in_order() -> None:
    turns = Turns(2, 1000)
    running: list[int] = []
    begun: list[int] = []
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        async with turns.turn():
            running.append(number)
            begun.append(number)
            most = max(most, len(running))
            await asyncio.sleep(0.01)
            running.remove(number)

    assert not turns.all_taken
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(work(number))
        await asyncio.sleep(0)
        assert turns.all_taken
    assert (most, begun) == (2, [0, 1, 2, 3, 4, 5])
    assert not turns.all_taken


async def test_one_that_fails_or_is_cancelled_gives_its_turn_back() -> None:
    turns = Turns(1, 1000)
    with pytest.raises(ValueError, match="no"):
        async with turns.turn():
            raise ValueError("no")
    async with turns.turn():
        waiting = asyncio.ensure_future(turns.turn().__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert not turns.all_taken


async def test_one_that_takes_too_long_keeps_nobody_and_gives_nothing_back_twice() -> None:
    turns = Turns(1, 0.02)
    async with turns.turn():
        async with turns.turn():
            assert turns.all_taken
        await asyncio.sleep(0.05)
    async with turns.turn():
        assert turns.all_taken
