"""Layers that are kept decompressed: used again, never for another's, and given up when the disk fills."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.images.tarballs import digest, file, tarball
from zonal.errors import InvalidInputError
from zonal.images import compression
from zonal.images.archive import Layer
from zonal.images.layers import keep_fresh, open_layers, open_source
from zonal.images.limits import DEFAULT
from zonal.images.unpacked import Unpacked

TAR = tarball(file("a", b"content" * 1000))
PACKED = gzip.compress(TAR)


def kept(folder: Path, *, budget: int = 1 << 20, least_free: int = 0) -> Unpacked:
    (folder / "unpacked").mkdir(exist_ok=True)
    return Unpacked(folder / "unpacked", budget=budget, least_free=least_free)


async def content(folder: Path, data: bytes, unpacked: Unpacked, *, layer: str = "", diff_id: str = "") -> bytes:
    path = folder / "layer"
    path.write_bytes(data)
    with open_source(path, "the layer") as source:
        wanted = Layer(source, layer or digest(data), diff_id or digest(TAR))
        async with open_layers([wanted], folder, DEFAULT, unpacked) as (ready,):
            assert ready.digest == digest(data)
            if ready.fresh:
                unpacked.keep(ready.source.fd, ready.digest, ready.diff_id)
            return os.pread(ready.source.fd, ready.source.size, ready.source.offset)


async def test_a_layer_is_decompressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = kept(tmp_path)
    assert await content(tmp_path, PACKED, unpacked) == TAR
    monkeypatch.setattr(compression, "expand", None)
    assert await content(tmp_path, PACKED, unpacked) == TAR
    assert unpacked.clear() > 0
    assert unpacked.size == 0


async def test_nobody_gets_at_a_layer_without_having_it(tmp_path: Path) -> None:
    unpacked = kept(tmp_path)
    await content(tmp_path, PACKED, unpacked)
    other = gzip.compress(tarball(file("b", b"other")))
    with pytest.raises(InvalidInputError, match="its digest is"):
        await content(tmp_path, other, unpacked, layer=digest(PACKED))
    with pytest.raises(InvalidInputError, match="its digest is"):
        await content(tmp_path, other, unpacked)
    damaged = PACKED[:-1] + bytes([PACKED[-1] ^ 1])
    with pytest.raises(InvalidInputError):
        await content(tmp_path, damaged, unpacked, layer=digest(PACKED))
    assert await content(tmp_path, PACKED, unpacked) == TAR


async def test_what_the_store_has_verified_is_not_verified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = kept(tmp_path)
    path = tmp_path / "layer"
    path.write_bytes(PACKED)
    with open_source(path, "the layer") as source:
        # Of what has just arrived, the compressed digest is known; what it decompresses to is checked all the same.
        arrived = Layer(source, digest(PACKED), digest(TAR), verified=digest(PACKED), stored=True)
        async with open_layers([arrived], tmp_path, DEFAULT, unpacked) as layers:
            assert (layers[0].digest, layers[0].diff_id) == (digest(PACKED), digest(TAR))
            keep_fresh(layers, unpacked)
        with pytest.raises(InvalidInputError, match="its digest is"):
            async with open_layers([replace(arrived, diff_id=digest(b"other"))], tmp_path, DEFAULT, unpacked):
                pass
        monkeypatch.setattr(compression, "digest", None)
        monkeypatch.setattr(compression, "expand", None)
        stored = replace(arrived, verified=None)
        async with open_layers([stored], tmp_path, DEFAULT, unpacked) as (layer,):
            assert os.pread(layer.source.fd, layer.source.size, 0) == TAR


async def test_the_longest_unused_goes_first_and_all_when_the_disk_fills(tmp_path: Path) -> None:
    unpacked = kept(tmp_path, budget=100_000)
    for number in range(3):
        fd = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(fd, bytes(40_000))
        unpacked.keep(fd, f"sha256:{number}", "sha256:d")
        os.close(fd)
        found = sorted((tmp_path / "unpacked").iterdir())
        for path in found:
            os.utime(path, (int(path.name[0]), int(path.name[0])))
    assert [path.name for path in sorted((tmp_path / "unpacked").iterdir())] == ["1.d", "2.d"]
    unpacked.remove_unless(lambda name: name == "sha256:2")
    assert [path.name for path in (tmp_path / "unpacked").iterdir()] == ["2.d"]
    kept(tmp_path, least_free=1 << 60).trim()
    assert unpacked.size == 0
