from __future__ import annotations

import asyncio
import gzip
import lzma
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.unit.images.erofs_reader import Erofs
from tests.unit.images.tarballs import OciLayout, configuration, digest, docker_archive, file, folder, tarball, write
from zonal.errors import InvalidInputError, NotFoundError, ResourceExhaustedError, WrongStateError
from zonal.images import compression
from zonal.images.blobs import Blobs
from zonal.images.config import chain_id
from zonal.images.store import ImageStore
from zonal.images.tarformat import Source

ROOT = tarball(folder("bin"), file("bin/sh", b"shell" * 300))
UPPER = tarball(file("bin/.wh.sh"), file("app", b"application"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore.open(tmp_path / "store")
    yield store
    store.close()


def files(tmp_path: Path) -> set[str]:
    """Everything below the store that belongs to images."""
    root = tmp_path / "store"
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.parent != root}


def tree(path: Path) -> set[str]:
    return {os.fsdecode(name) for name, _ in Erofs(path.read_bytes()).walk()} - {"."}


async def test_a_root_filesystem_becomes_an_image(store: ImageStore, tmp_path: Path) -> None:
    steps: list[str] = []
    image = await store.import_archive(
        write(tmp_path / "root.tar", ROOT), name="debian:13", settings=b'{"Cmd": ["sh"]}', progress=steps.append
    )
    assert image.references == ("debian:13",)
    assert image.layers == (digest(ROOT),)
    assert image.size == image.erofs.stat().st_size
    assert tree(image.erofs) == {"bin", "bin/sh"}
    assert store.config(image.id).command == ("sh",)
    assert digest(store.read_config(image.id)) == image.id
    assert steps and all("\n" not in step for step in steps)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
async def test_a_compressed_archive_is_the_same_image(
    store: ImageStore, tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    plain = await store.import_archive(write(tmp_path / "plain", ROOT))
    packed = await store.import_archive(write(tmp_path / "packed", pack(ROOT)))
    assert packed.id == plain.id


async def test_layers_are_flattened(store: ImageStore, tmp_path: Path) -> None:
    for data in (OciLayout().add([ROOT, UPPER]).tar(), docker_archive([ROOT, UPPER])):
        image = await store.import_archive(write(tmp_path / "image.tar", data), name="app")
        assert image.references == ("app:latest",)
        assert image.chain_id == chain_id([digest(ROOT), digest(UPPER)])
        assert tree(image.erofs) == {"bin", "app"}


async def test_an_image_has_the_name_that_its_archive_gives(store: ImageStore, tmp_path: Path) -> None:
    names = ["registry.example/team/app:2", "app:1"]
    image = await store.import_archive(write(tmp_path / "image.tar", docker_archive([ROOT], names=names)))
    assert set(image.references) == set(names)
    layout = OciLayout().add([UPPER], annotations={"org.opencontainers.image.ref.name": "v1.0"})
    assert (await store.import_archive(write(tmp_path / "image.tar", layout.tar()))).references == ()


async def test_an_image_is_found_by_every_form_of_its_name(store: ImageStore, tmp_path: Path) -> None:
    data = OciLayout().add([ROOT]).tar()
    image = await store.import_archive(write(tmp_path / "image.tar", data), name="debian:13")
    hexadecimal = image.id.removeprefix("sha256:")
    forms = ["debian:13", "docker.io/library/debian:13", "library/debian:13", image.id, hexadecimal, hexadecimal[:12]]
    for form in [*forms, image.id[:12], hexadecimal[:2]]:
        assert store.resolve(form) == image
    for missing in ("debian", "debian:12", "0" * 64, "sha256:" + "0" * 12, f"debian@sha256:{'0' * 64}"):
        with pytest.raises(NotFoundError):
            store.resolve(missing)
    assert store.list() == [image]


async def test_an_image_is_found_by_the_digest_of_its_manifest(store: ImageStore, tmp_path: Path) -> None:
    layout = OciLayout().add([ROOT])
    image = await store.import_archive(write(tmp_path / "image.tar", layout.tar()), name="team/app:1")
    assert store.resolve(f"team/app@{layout.manifests[0]['digest']}") == image
    with pytest.raises(NotFoundError):
        store.resolve(f"other/app@{layout.manifests[0]['digest']}")


async def test_two_imports_at_once_do_the_work_once(store: ImageStore, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one", ROOT), write(tmp_path / "two", docker_archive([ROOT], names=[]))
    steps: list[str] = []
    images = await asyncio.gather(
        *(store.import_archive(path, name="a", progress=steps.append) for path in (one, one, two, one))
    )
    assert len({image.chain_id for image in images}) == 1
    assert sum(step.startswith("writing") for step in steps) == 1


async def test_a_name_moves_to_the_image_imported_last(store: ImageStore, tmp_path: Path) -> None:
    old = await store.import_archive(write(tmp_path / "old", ROOT), name="a")
    new = await store.import_archive(write(tmp_path / "new", UPPER), name="a")
    assert store.resolve("a").id == new.id
    assert store.resolve(old.id).references == ()


async def test_removing_the_last_name_removes_the_image(store: ImageStore, tmp_path: Path) -> None:
    path = write(tmp_path / "root.tar", ROOT)
    await store.import_archive(path, name="a")
    image = await store.import_archive(path, name="b")
    assert store.remove("a").deleted == ()
    removed = store.remove("b")
    assert (removed.untagged, removed.deleted) == (("b:latest",), (image.id,))
    assert files(tmp_path) == set()
    with pytest.raises(NotFoundError):
        store.remove("b")


async def test_an_erofs_stays_while_another_image_has_it(store: ImageStore, tmp_path: Path) -> None:
    path = write(tmp_path / "root.tar", ROOT)
    await store.import_archive(path, name="a", settings=b'{"Cmd": ["a"]}')
    other = await store.import_archive(path, name="b", settings=b'{"Cmd": ["b"]}')
    assert store.remove("a").deleted
    assert tree(other.erofs) == {"bin", "bin/sh"}
    store.remove("b")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("moment", ["checking", "keeping"])
async def test_an_erofs_that_is_removed_while_another_image_is_made_of_it_is_made_anew(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    await store.import_archive(write(tmp_path / "root.tar", ROOT), name="a", settings=b'{"Cmd": ["a"]}')

    def progress(step: str) -> None:
        if moment == "checking" and step.startswith("checking"):
            store.remove("a")

    keep = Blobs.keep

    async def remove_first(blobs: Blobs, digest: str, blob: Source, folder: Path) -> None:
        if moment == "keeping":
            store.remove("a")
        await keep(blobs, digest, blob, folder)

    monkeypatch.setattr(Blobs, "keep", remove_first)
    other = write(tmp_path / "other.tar", docker_archive([ROOT], configuration([ROOT], {"Cmd": ["b"]})))
    image = await store.import_archive(other, name="b", progress=progress)
    assert store.list() == [image]
    assert tree(image.erofs) == {"bin", "bin/sh"}
    assert image.erofs.stat().st_size == image.size
    store.close()
    again = ImageStore.open(tmp_path / "store")
    assert again.list() == [image]
    again.close()


async def test_removing_by_id_takes_force_if_there_are_several_names(store: ImageStore, tmp_path: Path) -> None:
    path = write(tmp_path / "root.tar", ROOT)
    await store.import_archive(path, name="a")
    image = await store.import_archive(path, name="b")
    with pytest.raises(WrongStateError, match="several names"):
        store.remove(image.id)
    assert set(store.remove(image.id, force=True).untagged) == {"a:latest", "b:latest"}
    assert files(tmp_path) == set()


async def test_an_image_in_use_stays(store: ImageStore, tmp_path: Path) -> None:
    image = await store.import_archive(write(tmp_path / "root.tar", ROOT), name="a")
    with store.use(image.id, "zone web"):
        lease = store.use(image.id, "zone db")
        for force in (False, True):
            with pytest.raises(WrongStateError, match="zone db, zone web"):
                store.remove("a", force=force)
    with pytest.raises(WrongStateError, match="zone db"):
        store.remove(image.id)
    lease.release()
    lease.release()
    store.remove("a")
    with pytest.raises(NotFoundError):
        store.use(image.id, "zone web")


async def test_what_is_there_outlives_the_process(store: ImageStore, tmp_path: Path) -> None:
    image = await store.import_archive(write(tmp_path / "root.tar", ROOT), name="a")
    with pytest.raises(WrongStateError, match="in use by another process"):
        ImageStore.open(tmp_path / "store")
    store.close()
    again = ImageStore.open(tmp_path / "store")
    assert again.resolve("a") == image
    again.close()


async def test_opening_removes_what_was_left_half_done(store: ImageStore, tmp_path: Path) -> None:
    image = await store.import_archive(write(tmp_path / "root.tar", ROOT), name="a")
    before = files(tmp_path)
    store.close()
    root = tmp_path / "store"
    (root / "tmp" / "x").mkdir()
    for left in ("tmp/x/erofs", "tmp/y", f"erofs/{'0' * 64}.erofs", f"blobs/sha256/{'0' * 64}"):
        write(root / left, b"half")
        os.utime(root / left, (0, 0))  # a layer of an interrupted pull stays for a day
    again = ImageStore.open(root)
    assert files(tmp_path) == before
    assert again.resolve("a") == image
    again.close()


@pytest.mark.parametrize("damage", ["erofs", "blobs", "short"])
async def test_an_image_whose_files_are_gone_is_dropped(store: ImageStore, tmp_path: Path, damage: str) -> None:
    image = await store.import_archive(write(tmp_path / "root.tar", ROOT), name="a")
    store.close()
    if damage == "short":
        os.truncate(image.erofs, 100)
    else:
        shutil.rmtree(tmp_path / "store" / damage)
    again = ImageStore.open(tmp_path / "store")
    assert again.list() == []
    # What its blobs hold is as good as ever: they stay for a day, for who makes the image again.
    assert all(name.startswith("blobs/") for name in files(tmp_path))
    assert (await again.import_archive(tmp_path / "root.tar", name="a")).id == image.id
    again.close()


# What goes wrong leaves nothing.


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"not a tar" * 100, "not a tar archive"),
        (bytes(10240), "holds no files"),
        (ROOT[:1700], "truncated"),
        (gzip.compress(ROOT)[:-9], "truncated"),
        (tarball(file("../x")), r"'\.\.'"),
        (tarball(file("/etc/passwd")), "absolute"),
        (docker_archive([ROOT], configuration([UPPER])), "corrupt: its digest is"),
        (docker_archive([ROOT, b"junk" * 300]), "not a tar archive"),
        (docker_archive([ROOT], configuration([ROOT], architecture="arm64")), "arm64"),
    ],
)
async def test_bad_archives_leave_nothing(store: ImageStore, tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        await store.import_archive(write(tmp_path / "x", data), name="a", source="root.tar")
    assert "root.tar" in caught.value.message
    assert files(tmp_path) == set()
    assert store.list() == []


async def test_a_layer_that_is_not_what_its_digest_says_is_refused(store: ImageStore, tmp_path: Path) -> None:
    layout = OciLayout().add([ROOT])
    (name,) = (name for name, data in layout.files.items() if data.startswith(b"\x1f\x8b"))
    layout.files[name] = layout.files[name][:-5] + b"\0" + layout.files[name][-4:]
    with pytest.raises(InvalidInputError, match="corrupt"):
        await store.import_archive(write(tmp_path / "x", layout.tar()))
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["Not A Name", f"a@sha256:{'0' * 64}"])
async def test_bad_names_are_refused(store: ImageStore, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError):
        await store.import_archive(write(tmp_path / "x", ROOT), name=name)
    assert files(tmp_path) == set()


async def test_settings_are_for_plain_roots(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="settings of its own"):
        await store.import_archive(write(tmp_path / "x", docker_archive([ROOT])), settings=b'{"Cmd": ["x"]}')
    with pytest.raises(InvalidInputError, match="Cmd"):
        await store.import_archive(write(tmp_path / "x", ROOT), settings=b'{"Cmd": "x"}')
    assert files(tmp_path) == set()


async def test_a_missing_file_is_said_to_be_missing(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing"):
        await store.import_archive(tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match="not a plain file"):
        await store.import_archive(tmp_path)


async def test_a_disk_that_is_too_small_is_told_in_numbers(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", Mock(return_value=full))
    with pytest.raises(ResourceExhaustedError, match=r"\d+ MiB are free, \d+ MiB are needed"):
        await store.import_archive(write(tmp_path / "x", tarball(file("big", bytes(3 << 20)))), name="a")
    assert files(tmp_path) == set()


async def test_an_import_can_be_cancelled(store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tarball(*(file(f"f{n}", os.urandom(1 << 20)) for n in range(12)))
    path = write(tmp_path / "x", gzip.compress(data, 1))
    started = asyncio.Event()

    def progress(step: str) -> None:
        if step.startswith("writing"):
            started.set()

    for wait in (False, True):
        task = asyncio.create_task(store.import_archive(path, name="a", progress=progress))
        await (started.wait() if wait else asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert files(tmp_path) == set()
    assert store.list() == []


async def test_a_known_digest_is_not_made_again(store: ImageStore, tmp_path: Path) -> None:
    image = await store.import_archive(write(tmp_path / "x", ROOT), digest=digest(ROOT))
    assert image.layers == (digest(ROOT),)
    packed = gzip.compress(ROOT)
    assert (await store.import_archive(write(tmp_path / "y", packed), digest=digest(packed))).id == image.id


async def test_a_kernel_s_layers_are_decompressed_once(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [tarball(folder("kernel"), file("kernel/image", b"kernel"))]
    await store.import_archive(write(tmp_path / "image.tar", OciLayout().add(layers).tar()), name="kernel:1")
    assert store.prune().freed  # what is kept decompressed
    for turn in ("first", "second"):
        (tmp_path / turn).mkdir()
        assert (await store.kernel("kernel:1", tmp_path / turn)).image.read_bytes() == b"kernel"
        monkeypatch.setattr(compression, "expand", None)
