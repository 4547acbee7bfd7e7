"""Pulls from and pushes to a real registry, with a real skopeo between."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.unit.images.registry import PASSWORD, USER, Registry, registry
from tests.unit.images.tarballs import OciLayout, configuration, digest, file, folder, tarball
from zonal.errors import AccessDeniedError, InvalidInputError, NotFoundError, UnavailableError, ZonalError
from zonal.images import pull, skopeo
from zonal.images.pull import LayerProgress, LayerState
from zonal.images.skopeo import Access, Login
from zonal.images.store import ImageStore

PLAIN = Access(verify_tls=False)
BASE = tarball(folder("bin"), file("bin/sh", os.urandom(200_000)))
APPLICATION = tarball(file("app", b"application"))
OTHER = tarball(file("app", b"another application"))


@pytest.fixture(scope="module", name="server")
def a_registry(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    with registry(tmp_path_factory.mktemp("registry") / "open") as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    store = ImageStore.open(tmp_path / "store")
    yield store
    store.close()


def blobs(tmp_path: Path, store: str = "store") -> set[str]:
    return {path.name for path in (tmp_path / store / "blobs/sha256").iterdir()}


async def test_an_image_is_pulled_once_and_known_by_its_tag_and_digest(server: Registry, store: ImageStore) -> None:
    layout = OciLayout().add([BASE, APPLICATION])
    name = server.put("team/app", "1", layout)
    news: list[LayerProgress] = []
    steps: list[str] = []
    pulled = await store.pull(name, PLAIN, progress=steps.append, news=news.append)
    assert pulled.new
    assert pulled.image.layers == (digest(BASE), digest(APPLICATION))
    assert store.resolve(name).id == pulled.image.id
    (by_digest,) = [reference for reference in pulled.image.references if "@" in reference]
    assert store.resolve(by_digest).id == pulled.image.id
    ends = {item.digest: item for item in news}
    assert len(ends) == 2
    assert all(item.state is LayerState.FETCHED and item.done == item.size for item in ends.values())
    again = await store.pull(name, PLAIN, progress=steps.append)
    assert not again.new
    assert (await store.pull(by_digest, PLAIN)).image.id == pulled.image.id
    assert sum(step.startswith("writing") for step in steps) == 1


async def test_layers_that_are_here_are_not_fetched_again(server: Registry, store: ImageStore) -> None:
    await store.pull(server.put("team/one", "1", OciLayout().add([BASE, APPLICATION])), PLAIN)
    news: list[LayerProgress] = []
    await store.pull(server.put("team/two", "1", OciLayout().add([BASE, OTHER])), PLAIN, news=news.append)
    assert [item.state for item in news if item.state in (LayerState.PRESENT, LayerState.FETCHED)].count(
        LayerState.PRESENT
    ) == 1


async def test_pulls_at_once_do_the_work_once(server: Registry, store: ImageStore) -> None:
    name = server.put("team/once", "1", OciLayout().add([BASE, APPLICATION]))
    other = server.put("team/once", "2", OciLayout().add([BASE, OTHER]))
    news: list[LayerProgress] = []
    steps: list[str] = []
    pulled = await asyncio.gather(
        *(store.pull(each, PLAIN, progress=steps.append, news=news.append) for each in (name, name, other, name))
    )
    assert [item.new for item in pulled].count(True) == 2
    assert sum(item.state is LayerState.FETCHED for item in news) == 3
    assert sum(step.startswith("writing") for step in steps) == 2


async def test_a_moved_tag_moves_here_too_and_the_old_image_can_be_pruned(server: Registry, store: ImageStore) -> None:
    old = (await store.pull(server.put("team/moving", "1", OciLayout().add([BASE, APPLICATION])), PLAIN)).image
    name = server.put("team/moving", "1", OciLayout().add([BASE, OTHER]))
    new = (await store.pull(name, PLAIN)).image
    assert store.resolve(name).id == new.id != old.id
    with store.use(old.id, "zone web"):
        assert store.prune().deleted == ()
    assert store.prune().deleted == (old.id,)
    assert not old.erofs.exists()
    assert new.erofs.exists()
    assert store.resolve(name) == new


async def test_docker_s_own_kind_of_manifest(server: Registry, store: ImageStore, tmp_path: Path) -> None:
    image = await store.import_archive(_write(tmp_path / "root.tar", BASE), name="base:1")
    name = f"{server.host}/team/docker:1"
    await store.push("base:1", name, PLAIN)
    copy = ["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--format=v2s2"]
    process = await asyncio.create_subprocess_exec(
        "skopeo", *copy, f"docker://{name}", f"docker://{server.host}/team/docker:2"
    )
    assert await process.wait() == 0
    pulled = (await store.pull(f"{server.host}/team/docker:2", PLAIN)).image
    assert pulled.layers == image.layers


async def test_an_index_gives_the_image_for_this_platform(server: Registry, store: ImageStore) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    layout = OciLayout()
    ours = layout.image([BASE, APPLICATION], platform={"os": "linux", "architecture": "amd64"})
    theirs = layout.image([OTHER], platform={"os": "linux", "architecture": "arm64"})
    for name, data in layout.files.items():
        if name.startswith("blobs/"):
            server.put_blob("team/many", data)
    for descriptor in (ours, theirs):
        document = layout.files[f"blobs/sha256/{descriptor['digest'][7:]}"]
        server.request("PUT", f"/v2/team/many/manifests/{descriptor['digest']}", document, descriptor["mediaType"])
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [theirs, ours]}).encode()
    server.request("PUT", "/v2/team/many/manifests/1", index, kind)
    image = (await store.pull(f"{server.host}/team/many:1", PLAIN)).image
    assert image.layers == (digest(BASE), digest(APPLICATION))
    # skopeo says either the index's digest or the manifest's, by its version; both of them pull the same.
    for known in (digest(index), ours["digest"]):
        again = await store.pull(f"{server.host}/team/many@{known}", PLAIN)
        assert again.image.id == image.id
        assert store.resolve(f"{server.host}/team/many@{known}").id == image.id
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [theirs]}).encode()
    server.request("PUT", "/v2/team/many/manifests/2", index, kind)
    with pytest.raises(InvalidInputError, match="platform"):
        await store.pull(f"{server.host}/team/many:2", PLAIN)


async def test_what_is_pushed_is_pulled_as_it_was(server: Registry, store: ImageStore, tmp_path: Path) -> None:
    pulled = (await store.pull(server.put("team/source", "1", OciLayout().add([BASE, APPLICATION])), PLAIN)).image
    store.tag(pulled.references[0], f"{server.host}/team/target:new")
    pushed = await store.push(f"{server.host}/team/target:new", access=PLAIN)
    other = ImageStore.open(tmp_path / "other")
    try:
        found = (await other.pull(f"{server.host}/team/target:new", PLAIN)).image
        assert found.id == pulled.id
        assert f"{server.host}/team/target@{pushed}" in found.references
    finally:
        other.close()


async def test_credentials_are_asked_for_and_used(store: ImageStore, tmp_path: Path) -> None:
    with registry(tmp_path / "closed", password=True) as server:
        login = Access(Login(USER, PASSWORD), verify_tls=False)
        image = await store.import_archive(_write(tmp_path / "root.tar", BASE), name="base:1")
        name = f"{server.host}/team/secret:1"
        with pytest.raises(AccessDeniedError) as caught:
            await store.push("base:1", name, PLAIN)
        assert f"zonal login {server.host}" in (caught.value.hint or "")
        await store.push("base:1", name, login)
        for wrong in (PLAIN, Access(Login(USER, "wrong"), verify_tls=False)):
            with pytest.raises(AccessDeniedError):
                await store.pull(name, wrong)
        assert (await store.pull(name, login)).image.layers == image.layers
        assert not list((tmp_path / "store").rglob("auth.json"))


async def test_the_host_s_settings_say_how_registries_are_reached(
    server: Registry, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.put("copies/app", "1", OciLayout().add([BASE]))
    settings = tmp_path / ".config/containers/registries.conf"
    settings.parent.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))  # whose settings count before those in /etc
    mirror = f'location = "{server.host}/copies"\ninsecure = true\n'
    _write(
        settings,
        f'[[registry]]\n{mirror}[[registry]]\nlocation = "images.example/team"\n[[registry.mirror]]\n{mirror}'
        '[[registry]]\nlocation = "blocked.example"\nblocked = true\n'.encode(),
    )
    assert (await store.pull("images.example/team/app:1")).image.references[0].startswith("images.example/team/app")
    assert (await store.pull(f"{server.host}/copies/app:1")).image.layers == (digest(BASE),)
    with pytest.raises(AccessDeniedError, match="forbid this registry"):
        await store.pull("blocked.example/app:1")
    _write(settings, b"[[registry")
    with pytest.raises(InvalidInputError, match=f"cannot be read.*{settings.name}"):
        await store.pull("images.example/team/app:1")


async def test_what_a_registry_does_not_have(server: Registry, store: ImageStore) -> None:
    for name in (f"{server.host}/none:1", server.put("team/some", "1", OciLayout().add([BASE])) + "2"):
        with pytest.raises(NotFoundError, match=name):
            await store.pull(name, PLAIN)
    with pytest.raises(NotFoundError):
        await store.pull(f"{server.host}/team/some@sha256:{'0' * 64}", PLAIN)
    assert store.list() == []


@pytest.mark.parametrize("damage", ["changed", "cut short", "gone"])
async def test_a_registry_s_damaged_layer(server: Registry, store: ImageStore, tmp_path: Path, damage: str) -> None:
    layer = tarball(file("app", os.urandom(100_000)))
    layout = OciLayout().add([BASE, layer])
    name = server.put("team/damaged", damage.replace(" ", "-"), layout)
    (blob,) = [
        path for path, data in layout.files.items() if path.startswith("blobs/") and len(data) in range(99_000, 120_000)
    ]
    stored = server.stored(blob.rpartition("/")[2])
    data = stored.read_bytes()
    match damage:
        case "changed":
            stored.write_bytes(data[:50_000] + b"\0" * 100 + data[50_100:])
        case "cut short":
            stored.write_bytes(data[:50_000])
        case _:
            stored.unlink()
    with pytest.raises((UnavailableError, NotFoundError), match="team/damaged"):
        await store.pull(name, PLAIN)
    assert store.list() == []
    assert blob.rpartition("/")[2] not in blobs(tmp_path)
    stored.write_bytes(data)
    # What did arrive is used.
    news: list[LayerProgress] = []
    await store.pull(name, PLAIN, news=news.append)


async def test_a_layer_that_was_damaged_here_is_fetched_anew(
    server: Registry, store: ImageStore, tmp_path: Path
) -> None:
    layout = OciLayout().add([BASE, APPLICATION])
    name = server.put("team/bitrot", "1", layout)
    image = (await store.pull(name, PLAIN)).image
    store.remove(name)
    (compressed,) = [each["digest"] for each in _layers(layout)[1:]]
    path = tmp_path / "store/blobs/sha256" / compressed[7:]
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * len(layout.files[f"blobs/sha256/{compressed[7:]}"]))
    with pytest.raises(InvalidInputError):
        await store.pull(name, PLAIN)
    assert (await store.pull(name, PLAIN)).image.id == image.id


async def test_a_layer_that_is_not_what_the_configuration_says(server: Registry, store: ImageStore) -> None:
    config = configuration([BASE, OTHER])
    name = server.put("team/liar", "1", OciLayout().add([BASE, APPLICATION], config))
    with pytest.raises(InvalidInputError, match="corrupt"):
        await store.pull(name, PLAIN)
    assert store.list() == []


@pytest.mark.parametrize("count", [0, 300])
async def test_a_manifest_with_no_layers_or_too_many(server: Registry, store: ImageStore, count: int) -> None:
    layout = OciLayout().add([BASE])
    name = server.put("team/bomb", str(count), layout, layers=_layers(layout) * count)
    with pytest.raises(InvalidInputError, match="layers"):
        await store.pull(name, PLAIN)


async def test_a_registry_that_says_nothing(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skopeo, "IDLE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        name = f"127.0.0.1:{silent.getsockname()[1]}/team/app:1"
        with pytest.raises(UnavailableError, match="stopped answering"):
            await store.pull(name, PLAIN)
        monkeypatch.setattr(skopeo, "IDLE_SECONDS", 60.0)
        task = asyncio.create_task(store.pull(name, PLAIN))
        await asyncio.sleep(0.5)
        begin = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begin < 30
    with pytest.raises(ZonalError, match="refused"):
        await store.pull(name, PLAIN)


async def test_without_space_nothing_is_begun(
    server: Registry, store: ImageStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pull, "RESERVE_BYTES", 1 << 60)
    with pytest.raises(ZonalError, match="no space for the image"):
        await store.pull(server.put("team/large", "1", OciLayout().add([BASE])), PLAIN)
    assert blobs(tmp_path) == set()


def _layers(layout: OciLayout) -> list[dict[str, str]]:
    document = layout.files[f"blobs/sha256/{layout.manifests[0]['digest'][7:]}"]
    return json.loads(document)["layers"]


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


async def test_credentials_are_checked_with_the_registry_and_not_kept(store: ImageStore, tmp_path: Path) -> None:
    with registry(tmp_path / "closed", password=True) as closed:
        await store.check_login(closed.host, Access(Login(USER, PASSWORD), verify_tls=False))
        with pytest.raises(AccessDeniedError, match="refuses"):
            await store.check_login(closed.host, Access(Login(USER, "wrong"), verify_tls=False))
    assert not [path for path in (tmp_path / "store").rglob("*.json") if path.is_file()]
    with pytest.raises(UnavailableError):
        await store.check_login(closed.host, Access(Login(USER, PASSWORD), verify_tls=False))


async def test_a_layer_that_still_arrives_when_another_one_fails_is_written_to_its_own_file_only(
    server: Registry, store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration([BASE, OTHER])
    name = server.put("team/both", "1", OciLayout().add([BASE, APPLICATION], config))
    splice, close = os.splice, os.close
    under_way: set[int] = set()

    def slow(source: int, target: int, count: int) -> int:
        under_way.add(target)
        try:
            if os.fstat(target).st_size == 0 and count > 100_000:
                time.sleep(1)
            return splice(source, target, count)
        finally:
            under_way.discard(target)

    def checked(fd: int) -> None:
        assert fd not in under_way
        close(fd)

    monkeypatch.setattr(os, "splice", slow)
    monkeypatch.setattr(os, "close", checked)
    with pytest.raises(InvalidInputError, match="corrupt"):
        await store.pull(name, PLAIN)
    assert not list((tmp_path / "store/tmp").iterdir())
