"""Directories of the machine where the command was typed, in zones: through the lab's host, by 9p twice."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab, assert_nothing_left

pytestmark = pytest.mark.lab

SERVERS = "pgrep -fc '[z]onal.shares.main' || true"


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shared = tmp_path / "with space"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub" / "file").write_text("of the machine\n")
    os.chown(shared / "sub" / "file", 1234, 5678)
    (tmp_path / "outside").write_text("not for zones\n")
    (shared / "out").symlink_to("../outside")
    return shared


def test_a_directory_is_the_same_on_both_sides(host: Host, folder: Path) -> None:
    host.run(IMAGE, "true")
    before = host.snapshot()
    script = """set -e
        cat /d/sub/file; stat -c '%u %g' /d/sub/file; cat /d/out 2>&1 || true
        echo made > /d/made; chown 77:88 /d/made; chmod 4711 /d/made; touch -d @1700000000 /d/made
        mkdir /d/tree; ln -s /etc/hostname /d/tree/link; ln /d/made /d/tree/again; mkfifo /d/tree/pipe
        mv /d/sub/file /d/tree/moved; rm -r /d/sub; truncate -s 3 /d/tree/moved
        cd /d/tree; (exec 3<>gone; rm gone; echo kept >&3; cat /proc/self/fd/3)
        mknod /d/null c 1 3 2>&1 || true
        seq 100000 > /d/many; sync /d/many; md5sum < /d/many
    """
    out = host.run("-v", f"{folder}:/d", IMAGE, "sh", "-c", script).stdout.decode()
    assert out.startswith("of the machine\n1234 5678\ncat: /d/out: No such file or directory\n")
    assert "kept" in out
    assert "mknod: /d/null: Operation not permitted" in out
    made = (folder / "made").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid, made.st_mtime) == (0o4711, 77, 88, 1700000000)
    tree = folder / "tree"
    assert sorted(path.name for path in tree.iterdir()) == ["again", "link", "moved", "pipe"]
    assert (tree / "again").samefile(folder / "made")
    assert str((tree / "link").readlink()) == "/etc/hostname"
    assert stat.S_ISFIFO((tree / "pipe").lstat().st_mode)
    assert (tree / "moved").read_text() == "of "
    assert (folder / "many").read_text() == "".join(f"{number}\n" for number in range(1, 100001))
    assert not (folder / "null").exists()
    assert not (folder / "sub").exists()
    assert_nothing_left(before, host.snapshot())
    assert host.shell(SERVERS).strip() == "0"


def test_read_only_directories_single_files_and_what_is_not_there(host: Host, folder: Path) -> None:
    script = """
        touch /ro/new 2>&1; rm /ro/sub/file 2>&1; cat /ro/sub/file
        ls -A /etc/one; echo more >> /etc/one; touch /new/here; id -u; cat /new/here
    """
    options = ["-v", f"{folder}:/ro:ro", "-v", f"{folder}/sub/file:/etc/one", "-v", f"{folder}/new/made:/new"]
    out = host.run(*options, IMAGE, "sh", "-c", script).stdout.decode()
    assert out.count("Read-only file system") == 2
    assert "of the machine" in out
    assert (folder / "sub" / "file").read_text() == "of the machine\nmore\n"
    assert (folder / "new" / "made" / "here").exists()
    for options, words in (
        (["--mount", f"type=bind,source={folder}/none,target=/x"], "none cannot be mounted: No such file"),
        (["-v", "/dev/null:/x"], "neither a directory nor a file"),
    ):
        done = host.zonal("run", "--rm", *options, IMAGE, "true")
        assert (done.returncode, words in done.stderr.decode()) == (125, True), done.stderr


def test_a_running_zone_is_given_directories_and_loses_them(host: Host, folder: Path) -> None:
    done = host.zonal(
        *["run", "-d", "-m", "128M", "--name", "shared", "-v", f"{folder}:/first", IMAGE],
        *["sh", "-c", "while sleep 0.2; do cat /later/sub/file && echo seen >> /later/seen && exit 0; done"],
    )
    assert done.returncode == 0, done.stderr
    assert host.zonal("zone", "mount", "-v", f"{folder}:/later", "shared").returncode == 0
    assert host.zonal("zone", "wait", "shared").stdout.strip() == b"0"
    assert (folder / "seen").read_text() == "seen\n"
    assert host.zonal("zone", "rm", "shared").returncode == 0

    script = "echo begun; while ! [ -e /a/stop ]; do sleep 0.1; done; ls /b; cat /a/stop"
    done = host.zonal(
        *["run", "-d", "-m", "128M", "--name", "shared", "-v", f"{folder}:/a", "-v", f"{folder}:/b", IMAGE],
        *["sh", "-c", script],
    )
    assert done.returncode == 0, done.stderr
    assert host.zonal("zone", "unmount", "shared", "/b").returncode == 0
    assert b"nothing at /b" in host.zonal("zone", "unmount", "shared", "/b").stderr
    # The next zonald finds the server, which has gone on.
    before = host.zonald()
    host.shell(f"kill -9 {before}")
    host.until_zonald_answers()
    assert host.shell(SERVERS).strip() == "1"
    assert host.zonal("zone", "mount", "-v", f"{folder}:/c", "shared").returncode == 0
    assert host.zonal("zone", "unmount", "shared", "/c").returncode == 0
    (folder / "stop").write_text("now\n")
    assert host.zonal("zone", "wait", "shared").stdout.strip() == b"0"
    assert re.fullmatch(r"begun\nnow\n", host.zonal("logs", "shared").stdout.decode())
    host.shell(f"for i in $(seq 100); do [ $({SERVERS}) = 0 ] && exit; sleep 0.1; done; exit 1")


def test_a_lab_that_slept_mounts_anew(host: Host, folder: Path) -> None:
    look = ["-v", f"{folder}:/d", IMAGE, "cat", "/d/sub/file"]
    assert host.run(*look).stdout == b"of the machine\n"
    assert host.zonal("lab", "down", "--name", host.lab).returncode == 0
    assert host.run(*look).stdout == b"of the machine\n"


def test_the_zone_that_is_lost_takes_its_server_along(host: Host, folder: Path) -> None:
    before = host.snapshot()
    done = host.zonal(
        *["run", "-d", "-m", "128M", "--name", "lost", "-v", f"{folder}:/d", IMAGE],
        *["sh", "-c", "while :; do echo x >> /d/x; done"],
    )
    assert done.returncode == 0, done.stderr
    for _ in range(100):
        if (folder / "x").exists():
            break
        time.sleep(0.1)
    # The domain goes while nobody watches, with requests under way.
    domain = next(zone["domain_id"] for zone in host.zones() if zone["name"] == "lost")
    # And a server that hears nothing is ended all the same.
    host.shell(
        f"kill -STOP {host.zonald()} $(pgrep -f '[z]onal.shares.main'); xl destroy {domain}; kill -9 {host.zonald()}"
    )
    host.until_zonald_answers()
    host.shell(f"for i in $(seq 100); do [ $({SERVERS}) = 0 ] && exit; sleep 0.1; done; exit 1")
    assert host.zonal("zone", "rm", "-f", "lost").returncode == 0
    after = host.snapshot()
    assert after.domains == before.domains
    assert after.free_mib >= before.free_mib - 4
