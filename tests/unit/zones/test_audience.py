"""Who listens to a workload's output: in order, together where it is there already, and never without bound."""

from __future__ import annotations

import asyncio

from zonal.zones.audience import MAX_BUFFERED, MAX_MERGED, Audience
from zonal.zones.spec import OutputChunk


async def everything(audience: Audience) -> list[OutputChunk]:
    audience.end()
    return [chunk async for chunk in audience.chunks()]


async def test_what_is_there_of_one_stream_comes_together_and_in_order() -> None:
    audience = Audience()
    chunks: list[OutputChunk] = [(1, b"a"), (1, b"b"), (2, b"c"), (1, b"d"), (1, b"e")]
    for chunk in chunks:
        audience.add(chunk)
    assert await everything(audience) == [(1, b"ab"), (2, b"c"), (1, b"de")]


async def test_no_piece_is_larger_than_what_is_told() -> None:
    audience = Audience()
    for number in range(20):
        audience.add((1, bytes([number]) * (60 << 10)))
    chunks = await everything(audience)
    assert b"".join(data for _, data in chunks) == b"".join(bytes([number]) * (60 << 10) for number in range(20))
    assert all(len(data) <= MAX_MERGED for _, data in chunks)
    assert len(chunks) == 10


async def test_who_brings_more_than_fits_waits_until_enough_was_taken() -> None:
    audience = Audience()
    audience.add((1, bytes(MAX_BUFFERED + 1)))
    bringing = asyncio.ensure_future(audience.put((2, b"x")))
    await asyncio.sleep(0)
    assert not bringing.done()
    assert audience.full
    chunks = audience.chunks()
    await anext(chunks)
    await bringing
    assert not audience.full
