from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from zonal.agent.devices import all_nodes, bind_mounts, named_nodes
from zonal.agent.params import CallError


def test_a_device_is_given_by_the_number_that_the_zone_has() -> None:
    nodes, rules = named_nodes([{"source": "/dev/zero", "path": "/dev/mine", "access": "rm"}])
    assert nodes == [
        {
            "path": "/dev/mine",
            "type": "c",
            "major": 1,
            "minor": 5,
            "fileMode": stat.S_IMODE(Path("/dev/zero").stat().st_mode),
            "uid": Path("/dev/zero").stat().st_uid,
            "gid": Path("/dev/zero").stat().st_gid,
        }
    ]
    assert rules == [{"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rm"}]
    (mount,) = bind_mounts([{"source": "/dev/zero", "path": "/dev/mine"}])
    assert isinstance(mount, dict)
    assert (mount["source"], mount["destination"]) == ("/dev/zero", "/dev/mine")


@pytest.mark.parametrize(
    ("source", "path", "code"),
    [
        ("/dev/no-such", "/dev/x", "no-device"),
        ("/dev/fd", "/dev/x", "no-device"),
        ("/etc/passwd", "/dev/x", "invalid"),
        ("/dev/../etc/passwd", "/dev/x", "invalid"),
        ("/dev/zero", "x", "invalid"),
    ],
)
def test_what_is_no_device_of_the_zone_is_refused(source: str, path: str, code: str) -> None:
    with pytest.raises(CallError) as raised:
        named_nodes([{"source": source, "path": path}])
    assert raised.value.args[0] == code


def test_all_are_all_but_those_that_every_container_has(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "node", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("nobody may make nodes here")
    (tmp_path / "inner").mkdir()
    os.mknod(tmp_path / "inner/disk", stat.S_IFBLK | 0o600, os.makedev(202, 16))
    (tmp_path / "link").symlink_to("node")
    (tmp_path / "file").touch()
    nodes = [node for node in all_nodes(str(tmp_path)) if isinstance(node, dict)]
    assert [(node["path"], node["type"]) for node in nodes] == [
        (f"{tmp_path}/inner/disk", "b"),
        (f"{tmp_path}/node", "c"),
    ]
    assert not {"/dev/null", "/dev/tty"} & {str(node["path"]) for node in all_nodes() if isinstance(node, dict)}
