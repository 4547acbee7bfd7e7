"""Mounts as a client may send them, right and wrong, against a real store of volumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.daemon.local_images import LocalImages
from zonal.api import control_pb2 as pb
from zonal.daemon.mount_spec import Mounts
from zonal.daemon.volumes import Volumes
from zonal.errors import InvalidInputError, NotFoundError, ZonalError
from zonal.volumes.store import VolumeStore
from zonal.zones.mounts import Mount, MountKind

SIZE = 32 << 20


@pytest.fixture
def volumes(tmp_path: Path) -> Volumes:
    return Volumes(VolumeStore(tmp_path / "volumes"))


@pytest.fixture
def mounts(volumes: Volumes) -> Mounts:
    return Mounts(LocalImages(), volumes)


async def test_a_missing_volume_is_made_and_one_that_is_there_is_taken(mounts: Mounts, volumes: Volumes) -> None:
    wanted = pb.Mount(type="volume", source="data", target="/data/", size_bytes=SIZE)
    first = await mounts.resolve([wanted])
    assert first == (Mount(MountKind.VOLUME, "/data", source="data"),)
    assert volumes.find("data").size == SIZE
    assert await mounts.resolve([wanted]) == first


async def test_a_volume_without_a_name_is_made_for_the_zone_alone(mounts: Mounts, volumes: Volumes) -> None:
    (mount,) = await mounts.resolve([pb.Mount(type="volume", target="/data", size_bytes=SIZE)])
    assert mount.anonymous
    assert volumes.find(mount.source).anonymous
    mounts.discard([mount])
    assert volumes.list() == []


async def test_a_missing_directory_of_the_host_is_made_only_when_that_is_wanted(mounts: Mounts, tmp_path: Path) -> None:
    wanted = pb.Mount(type="bind", source=str(tmp_path / "a" / "b"), target="/x", cached=True)
    with pytest.raises(InvalidInputError, match="does not exist"):
        await mounts.resolve([wanted])
    wanted.create = True
    (mount,) = await mounts.resolve([wanted])
    assert (mount.source, mount.cached, mount.delegated) == (str(tmp_path / "a" / "b"), True, False)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o7777 == 0o755


async def test_an_image_is_read_only_and_known_by_its_id(mounts: Mounts) -> None:
    (mount,) = await mounts.resolve([pb.Mount(type="image", source="local:1", target="/i", subpath="./usr/share/")])
    assert mount.read_only
    assert mount.image_id.startswith("sha256:")
    assert mount.subpath == "usr/share"
    with pytest.raises(NotFoundError):
        await mounts.resolve([pb.Mount(type="image", source="nothing", target="/i")])


async def test_nothing_is_left_of_volumes_when_a_later_mount_fails(mounts: Mounts, volumes: Volumes) -> None:
    with pytest.raises(ZonalError):
        await mounts.resolve(
            [
                pb.Mount(type="volume", source="new", target="/a", size_bytes=SIZE),
                pb.Mount(type="volume", source="impossible", target="/b", size_bytes=1),
            ]
        )
    assert volumes.list() == []


@pytest.mark.parametrize(
    ("mount", "said"),
    [
        (pb.Mount(type="nfs", target="/x"), "no type"),
        (pb.Mount(type="tmpfs", target="x"), "absolute path"),
        (pb.Mount(type="tmpfs", target=""), "absolute path"),
        (pb.Mount(type="tmpfs", target="/"), "at /"),
        (pb.Mount(type="tmpfs", target="//../"), "at /"),
        (pb.Mount(type="tmpfs", target="/x\0y"), "absolute path"),
        (pb.Mount(type="tmpfs", target="/" + "x" * 5000), "absolute path"),
        (pb.Mount(type="tmpfs", target="/x", source="y"), "no source"),
        (pb.Mount(type="tmpfs", target="/x", mode=0o10000), "no mode"),
        (pb.Mount(type="tmpfs", target="/x", options=["size=1"]), "no option"),
        (pb.Mount(type="tmpfs", target="/x", size_bytes=1 << 60), "1T"),
        (pb.Mount(type="bind", target="/x"), "no source"),
        (pb.Mount(type="bind", source="relative", target="/x"), "absolute path of the host"),
        (pb.Mount(type="bind", source="/", target="/x", subpath="a"), "no subpath"),
        (pb.Mount(type="bind", source="/", target="/x", size_bytes=1), "size"),
        (pb.Mount(type="bind", source="/", target="/x", options=["exec"]), "does not take"),
        (pb.Mount(type="volume", source="../up", target="/x"), "volume's name"),
        (pb.Mount(type="volume", source="a", target="/x", subpath="../b"), "subpath"),
        (pb.Mount(type="volume", source="a", target="/x", subpath="/b"), "subpath"),
        (pb.Mount(type="device", source="/etc/hostname", target="/dev/x"), "not a block device"),
        (pb.Mount(type="device", source="/dev/missing", target="/dev/x"), "does not exist"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(mounts: Mounts, volumes: Volumes, mount: pb.Mount, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        await mounts.resolve([mount])
    assert volumes.list() == []


async def test_a_place_is_mounted_once_and_a_zone_has_so_many_mounts(mounts: Mounts) -> None:
    with pytest.raises(InvalidInputError, match="mounted twice"):
        await mounts.resolve([pb.Mount(type="tmpfs", target="/x"), pb.Mount(type="tmpfs", target="/y/../x/")])
    with pytest.raises(InvalidInputError, match="64 at most"):
        await mounts.resolve([pb.Mount(type="tmpfs", target=f"/{number}") for number in range(65)])
