"""Pulls, imports, uses, removals and prunes of one store at once, for five seconds, or for ``ZONAL_RACE``."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path

import pytest

from tests.unit.images.registry import Registry, registry
from tests.unit.images.tarballs import OciLayout, configuration, digest, docker_archive, file, folder, tarball, write
from zonal.errors import NotFoundError, WrongStateError
from zonal.images.skopeo import Access
from zonal.images.store import ImageStore

SECONDS = float(os.environ.get("ZONAL_RACE", "5"))
PLAIN = Access(verify_tls=False)
BASE = tarball(folder("bin"), file("bin/sh", os.urandom(300_000)))
LAYERS = {name: tarball(file("app", os.urandom(200_000))) for name in ("one", "two", "three")}


@pytest.fixture(name="server")
def a_registry(tmp_path: Path) -> Generator[Registry]:
    with registry(tmp_path / "registry") as running:
        yield running


async def test_whatever_is_in_use_is_whole_and_in_the_end_nothing_is_left(server: Registry, tmp_path: Path) -> None:
    names = [server.put("team", name, OciLayout().add([BASE, layer])) for name, layer in LAYERS.items()]
    # The same layers in another image, which has the erofs of the first.
    layers = [BASE, LAYERS["one"]]
    archive = write(tmp_path / "twin.tar", docker_archive(layers, configuration(layers, {"Cmd": ["twin"]})))
    store = ImageStore.open(tmp_path / "store")
    end, done = time.monotonic() + SECONDS, Counter[str]()

    async def use(image_id: str) -> None:
        try:
            lease = store.use(image_id, "zone web")
        except NotFoundError:
            done["removed first"] += 1
            return
        with lease:
            for _ in range(3):
                assert lease.held.erofs.stat().st_size == lease.held.size
                assert digest(store.read_config(image_id)) == image_id
                await asyncio.sleep(random.uniform(0, 0.05))
            done["used"] += 1

    async def pull() -> None:
        await use((await store.pull(random.choice(names), PLAIN)).image.id)

    async def bring_in() -> None:
        await use((await store.import_archive(archive, name="twin")).id)

    async def prune() -> None:
        store.prune(everything=random.random() < 0.5)
        await asyncio.sleep(random.uniform(0, 0.1))

    async def remove() -> None:
        try:
            store.remove(random.choice([*names, "twin"]))
            done["removed"] += 1
        except (NotFoundError, WrongStateError):
            pass
        await asyncio.sleep(random.uniform(0, 0.1))

    async def again(what: Callable[[], Awaitable[None]]) -> None:
        while time.monotonic() < end:
            await what()

    async with asyncio.TaskGroup() as group:
        for what in (pull, pull, pull, bring_in, bring_in, prune, remove):
            group.create_task(again(what))
    print(dict(done))
    assert done["used"] and done["removed"]
    # Everything that is listed is there; a store that is opened drops what is not.
    listed = store.list()
    assert all(image.erofs.stat().st_size == image.size for image in listed)
    store.close()
    store = ImageStore.open(tmp_path / "store")
    assert store.list() == listed
    store.prune(everything=True)
    store.close()
    left = [path for path in (tmp_path / "store").rglob("*") if path.is_file() and path.parent != tmp_path / "store"]
    assert not left
