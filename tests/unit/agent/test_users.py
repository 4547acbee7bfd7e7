from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zonal.agent.users import UserError, find_user, read_file, resolve_user

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
# a comment
postgres:x:70:71:with, comma:/var/lib/postgres:/bin/sh
short:x:1
broken:x:many:0::/:/bin/sh
1234:x:99:98::/home/number:/bin/sh
nohome:x:5:5:::/bin/sh
"""
GROUP = """\
root:x:0:
postgres:x:71:
audio:x:29:postgres,other
video:x:44:other,postgres
also:x:71:postgres
none:x:bad:postgres
wheel:x:10
"""


@pytest.mark.parametrize(
    ("text", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, [0], "/root"),
        ("root", 0, 0, [0], "/root"),
        ("0", 0, 0, [0], "/root"),
        ("postgres", 70, 71, [71, 29, 44], "/var/lib/postgres"),
        ("70", 70, 71, [71, 29, 44], "/var/lib/postgres"),
        ("postgres:audio", 70, 29, [29], "/var/lib/postgres"),
        ("postgres:10", 70, 10, [10], "/var/lib/postgres"),
        ("postgres:777", 70, 777, [777], "/var/lib/postgres"),
        ("5000", 5000, 0, [0], "/"),
        ("5000:wheel", 5000, 10, [10], "/"),
        ("1234", 99, 98, [98], "/home/number"),
        ("nohome", 5, 5, [5], "/"),
        (":audio", 0, 29, [29], "/root"),
    ],
)
def test_users_are_those_that_docker_finds(text: str, uid: int, gid: int, groups: list[int], home: str) -> None:
    user = find_user(text, PASSWD, GROUP)
    assert (user.uid, user.gid, user.groups, user.home) == (uid, gid, groups, home)


@pytest.mark.parametrize(
    "text", ["nobody-here", "root:nothing", "-1", "4294967295", "99999999999", "²", "broken", "short"]
)
def test_users_that_are_not_there_are_refused_by_name(text: str) -> None:
    with pytest.raises(UserError, match=r"no (user|group)"):
        find_user(text, PASSWD, GROUP)


@given(st.text(), st.text(alphabet="abr:x0129,\n-"), st.text(alphabet="abr:x0129,\n-"))
def test_hostile_files_give_a_user_or_a_refusal(text: str, passwd: str, group: str) -> None:
    try:
        user = find_user(text, passwd, group)
    except UserError:
        return
    assert 0 <= user.uid < 0xFFFFFFFF
    assert all(0 <= number < 0xFFFFFFFF for number in (user.gid, *user.groups))


def test_files_are_found_inside_the_root_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "real").write_text("me:x:7:8::/home/me:/bin/sh\n")
    (tmp_path / "outside").write_text("me:x:0:0::/:/bin/sh\n")
    (root / "etc/passwd").symlink_to("/real")
    assert resolve_user(str(root), "me").uid == 7
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("../../outside")
    with pytest.raises(UserError):
        resolve_user(str(root), "me")
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError):
        resolve_user(str(root), "me")


def test_files_that_are_none_hold_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    (tmp_path / "etc/group").mkdir()
    assert resolve_user(str(tmp_path), "12").uid == 12
    (tmp_path / "etc/passwd").unlink()
    with (tmp_path / "etc/passwd").open("wb") as file:
        file.truncate(1 << 40)
    fd = os.open(tmp_path, os.O_PATH)
    try:
        assert len(read_file(fd, "/etc/passwd")) == 1 << 20
    finally:
        os.close(fd)
