"""Layers that are decompressed while they arrive."""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
from pathlib import Path

import pytest

from tests.unit.images.tarballs import digest, file, tarball
from zonal.errors import InvalidInputError, UnavailableError
from zonal.images import compression
from zonal.images.archive import Layer
from zonal.images.arrival import Arrival, settle
from zonal.images.layers import OpenLayer, open_layers
from zonal.images.limits import DEFAULT
from zonal.images.tarformat import Source
from zonal.images.unpacked import Unpacked
from zonal.images.work import in_thread

TAR = tarball(file("a", b"content" * 500_000), file("b", os.urandom(300_000)))
PACKED = gzip.compress(TAR)
FAILED = UnavailableError("the registry has stopped answering", hint="try again")


def arriving(path: Path, data: bytes, size: int) -> tuple[Layer, Arrival]:
    """A layer of ``size`` bytes, of which ``data`` is there."""
    path.write_bytes(data)
    arrival = Arrival()
    arrival.add(len(data))
    source = Source(os.open(path, os.O_RDONLY), 0, size, "the layer")
    return Layer(source, digest(PACKED), digest(TAR), verified=digest(PACKED), stored=True, arrival=arrival), arrival


async def opened(folder: Path, *layers: Layer) -> list[OpenLayer]:
    (folder / "unpacked").mkdir(exist_ok=True)
    async with open_layers(layers, folder, DEFAULT, Unpacked(folder / "unpacked")) as ready:
        assert all(os.pread(each.source.fd, each.source.size, 0) == TAR for each in ready)
        return ready


async def test_it_is_ready_when_all_of_it_is_there_and_verified(tmp_path: Path) -> None:
    layer, arrival = arriving(tmp_path / "layer", PACKED[:10], len(PACKED))
    task = asyncio.create_task(opened(tmp_path, layer))
    for begin in range(10, len(PACKED), 50_000):
        piece = PACKED[begin : begin + 50_000]
        with (tmp_path / "layer").open("ab") as target:
            target.write(piece)
        arrival.add(len(piece))
        await asyncio.sleep(0)
        assert not task.done()
    arrival.end()
    settle(arrival.verified, None)
    (ready,) = await task
    assert (ready.digest, ready.diff_id) == (digest(PACKED), digest(TAR))


async def test_it_is_decompressed_while_it_arrives(tmp_path: Path) -> None:
    layer, arrival = arriving(tmp_path / "layer", PACKED[:200_000], len(PACKED))
    out = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR)
    seen = threading.Event()

    def step() -> None:
        if os.fstat(out).st_size:
            seen.set()

    work = in_thread(lambda _: compression.expand(layer.source, "gzip", out, DEFAULT, arrival=arrival, on_step=step))
    task = asyncio.create_task(work)
    await asyncio.to_thread(seen.wait)
    with (tmp_path / "layer").open("ab") as target:
        target.write(PACKED[200_000:])
    arrival.add(len(PACKED) - 200_000)
    assert (await task).digest == digest(TAR)


@pytest.mark.parametrize("there", [PACKED[:100_000], PACKED[:5], b"", bytes(len(PACKED)), PACKED[:-1] + b"x"], ids=len)
async def test_why_it_did_not_arrive_counts_more_than_what_is_wrong_with_it(tmp_path: Path, there: bytes) -> None:
    layer, arrival = arriving(tmp_path / "layer", there, len(PACKED))
    task = asyncio.create_task(opened(tmp_path, layer))
    await asyncio.sleep(0.05)
    arrival.fail(FAILED)
    with pytest.raises(UnavailableError, match="stopped answering"):
        await task
    assert not list((tmp_path / "unpacked").iterdir())


async def test_what_arrived_as_it_should_and_is_malformed(tmp_path: Path) -> None:
    layer, arrival = arriving(tmp_path / "layer", bytes(len(PACKED)), len(PACKED))
    arrival.end()
    settle(arrival.verified, None)
    with pytest.raises(InvalidInputError, match="its digest is"):
        await opened(tmp_path, layer)


@pytest.mark.parametrize("cancelled", [True, False])
async def test_nobody_waits_for_what_is_not_wanted_any_more(tmp_path: Path, cancelled: bool) -> None:
    layer, _ = arriving(tmp_path / "layer", PACKED[:100_000], len(PACKED))
    other, arrival = arriving(tmp_path / "other", b"", len(PACKED))
    task = asyncio.create_task(opened(tmp_path, layer, other))
    await asyncio.sleep(0.05)
    if cancelled:
        task.cancel()
    else:
        arrival.fail(FAILED)
    with pytest.raises(asyncio.CancelledError if cancelled else UnavailableError):
        await task
