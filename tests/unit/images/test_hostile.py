"""What a registry that fails or lies gets: one clear error with the image's name, and nothing is left of it."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.unit.images.hostile import Answer, Hostile, body, hostile, make_certificate, status
from tests.unit.images.tarballs import OciLayout, configuration, digest, file, hard_link, symlink, tarball, write
from zonal.errors import (
    AccessDeniedError,
    InvalidInputError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
    ZonalError,
)
from zonal.images import erofs, pull, skopeo
from zonal.images.limits import Limits
from zonal.images.skopeo import Access
from zonal.images.store import ImageStore

PLAIN = Access(verify_tls=False)
LAYER = tarball(file("app", os.urandom(300_000)))
PACKED = gzip.compress(LAYER, mtime=0)
BLOB = f"blobs/{digest(PACKED)}"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(name="server")
def a_hostile_registry() -> Iterator[Hostile]:
    with hostile() as server:
        yield server


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[ImageStore]:
    store = ImageStore.open(tmp_path / "store")
    await store.import_archive(write(tmp_path / "old.tar", tarball(file("old", b"old"))), name="old:1")
    yield store
    store.close()


async def refused(store: ImageStore, name: str, access: Access = PLAIN) -> ZonalError:
    """The error of a pull, after a look at what it has left."""
    before = _files(store)
    with pytest.raises(ZonalError) as caught:
        await store.pull(name, access)
    assert name in caught.value.message
    assert "\n" not in str(caught.value)
    assert [image.references for image in store.list()] == [("old:1",)]
    assert store.resolve("old:1").erofs.is_file()
    left = _files(store) - before
    # A blob that arrived whole may stay for the next try; nothing else does.
    assert all(path.parent.name == "sha256" and digest(path.read_bytes())[7:] == path.name for path in left)
    return caught.value


def _files(store: ImageStore) -> set[Path]:
    root = store.resolve("old:1").erofs.parent.parent
    return {path for path in root.rglob("*") if path.is_file() and path.parent != root}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(401, WWW_Authenticate='Basic realm="test"'), AccessDeniedError),
        (status(403), AccessDeniedError),
        (status(404), NotFoundError),
        (status(429, Retry_After="0"), ResourceExhaustedError),
        (status(500), UnavailableError),
        (status(503), UnavailableError),
        (status(302, Location="/v2/team/app/manifests/1"), UnavailableError),
        (body(b"", length=500), UnavailableError),
    ],
    ids=["401", "403", "404", "429", "500", "503", "circle", "cut"],
)
async def test_a_refused_manifest(server: Hostile, store: ImageStore, answer: Answer, kind: type[ZonalError]) -> None:
    server.put(OciLayout().add([LAYER]))
    server.answers["manifests/1"] = answer
    assert type(await refused(store, server.name())) is kind


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(403), AccessDeniedError),
        (status(404), NotFoundError),
        (status(429, Retry_After="0"), ResourceExhaustedError),
        (status(500), UnavailableError),
        (body(PACKED[:100_000], length=len(PACKED)), UnavailableError),
        (body(PACKED[:100_000]), UnavailableError),
        (body(PACKED[:-1] + b"x"), UnavailableError),
        (body(PACKED + b"more"), UnavailableError),
    ],
    ids=["403", "404", "429", "500", "cut", "short", "changed", "long"],
)
async def test_a_refused_or_damaged_layer(
    server: Hostile, store: ImageStore, monkeypatch: pytest.MonkeyPatch, answer: Answer, kind: type[ZonalError]
) -> None:
    monkeypatch.setattr(skopeo, "PROBE_SECONDS", 0.2)
    server.put(OciLayout().add([LAYER]))
    server.answers[BLOB] = answer
    assert type(await refused(store, server.name())) is kind
    del server.answers[BLOB]
    assert (await store.pull(server.name(), PLAIN)).image.layers == (digest(LAYER),)


async def test_patience_that_is_asked_for_once_is_had(server: Hostile, store: ImageStore) -> None:
    server.put(OciLayout().add([LAYER]))

    def once(request: BaseHTTPRequestHandler) -> None:
        del server.answers["manifests/1"]
        status(429, Retry_After="1")(request)

    server.answers["manifests/1"] = once
    assert (await store.pull(server.name(), PLAIN)).new


@pytest.mark.parametrize("place", ["manifests/1", BLOB])
@pytest.mark.parametrize("begun", [True, False])
async def test_a_registry_that_stops_in_the_middle(
    server: Hostile, store: ImageStore, monkeypatch: pytest.MonkeyPatch, place: str, begun: bool
) -> None:
    monkeypatch.setattr(skopeo, "IDLE_SECONDS", 0.5)
    server.put(OciLayout().add([LAYER]))
    whole = server.documents[place][1]

    def stall(request: BaseHTTPRequestHandler) -> None:
        if begun:
            body(whole[: len(whole) // 2], length=len(whole))(request)
        server.over.wait()

    server.answers[place] = stall
    error = await refused(store, server.name())
    assert type(error) is UnavailableError
    assert "stopped answering" in error.message


async def test_a_layer_without_an_end(server: Hostile, store: ImageStore) -> None:
    server.put(OciLayout().add([LAYER]))
    sent = 0

    def endless(request: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        request.send_response(200)
        request.end_headers()
        while not server.over.is_set():
            sent += request.wfile.write(bytes(1 << 20))

    server.answers[BLOB] = endless
    assert type(await refused(store, server.name())) is UnavailableError
    assert sent < 64 << 20


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b"[" * 200_000,
        b'{"schemaVersion": 2, "mediaType": "' + MANIFEST_TYPE.encode() + b'", "config": {}, "layers": []}',
        b'{"schemaVersion": 2, "pad": "' + b"x" * (5 << 20) + b'"}',
    ],
    ids=["empty", "text", "list", "object", "deep", "hollow", "large"],
)
async def test_a_manifest_that_is_none(server: Hostile, store: ImageStore, document: bytes) -> None:
    server.put_manifest(document)
    assert type(await refused(store, server.name())) in (InvalidInputError, UnavailableError)


@pytest.mark.parametrize("size", [-1, 0, 10, len(PACKED) + 1, 1 << 62, 1 << 80, "many", None])
async def test_a_manifest_that_lies_about_a_size(server: Hostile, store: ImageStore, size: object) -> None:
    layout = OciLayout().add([LAYER])
    (layer,) = json.loads(layout.files[f"blobs/sha256/{layout.manifests[0]['digest'][7:]}"])["layers"]
    server.put(layout, layers=[{**layer, "size": size}])
    assert type(await refused(store, server.name())) in (InvalidInputError, UnavailableError, ResourceExhaustedError)


@pytest.mark.parametrize("wrong", ["sha256:short", "md5:" + "0" * 32, "sha256:" + "g" * 64, "sha256:../../../etc"])
async def test_a_manifest_with_a_malformed_digest(server: Hostile, store: ImageStore, wrong: str) -> None:
    layout = OciLayout().add([LAYER])
    (layer,) = json.loads(layout.files[f"blobs/sha256/{layout.manifests[0]['digest'][7:]}"])["layers"]
    server.put(layout, layers=[{**layer, "digest": wrong}])
    assert type(await refused(store, server.name())) in (InvalidInputError, UnavailableError)


@pytest.mark.parametrize("count", [257, 5000])
async def test_thousands_of_layers(server: Hostile, store: ImageStore, count: int) -> None:
    layers = [tarball(file("app", b"x"))] * count
    server.put(OciLayout().add(layers, configuration(layers)))
    error = await refused(store, server.name())
    assert type(error) is InvalidInputError
    assert "layers" in error.message
    assert not any(path.startswith("blobs/") for path in server.asked[1:])


async def test_a_layer_that_expands_without_end(server: Hostile, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    layout = OciLayout().add([LAYER], configuration([bytes(64 << 20)]))
    descriptor = layout.blob(bomb, "application/vnd.oci.image.layer.v1.tar+gzip")
    server.put(layout, layers=[descriptor])
    store = ImageStore.open(tmp_path / "store", Limits(expansion_floor=1 << 20))
    with contextlib.closing(store):
        with pytest.raises(InvalidInputError, match="expands") as caught:
            await store.pull(server.name(), PLAIN)
        assert server.name() in caught.value.message
        assert store.list() == []


@pytest.mark.parametrize(
    "entries",
    [
        [file("../x")],
        [file("/etc/passwd")],
        [symlink("l", "../.."), file("l/x")],
        [symlink("l", "/etc/../.."), file("l/x")],
        [hard_link("a", "/etc/passwd")],
        [hard_link("a", "../../etc/passwd")],
    ],
    ids=["dots", "absolute", "link", "absolute link", "hard link", "hard link with dots"],
)
async def test_a_layer_that_leaves_its_tree(
    server: Hostile, store: ImageStore, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    server.put(OciLayout().add([tarball(*entries)]))
    assert type(await refused(store, server.name())) is InvalidInputError


@pytest.mark.parametrize("days", [1, -1])
async def test_a_certificate_that_nobody_trusts_or_that_has_expired(
    store: ImageStore, tmp_path: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path, days=days)
    with hostile(certificate) as server:
        server.put(OciLayout().add([LAYER]))
        error = await refused(store, server.name(), Access())
        assert type(error) is UnavailableError
        assert "certificate" in error.message
        # Trusted by name, one that has expired is refused all the same.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        if days > 0:
            assert (await store.pull(server.name())).new
            return
        assert "expired" in (await refused(store, server.name(), Access())).message
        assert (await store.pull(server.name(), PLAIN)).new


@contextlib.contextmanager
def small_disk(place: Path) -> Generator[Path]:
    """8 MiB."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        # What a test that fails still has open goes when it is closed.
        subprocess.run(["umount", "--lazy", place], check=True)


def _sizes() -> list[int]:
    return [64, 200, 400, 600, 700, 800, 1000, 1200, 1400, 1700, 2200, 3000]


async def test_a_disk_that_is_full_at_any_stage(
    server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "RESERVE_BYTES", 0)
    room: Callable[[Path, int], None] = lambda folder, needed: None  # noqa: E731
    monkeypatch.setattr(erofs, "check_room", room)
    old = write(tmp_path / "old.tar", tarball(file("old", b"old")))
    server.put(OciLayout().add([LAYER, tarball(file("b", os.urandom(200_000)))]))
    outcomes: list[bool] = []
    with small_disk(tmp_path / "small") as place:
        for free in _sizes():
            store = ImageStore.open(place / "store")
            await store.import_archive(old, name="old:1")
            status = os.statvfs(place)
            filler = place / "filler"
            filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - (free << 10))))
            try:
                await store.pull(server.name(), PLAIN)
                outcomes.append(True)
            except ResourceExhaustedError as error:
                outcomes.append(False)
                assert "\n" not in str(error)
                assert [image.references for image in store.list()] == [("old:1",)]
                assert not list((place / "store/tmp").iterdir())
            store.close()
            filler.unlink()
            store = ImageStore.open(place / "store")
            assert len(store.list()) == 1 + outcomes[-1]
            assert store.resolve("old:1").erofs.stat().st_size == store.resolve("old:1").size
            assert (await store.pull(server.name(), PLAIN)).new is not outcomes[-1]
            store.remove(server.name())
            store.prune()
            store.close()
    assert outcomes[0] is False and outcomes[-1] is True
