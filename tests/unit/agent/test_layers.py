"""A writable layer as a tar, read back by another implementation."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from zonal.agent.layers import write_layer


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    folder = tmp_path / "upper"
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "conf").write_bytes(b"x" * 700)
    (folder / "etc" / "same").hardlink_to(folder / "etc" / "conf")
    os.setxattr(folder / "etc" / "conf", "user.colour", b"blue\nor\0red")
    (folder / "link").symlink_to("/" + "long/" * 30)
    os.mknod(folder / "etc" / "gone", 0o20000, 0)
    os.mknod(folder / "null", 0o20666, os.makedev(1, 3))
    os.mkfifo(folder / "pipe")
    (folder / "replaced").mkdir()
    os.setxattr(folder / "replaced", "trusted.overlay.opaque", b"y")
    os.setxattr(folder / "etc", "trusted.overlay.origin", b"any")
    (folder / "mounted").mkdir()
    (folder / "mounted" / "kept").touch()
    deep = folder / ("d" * 90) / ("f" * 90)
    deep.parent.mkdir()
    deep.write_bytes(b"deep")
    os.chown(deep, 3_000_000, 4_000_000)
    deep.chmod(0o6755)
    os.utime(deep, ns=(0, 1_700_000_000_123_456_789))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    return folder


def test_a_layer_holds_what_was_changed_with_whiteouts(upper: Path) -> None:
    data = bytearray()
    write_layer(str(upper), {"/mounted"}, data.extend)
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        found = {member.name: member for member in archive.getmembers()}
        assert archive.extractfile(found["etc/conf"]).read() == b"x" * 700  # pyright: ignore[reportOptionalMemberAccess]
    long = "d" * 90 + "/" + "f" * 90
    assert list(found) == [
        *("d" * 90, "etc", "link", "null", "pipe", "replaced", "replaced/.wh..wh..opq", long),
        *("etc/conf", "etc/.wh.gone", "etc/same", "mounted/kept"),
    ]
    assert found["etc/conf"].pax_headers["SCHILY.xattr.user.colour"] == "blue\nor\0red"
    assert not found["etc"].pax_headers.get("SCHILY.xattr.trusted.overlay.origin")
    assert (found["etc/same"].islnk(), found["etc/same"].linkname) == (True, "etc/conf")
    assert found["link"].linkname == "/" + "long/" * 30
    assert (found["null"].devmajor, found["null"].devminor) == (1, 3)
    assert found["pipe"].isfifo()
    deep = found[long]
    assert (deep.uid, deep.gid, deep.mode) == (3_000_000, 4_000_000, 0o6755)
    assert deep.pax_headers["mtime"] == "1700000000.123456789"
    assert len(data) % 512 == 0
