"""Archives of images: what we write is read by us, and by skopeo as both of the formats that it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.images.tarballs import OciLayout, digest, docker_archive, file, folder, tarball, write
from zonal.errors import InvalidInputError, NotFoundError
from zonal.images.store import ImageStore

BASE = tarball(folder("bin"), file("bin/sh", b"shell" * 5000))
APP = tarball(file("app", b"application"))
OTHER = tarball(file("app", b"another"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore.open(tmp_path / "store")
    yield store
    store.close()


async def filled(store: ImageStore, tmp_path: Path) -> ImageStore:
    await store.import_archive(write(tmp_path / "a.tar", OciLayout().add([BASE, APP]).tar()), name="app:1")
    await store.import_archive(write(tmp_path / "b.tar", docker_archive([BASE, OTHER])), name="team/other:2")
    store.tag("app:1", "registry.test/app:new")
    return store


def saved(store: ImageStore, target: Path, *names: str) -> Path:
    with store.save(names) as pieces:
        return write(target, b"".join(pieces))


async def test_what_is_saved_is_loaded_with_its_names_and_digests(store: ImageStore, tmp_path: Path) -> None:
    await filled(store, tmp_path)
    names = ("app:1", "registry.test/app:new", "team/other:2")
    path = saved(store, tmp_path / "saved.tar", *names)
    assert path.read_bytes() == saved(store, tmp_path / "again.tar", *names).read_bytes()
    elsewhere = ImageStore.open(tmp_path / "elsewhere")
    try:
        loaded = await elsewhere.load_archive(path)
        assert {image.references for image in loaded} == {("app:1", "registry.test/app:new"), ("team/other:2",)}
        assert {image.id for image in loaded} == {store.resolve(name).id for name in ("app:1", "team/other:2")}
        with pytest.raises(InvalidInputError, match=r"holds 2 images.*app:1"):
            await elsewhere.import_archive(path)
    finally:
        elsewhere.close()


async def test_an_image_by_its_id_is_saved_without_a_name(store: ImageStore, tmp_path: Path) -> None:
    await filled(store, tmp_path)
    wanted = store.resolve("app:1")
    path = saved(store, tmp_path / "saved.tar", wanted.id)
    elsewhere = ImageStore.open(tmp_path / "elsewhere")
    try:
        (loaded,) = await elsewhere.load_archive(path)
        assert (loaded.id, loaded.references) == (wanted.id, ())
    finally:
        elsewhere.close()


def inspect(source: str) -> dict[str, Any]:
    done = subprocess.run(["skopeo", "inspect", source], check=False, capture_output=True)
    assert done.returncode == 0, (source, done.stderr)
    return json.loads(done.stdout)


async def test_others_read_it_as_an_oci_layout_and_as_docker_s(store: ImageStore, tmp_path: Path) -> None:
    await filled(store, tmp_path)
    path = saved(store, tmp_path / "saved.tar", "app:1")
    for source in (f"oci-archive:{path}", f"docker-archive:{path}:docker.io/library/app:1"):
        assert len(inspect(source)["Layers"]) == 2


async def test_a_save_holds_its_images_and_names_what_is_missing(store: ImageStore, tmp_path: Path) -> None:
    await filled(store, tmp_path)
    with pytest.raises(NotFoundError, match="none:1"), store.save(["app:1", "none:1"]):
        pass
    assert not store.leases
    with store.save(["team/other:2"]) as pieces:
        next(pieces)
        assert len(store.prune(everything=True).deleted) == 1
        assert digest(OTHER) in store.resolve("team/other:2").layers
        assert b"".join(pieces)
    assert not store.leases


async def test_an_archive_of_docker_s_with_several_images_is_loaded_whole(store: ImageStore, tmp_path: Path) -> None:
    both = OciLayout().add([BASE, APP], annotations={"io.containerd.image.name": "docker.io/library/one:1"})
    both.add([BASE, OTHER], annotations={"io.containerd.image.name": "docker.io/library/two:1"})
    loaded = await store.load_archive(write(tmp_path / "both.tar", both.tar()))
    assert [image.references for image in loaded] == [("one:1",), ("two:1",)]
    with pytest.raises(InvalidInputError, match="plain tar"):
        await store.load_archive(write(tmp_path / "root.tar", BASE))


async def test_usage_tells_what_could_go(store: ImageStore, tmp_path: Path) -> None:
    await filled(store, tmp_path)
    free = store.usage()
    assert (free.total, free.active) == (2, 0)
    assert free.reclaimable == free.size > 0
    with store.use(store.resolve("app:1").id, "zone web"):
        used = store.usage()
        assert (used.total, used.active, used.size) == (2, 1, free.size)
        assert 0 < used.reclaimable < used.size


async def test_usage_leaves_holes_out(store: ImageStore, tmp_path: Path) -> None:
    sparse = {"GNU.sparse.map": "0,5,400000000,0", "GNU.sparse.size": "400000000"}
    await store.import_archive(write(tmp_path / "root.tar", tarball(file("hole", b"piece", pax_headers=sparse))))
    assert store.usage().size < 1 << 20
