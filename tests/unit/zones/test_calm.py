"""Calm comes some time after the last haste, and not before."""

from __future__ import annotations

import asyncio

import pytest

from zonal.zones.calm import Calm


async def is_calm(calm: Calm) -> bool:
    try:
        async with asyncio.timeout(0.01):
            await calm.wait()
    except TimeoutError:
        return False
    return True


async def test_it_begins_calm_and_haste_ends_that_at_once() -> None:
    calm = Calm(1000)
    calm.begin()
    assert await is_calm(calm)
    calm.end()
    assert not await is_calm(calm)
    calm.begin()
    assert not await is_calm(calm)


async def test_it_comes_after_its_time_counted_from_the_last_haste() -> None:
    calm, clock = Calm(0.2), asyncio.get_running_loop()
    calm.end()
    calm.begin()
    await asyncio.sleep(0.15)
    calm.end()
    calm.begin()
    again = clock.time()
    await calm.wait()
    assert clock.time() - again >= 0.19


@pytest.mark.parametrize("ends", [1, 3])
async def test_haste_that_goes_on_keeps_it_away(ends: int) -> None:
    calm = Calm(0.02)
    for _ in range(ends):
        calm.begin()
        calm.end()
    await asyncio.sleep(0.1)
    assert not await is_calm(calm)
