"""Copies: docker's rules as tables, tars that nobody should trust, and whole copies through a zonald."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cli.conftest import Zonal
from zonal.cli.copy import Plan, Side, plan_copy, split_side
from zonal.cli.untar import Unpacker
from zonal.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("web:/etc/hosts", Side("web", "/etc/hosts")),
        ("web:etc", Side("web", "/etc")),
        ("web:", Side("web", "/")),
        ("./web:/x", Side("", "./web:/x")),
        ("/a:b", Side("", "/a:b")),
        ("a/b:c", Side("", "a/b:c")),
        ("plain", Side("", "plain")),
        (":x", Side("", ":x")),
        ("-", Side("", "-")),
    ],
)
def test_which_side_is_in_a_zone(text: str, side: Side) -> None:
    assert split_side(text) == side


@pytest.mark.parametrize(
    ("source", "is_folder", "target", "kind", "plan"),
    [
        ("/a/f", False, "/t", "directory", Plan("/t", "f")),
        ("/a/f", False, "/t/new", "missing", Plan("/t", "new")),
        ("/a/f", False, "/t/old", "file", Plan("/t", "old")),
        ("/a/f", False, "new", "missing", Plan(".", "new")),
        ("/a/d", True, "/t", "directory", Plan("/t", "d")),
        ("/a/d/", True, "/t/", "directory", Plan("/t/", "d")),
        ("/a/d/.", True, "/t", "directory", Plan("/t", "")),
        ("/a/d", True, "/t/new", "missing", Plan("/t", "new")),
        ("/a/d/.", True, "/t/new/", "missing", Plan("/t", "new")),
        ("/", True, "/t", "directory", Plan("/t", "")),
    ],
)
def test_where_a_copy_goes(source: str, is_folder: bool, target: str, kind: str, plan: Plan) -> None:
    assert plan_copy(source, is_folder=is_folder, target=target, kind=kind) == plan


@pytest.mark.parametrize(
    ("is_folder", "target", "kind"), [(True, "/t/f", "file"), (True, "/t/f", "other"), (False, "/t/none/", "missing")]
)
def test_what_docker_refuses_is_refused(is_folder: bool, target: str, kind: str) -> None:
    with pytest.raises(InvalidInputError):
        plan_copy("/a/x", is_folder=is_folder, target=target, kind=kind)


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.size = kind, len(data)
    made.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for field, value in fields.items():
        setattr(made, field, value)
    return made, data


def packed(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for made, data in members:
            tar.addfile(made, io.BytesIO(data))
    file.seek(0)
    return file


def unpack(
    folder: Path, stream: io.BytesIO, *, keep_owner: bool = False, warn: Callable[[str], None] = lambda _: None
) -> int:
    def as_is(parts: list[str]) -> Sequence[str]:
        return parts

    return Unpacker(folder, as_is, keep_owner=keep_owner, warn=warn).unpack(stream)


def test_a_tree_comes_out_as_it_went_in(tmp_path: Path) -> None:
    stream = packed(
        member("d", tarfile.DIRTYPE, mode=0o750, mtime=1_000_000),
        member("d/file", data=b"text", mode=0o4640, mtime=2_000_000),
        member("d/hard", tarfile.LNKTYPE, linkname="d/file"),
        member("d/soft", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("d/pipe", tarfile.FIFOTYPE),
    )
    assert unpack(tmp_path, stream) == 5
    file = (tmp_path / "d/file").stat()
    assert (tmp_path / "d/file").read_bytes() == b"text"
    assert (stat.S_IMODE(file.st_mode), file.st_mtime, file.st_nlink) == (0o640, 2_000_000, 2)
    assert (stat.S_IMODE((tmp_path / "d").stat().st_mode), (tmp_path / "d").stat().st_mtime) == (0o750, 1_000_000)
    assert (tmp_path / "d/soft").readlink() == Path("/etc/passwd")
    assert stat.S_ISFIFO((tmp_path / "d/pipe").lstat().st_mode)


@pytest.mark.parametrize(
    "members",
    [
        [member("../out", data=b"x")],
        [member("a/../../out", data=b"x")],
        [member("link", tarfile.SYMTYPE, linkname=".."), member("link/out", data=b"x")],
        [member("link", tarfile.SYMTYPE, linkname="/"), member("link/tmp", tarfile.DIRTYPE)],
        [member("link", tarfile.SYMTYPE, linkname=".."), member("hard", tarfile.LNKTYPE, linkname="link/secret")],
        [member("hard", tarfile.LNKTYPE, linkname="../secret")],
        [member("file", data=b"x"), member("file/below", data=b"x")],
    ],
)
def test_nothing_leads_out_of_the_folder(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(InvalidInputError):
        unpack(folder, packed(*members))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "secret"]
    assert (tmp_path / "secret").stat().st_nlink == 1


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "f").symlink_to(tmp_path / "secret")
    unpack(folder, packed(member("f", data=b"new")))
    assert (folder / "f").read_text() == "new"
    assert (tmp_path / "secret").read_text() == "secret"


def test_absolute_names_stay_in_the_folder_and_devices_are_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    unpack(tmp_path, packed(member("/etc/x", data=b"x"), member("null", tarfile.CHRTYPE)), warn=said.append)
    assert (tmp_path / "etc/x").read_text() == "x"
    assert said == ["null: left out, since it is a device"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_any_size_is_not_read_into_memory(tmp_path: Path, kind: bytes) -> None:
    made, _ = member("x", kind)
    made.size = 5 << 30
    with pytest.raises(InvalidInputError, match="5368709120 bytes"):
        unpack(tmp_path, io.BytesIO(made.tobuf(tarfile.USTAR_FORMAT) + bytes(1024)))


@given(st.binary(max_size=4096))
def test_any_bytes_are_a_tar_or_refused(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        inner = Path(folder, "in")
        inner.mkdir()
        with contextlib.suppress(InvalidInputError):
            unpack(inner, io.BytesIO(data))
        assert os.listdir(folder) == ["in"]  # noqa: PTH208


def test_copies_go_both_ways_through_zonald(zonal: Zonal, tmp_path: Path) -> None:
    assert zonal("run", "-d", "--name", "copying", "local:1", "sleep", "60").returncode == 0
    try:
        inside = tmp_path / "inside"  # the zone's root is this machine's, here
        source = tmp_path / "source"
        (source / "sub").mkdir(parents=True)
        (source / "file").write_bytes(os.urandom(3_000_000))
        (source / "sub" / "link").symlink_to("../file")
        inside.mkdir()
        into = zonal("cp", str(source), f"copying:{inside}")
        assert into.returncode == 0, into.stderr
        assert (inside / "source/file").read_bytes() == (source / "file").read_bytes()
        assert (inside / "source/sub/link").readlink() == Path("../file")
        assert zonal("cp", f"{source}/.", f"copying:{inside}/renamed").returncode == 0
        assert (inside / "renamed/file").exists()
        out = tmp_path / "out"
        done = zonal("cp", f"copying:{inside}/source/file", str(out))
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == (source / "file").read_bytes()
        (tmp_path / "folder").mkdir()
        assert zonal("cp", f"copying:{inside}/source/.", str(tmp_path / "folder")).returncode == 0
        assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["file", "sub"]
        stream = zonal("cp", f"copying:{inside}/source/file", "-").stdout
        assert zonal("cp", "-", f"copying:{tmp_path}/folder/sub", stdin=stream).returncode == 0
        assert (tmp_path / "folder/sub/file").exists()
        assert zonal("diff", "copying").stdout == b"C /etc\nA /etc/new\nD /old\n"
        for wrong in (
            ["cp", "a", "b"],
            ["cp", "copying:/a", "copying:/b"],
            ["cp", f"copying:{inside}/none", str(tmp_path / "x")],
            ["cp", "/none", f"copying:{inside}"],
            ["cp", f"copying:{inside}/source", str(out)],
            ["cp", f"copying:{inside}/source/file", str(tmp_path / "none" / "x")],
            ["cp", "none:/x", str(tmp_path)],
            ["diff", "none"],
        ):
            done = zonal(*wrong)
            assert (done.returncode, len(done.stderr.splitlines()) <= 2) == (125, True), (wrong, done.stderr)
    finally:
        zonal("rm", "-f", "copying")
