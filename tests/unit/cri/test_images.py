"""The ImageService through the CRI's socket, on a real store, with real registries."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cri.test_stats import Client
from tests.unit.daemon.local_zones import open_local_services
from tests.unit.images.registry import PASSWORD, USER, Registry, make_authority, registry
from tests.unit.images.tarballs import OciLayout, configuration, file, folder, tarball
from zonal.cri.api import runtime_pb2 as pb
from zonal.cri.credentials import login_for
from zonal.cri.pod_network import AUTO
from zonal.cri.records import ContainerEntry, CriStore, PodEntry
from zonal.cri.server import STORE, serving_cri
from zonal.errors import InvalidInputError, UnsupportedError
from zonal.images.reference import Reference, parse
from zonal.images.skopeo import Login
from zonal.images.store import ImageStore
from zonal.zones.spec import ZoneSpec

BASE = tarball(folder("bin"), file("bin/sh", b"a shell" * 1000))
OTHER = tarball(file("app", b"another"))
NOWHERE = "127.0.0.1:1/team/app:1"


@pytest.fixture(scope="module", name="authority")
def an_authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Path, Path]]:
    return make_authority(tmp_path_factory.mktemp("authority") / "ca", "127.0.0.1")


@pytest.fixture(scope="module", name="server")
def a_registry(
    tmp_path_factory: pytest.TempPathFactory, authority: tuple[Path, tuple[Path, Path]]
) -> Iterator[Registry]:
    """By TLS, for one user; images are put into its storage by a second one without either."""
    place = tmp_path_factory.mktemp("registry")
    with registry(place / "open") as filled:
        filled.put("team/app", "1", OciLayout().add([BASE], configuration([BASE], {"User": "1000:1000"})))
        filled.put("team/app", "2", OciLayout().add([BASE, OTHER], configuration([BASE, OTHER], {"User": "web"})))
    closed = place / "closed"
    with registry(closed, password=True, certificate=authority[1]) as running:
        (place / "open" / "data").rename(closed / "data")
        yield running


@asynccontextmanager
async def connected(state: Path) -> AsyncGenerator[tuple[Client, ImageStore]]:
    store = ImageStore.open(state / "images")
    try:
        async with open_local_services(state) as services:
            real = replace(services, images=cast("Any", store))
            socket = state / "cri.sock"
            channel = cast("Any", grpc.aio).insecure_channel(f"unix:{socket}")
            async with serving_cri(real, socket, state, network=AUTO), channel:
                yield Client(channel, cast("Any", services.zones)), store
    finally:
        store.close()


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch, authority: tuple[Path, tuple[Path, Path]]) -> Iterator[Path]:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    with tempfile.TemporaryDirectory(prefix="cri-") as path:
        yield Path(path)


def image(name: str) -> pb.ImageSpec:
    return pb.ImageSpec(image=name)


AUTH = pb.AuthConfig(username=USER, password=PASSWORD)


async def pull(client: Client, name: str, auth: pb.AuthConfig | None = AUTH) -> str:
    return (await client.call("PullImage", pb.PullImageRequest(image=image(name), auth=auth))).image_ref


async def refused(client: Client, name: str, request: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.call(name, request)
    return caught.value.code(), caught.value.details() or ""


async def test_from_a_pull_to_a_removal(state: Path, server: Registry) -> None:
    name = f"{server.host}/team/app:1"
    async with connected(state) as (client, _):
        assert not (await client.call("ListImages", pb.ListImagesRequest())).images
        ref = await pull(client, name)
        (listed,) = (await client.call("ListImages", pb.ListImagesRequest())).images
        assert listed.id == ref
        assert list(listed.repo_tags) == [name]
        (digest,) = listed.repo_digests
        assert digest.startswith(f"{server.host}/team/app@sha256:")
        assert listed.size > 0
        assert (listed.uid.value, listed.username) == (1000, "")
        for other in (name, ref, digest, ref.removeprefix("sha256:")[:12]):
            reply = await client.call("ImageStatus", pb.ImageStatusRequest(image=image(other), verbose=True))
            assert reply.image.id == ref
            assert json.loads(reply.info["info"])["imageSpec"]["config"]["User"] == "1000:1000"
        assert await pull(client, digest) == ref
        usage = await client.call("ImageFsInfo", pb.ImageFsInfoRequest())
        (images,) = usage.image_filesystems
        assert images.used_bytes.value > 0
        assert images.inodes_used.value > 0
        assert Path(images.fs_id.mountpoint).is_dir()
        for _ in range(2):  # it may be gone already
            await client.call("RemoveImage", pb.RemoveImageRequest(image=image(name)))
        assert not (await client.call("ImageStatus", pb.ImageStatusRequest(image=image(name)))).HasField("image")
        assert not (await client.call("ListImages", pb.ListImagesRequest())).images


async def test_lists_are_filtered_and_come_in_parts_too(state: Path, server: Registry) -> None:
    async with connected(state) as (client, _):
        first, second = [await pull(client, f"{server.host}/team/app:{tag}") for tag in "12"]
        for wanted, expected in (
            ("", {first, second}),
            (f"{server.host}/team/app:2", {second}),
            (first, {first}),
            ("debian:13", set[str]()),
        ):
            chosen = pb.ImageFilter(image=image(wanted))
            reply = await client.call("ListImages", pb.ListImagesRequest(filter=chosen))
            assert {each.id for each in reply.images} == expected
            pieces = await client.stream("StreamImages", pb.StreamImagesRequest(filter=chosen))
            assert {each.id for piece in pieces for each in piece.images} == expected
        listed = {each.id: each for each in (await client.call("ListImages", pb.ListImagesRequest())).images}
        assert (listed[second].HasField("uid"), listed[second].username) == (False, "web")


async def test_a_removal_by_any_name_takes_all_of_an_images_names(state: Path, server: Registry) -> None:
    async with connected(state) as (client, store):
        ref = await pull(client, f"{server.host}/team/app:1")
        store.tag(ref, "docker.io/library/mine:1")
        (listed,) = (await client.call("ListImages", pb.ListImagesRequest())).images
        assert set(listed.repo_tags) == {f"{server.host}/team/app:1", "docker.io/library/mine:1"}
        await client.call("RemoveImage", pb.RemoveImageRequest(image=image("mine:1")))
        assert not (await client.call("ListImages", pb.ListImagesRequest())).images


async def test_an_image_that_a_container_uses_stays(state: Path, server: Registry) -> None:
    async with connected(state) as (client, store):
        ref = await pull(client, f"{server.host}/team/app:1")
        with store.use(ref, "zone web"):
            code, details = await refused(client, "RemoveImage", pb.RemoveImageRequest(image=image(ref)))
            assert code == grpc.StatusCode.FAILED_PRECONDITION
            assert "zone web" in details
        await client.call("RemoveImage", pb.RemoveImageRequest(image=image(ref)))


async def test_a_private_image_is_not_given_to_who_has_no_right_to_it(state: Path, server: Registry) -> None:
    name = f"{server.host}/team/app:1"
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    async with connected(state) as (client, _):
        await pull(client, name, pb.AuthConfig(auth=encoded))
        await pull(client, name, pb.AuthConfig(auth=encoded, server_address=f"https://{server.host}/v2/"))
        for wrong in (
            pb.AuthConfig(),
            pb.AuthConfig(username=USER, password="wrong"),
            pb.AuthConfig(auth=encoded, server_address="registry.test"),
        ):
            request = pb.PullImageRequest(image=image(name), auth=wrong)
            code, details = await refused(client, "PullImage", request)
            assert code == grpc.StatusCode.PERMISSION_DENIED
            assert PASSWORD not in details
        # At the same time, each is answered by what it has.
        good, bad = await asyncio.gather(
            pull(client, name), pull(client, name, pb.AuthConfig()), return_exceptions=True
        )
        assert isinstance(good, str)
        assert isinstance(bad, grpc.aio.AioRpcError)


async def test_what_a_registry_cannot_give_has_the_code_that_a_kubelet_expects(state: Path, server: Registry) -> None:
    async with connected(state) as (client, _):
        missing = pb.PullImageRequest(image=image(f"{server.host}/team/nothing:1"), auth=AUTH)
        code, _details = await refused(client, "PullImage", missing)
        assert code == grpc.StatusCode.NOT_FOUND
        code, details = await refused(client, "PullImage", pb.PullImageRequest(image=image(NOWHERE)))
        assert code == grpc.StatusCode.UNKNOWN
        assert details.startswith("RegistryUnavailable: ")
        for name in ("", "team/UPPER:1", "a b"):
            code, _details = await refused(client, "PullImage", pb.PullImageRequest(image=image(name)))
            assert code == grpc.StatusCode.INVALID_ARGUMENT
        for name, request in (
            ("ImageStatus", pb.ImageStatusRequest()),
            ("RemoveImage", pb.RemoveImageRequest()),
        ):
            assert (await refused(client, name, request))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_pull_that_is_cancelled_leaves_the_next_one_alone(state: Path, server: Registry) -> None:
    name = f"{server.host}/team/app:2"
    async with connected(state) as (client, _):
        for _ in range(3):
            call = asyncio.ensure_future(pull(client, name))
            await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        first, second = await asyncio.gather(pull(client, name), pull(client, name))
        assert first == second


def test_credentials_go_to_their_own_registry_only() -> None:
    given = pb.AuthConfig(username="u", password="p")
    for address, domain, ours in (
        ("", "registry.test", True),
        ("registry.test", "registry.test", True),
        ("https://registry.test/v1/", "registry.test", True),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("registry.test:5000", "registry.test", False),
        ("https://registry.test.example", "registry.test", False),
        ("https://registry.test@other.example", "registry.test", False),
    ):
        given.server_address = address
        assert login_for(given, domain) == (Login("u", "p") if ours else Login()), address


def test_credentials_that_are_none_are_refused() -> None:
    for text in ("!", base64.b64encode(b"no colon").decode(), base64.b64encode(b":p").decode(), "\u00fc"):
        with pytest.raises(InvalidInputError):
            login_for(pb.AuthConfig(auth=text), "registry.test")
    with pytest.raises(UnsupportedError):
        login_for(pb.AuthConfig(registry_token="t"), "registry.test")


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=20))
def test_any_text_as_credentials_is_taken_or_refused(auth: str, address: str, domain: str) -> None:
    with suppress(InvalidInputError):
        login_for(pb.AuthConfig(auth=auth, server_address=address), domain)


_WORD = st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?|localhost|library|[0-9a-f]{64}", fullmatch=True)
_DOMAIN = st.sampled_from(["docker.io", "localhost", "localhost:5000", "registry.test", "[::1]:5000"])
_DIGEST = st.none() | st.just("sha256:" + "0" * 64)


@given(_DOMAIN, st.lists(_WORD, min_size=1, max_size=3), st.none() | st.sampled_from(["1", "latest"]), _DIGEST)
def test_the_short_form_of_a_name_stands_for_the_same_image(
    domain: str, words: list[str], tag: str | None, digest: str | None
) -> None:
    if domain == "docker.io" and len(words) == 1:
        words = ["library", *words]
    if tag is None and digest is None:
        tag = "latest"
    wanted = Reference(domain, "/".join(words), tag, digest)
    assert parse(str(wanted)) == wanted
    assert parse(wanted.familiar) == wanted


async def test_an_image_stays_for_a_container_that_is_to_be_started(state: Path, server: Registry) -> None:
    pod, container = "aa" * 32, "bb" * 32
    metadata = pb.PodSandboxMetadata(name="web", namespace="shop", uid="u1")
    async with connected(state) as (client, store):
        ref = await pull(client, f"{server.host}/team/app:1")
        records = CriStore.open(state / STORE)
        records.put_pod(PodEntry(pod, pb.PodSandboxConfig(metadata=metadata), made=True))
        config = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="server"), image=image(ref))
        records.put_container(ContainerEntry(container, pod, config, ref, ref, made=True))
        records.close()
        spec = ZoneSpec(container, "server", "team/app:1", ref, "", command=("true",), env=())
        await client.zones.create(spec)
    # Another zonald finds it as the last has left it.
    async with connected(state) as (client, store):
        code, details = await refused(client, "RemoveImage", pb.RemoveImageRequest(image=image(ref)))
        assert code == grpc.StatusCode.FAILED_PRECONDITION
        assert "container server" in details
        await client.call("RemoveContainer", pb.RemoveContainerRequest(container_id=container))
        assert not store.leases
        await client.call("RemoveImage", pb.RemoveImageRequest(image=image(ref)))
