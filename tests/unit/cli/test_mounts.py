"""Docker's ways to write a mount, one table each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zonal.cli.mounts import parse_device, parse_mount, parse_mounts, parse_tmpfs, parse_volume
from zonal.errors import InvalidInputError


def fields(mount: Any) -> dict[str, Any]:
    return {
        field.name: list(value) if field.name == "options" else value
        for field, value in mount.ListFields()
        if field.name != "type"
    } | {"type": mount.type}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/srv:/data", {"type": "bind", "source": "/srv", "target": "/data", "create": True}),
        ("/srv/:/data:ro", {"type": "bind", "source": "/srv", "target": "/data", "create": True, "read_only": True}),
        ("/srv:/data:rw,z", {"type": "bind", "source": "/srv", "target": "/data", "create": True}),
        ("/srv:/data:consistent", {"type": "bind", "source": "/srv", "target": "/data", "create": True}),
        ("/srv:/data:cached", {"type": "bind", "source": "/srv", "target": "/data", "create": True, "cached": True}),
        (
            "/srv:/data:ro,delegated",
            {
                "type": "bind",
                "source": "/srv",
                "target": "/data",
                "create": True,
                "read_only": True,
                "delegated": True,
            },
        ),
        ("name:/data", {"type": "volume", "source": "name", "target": "/data"}),
        (
            "name:/data:ro,nocopy",
            {"type": "volume", "source": "name", "target": "/data", "read_only": True, "no_copy": True},
        ),
        ("/data", {"type": "volume", "target": "/data"}),
    ],
)
def test_v(text: str, expected: dict[str, Any]) -> None:
    assert fields(parse_volume(text)) == expected


def test_a_relative_directory_is_one_of_this_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_volume("./a/../b:/x").source == f"{tmp_path}/b"
    assert parse_volume("..:/x").source == str(tmp_path.parent)
    assert parse_volume("~/x:/x").source == "/home/me/x"
    assert parse_mount("type=bind,source=c,target=/x").source == f"{tmp_path}/c"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("source=name,target=/data", {"type": "volume", "source": "name", "target": "/data"}),
        (
            "type=bind,src=/a,dst=/b,ro",
            {"type": "bind", "source": "/a", "target": "/b", "read_only": True},
        ),
        (
            '"type=bind","source=/with,comma",destination=/b,readonly=false',
            {"type": "bind", "source": "/with,comma", "target": "/b"},
        ),
        (
            "type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770",
            {"type": "tmpfs", "target": "/t", "size_bytes": 64 << 20, "mode": 0o1770},
        ),
        (
            "type=volume,source=v,target=/d,volume-nocopy,volume-subpath=a/b",
            {"type": "volume", "source": "v", "target": "/d", "no_copy": True, "subpath": "a/b"},
        ),
        ("type=image,source=debian:13,target=/i", {"type": "image", "source": "debian:13", "target": "/i"}),
        ("type=device,source=/dev/sdb,target=/dev/x", {"type": "device", "source": "/dev/sdb", "target": "/dev/x"}),
        (
            "type=bind,src=/a,dst=/b,consistency=delegated",
            {"type": "bind", "source": "/a", "target": "/b", "delegated": True},
        ),
        ("type=bind,src=/a,dst=/b,consistency=default", {"type": "bind", "source": "/a", "target": "/b"}),
        ("type=bind,src=/a,dst=/b,bind-propagation=rprivate", {"type": "bind", "source": "/a", "target": "/b"}),
    ],
)
def test_mount(text: str, expected: dict[str, Any]) -> None:
    assert fields(parse_mount(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/run", {"type": "tmpfs", "target": "/run"}),
        (
            "/run:size=10m,mode=700,exec,ro",
            {
                "type": "tmpfs",
                "target": "/run",
                "size_bytes": 10 << 20,
                "mode": 0o700,
                "options": ["exec"],
                "read_only": True,
            },
        ),
    ],
)
def test_tmpfs(text: str, expected: dict[str, Any]) -> None:
    assert fields(parse_tmpfs(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/dev/sdb", {"source": "/dev/sdb", "target": "/dev/sdb", "access": "rwm"}),
        ("/dev/sdb:/dev/x", {"source": "/dev/sdb", "target": "/dev/x", "access": "rwm"}),
        ("/dev/sdb:r", {"source": "/dev/sdb", "target": "/dev/sdb", "read_only": True, "access": "r"}),
        ("/dev/sdb:/dev/x:rw", {"source": "/dev/sdb", "target": "/dev/x", "access": "rw"}),
    ],
)
def test_device(text: str, expected: dict[str, Any]) -> None:
    assert fields(parse_device(text)) == {"type": "device", **expected}


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("volumes", ":/x", "no mount"),
        ("volumes", "a:b:c:d", "no mount"),
        ("volumes", "a:/b:shared", "do not pass"),
        ("volumes", "a:/b:what", "'what' is unknown"),
        ("mounts", "type=nfs,target=/x", "no type"),
        ("mounts", "type=bind,source=/a", "no target"),
        ("mounts", "type=bind,source=/a,target=/b,colour=red", "'colour' is unknown"),
        ("mounts", "type=bind,source=/a,target=/b,ro=maybe", "neither true nor false"),
        ("mounts", 'type=bind,source="/a', "--mount"),
        ("mounts", "", "no target"),
        ("mounts", "type=bind,source=/a,target=/b,bind-propagation=shared", "do not pass"),
        ("mounts", "type=bind,source=/a,target=/b,consistency=some", "'some' is no consistency"),
        ("mounts", "type=tmpfs,target=/b,tmpfs-mode=9", "no mode"),
        ("memory", "/t:size=lots", "not a size"),
        ("devices", "/dev/a:/dev/b:/dev/c", "no device"),
        ("devices", ":/dev/b", "no device"),
    ],
)
def test_what_makes_no_sense_is_named(option: str, text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        parse_mounts(**{option: [text]})
