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
    # The first share of a host's makes folders in the store, which stay.
    host.run("-v", f"{folder}:/d", IMAGE, "true")
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


# perl-base has neither mmap nor inotify; the calls are by number (asm/unistd_64.h), and memory is written by read(2).
MAP = """
    sub map_file {
        open(my $file, "+<", $_[0]) or die "open: $!\\n";
        syscall(9, $_[1], 4096, 3, 0x100001, fileno($file), 0) == $_[1] or return "refused";
        pipe(my $out, my $in); syswrite($in, $_[2]); syscall(0, fileno($out), $_[1], length $_[2]);
        return "mapped";
    }
"""
WATCH = """
    my $watch = syscall(294, 0x800); syscall(254, $watch, my $path = "/d", 0x100) > 0 or die "watch: $!\\n";
    open(my $events, "<&=", $watch);
    sub events { my $data; sysread($events, $data, 4096) ? unpack("x16Z*", $data) : "none" }
"""


@pytest.mark.long
def test_how_much_a_zone_keeps_is_what_was_asked_for(host: Host, folder: Path) -> None:
    names = ("consistent", "cached", "delegated")
    for name in names:
        (folder / name).mkdir()
        (folder / name / "mapped").write_bytes(b"-" * 4096)
        (folder / name / "changes").write_text("before\n")
    script = f"""
        perl -e '{MAP}
            my $at = 0x10000000;
            for my $name ("consistent", "cached", "delegated") {{
                $at += 0x100000; print "$name: ", map_file("/$name/mapped", $at, "by the zone"), "\\n";
                syscall(26, $at, 4096, 4) if $name eq "cached";  # msync
            }}
            open(my $done, ">", "/consistent/mapped-all"); close $done;
            sleep 1 until -e "/consistent/looked";
        '
        for name in cached delegated; do echo closed > /$name/closed; done
        cat /*/changes; : > /consistent/now
        until [ -e /consistent/changed ]; do sleep 0.2; done
        cat /*/changes
    """
    options = [part for name in names for part in ("-v", f"{folder}/{name}:/{name}:{name}")]
    done = host.zonal("run", "-d", "-m", "128M", "--name", "keeps", *options, IMAGE, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    until_there(folder / "consistent" / "mapped-all")
    # What was synced has come while the zone runs.
    assert (folder / "cached" / "mapped").read_bytes().startswith(b"by the zone---")
    (folder / "consistent" / "looked").touch()
    until_there(folder / "consistent" / "now")
    for name in ("cached", "delegated"):
        until(folder / name / "closed", b"closed\n")
    for name in names:
        (folder / name / "changes").write_text(f"by the host, {name}\n")
    (folder / "consistent" / "changed").touch()
    assert host.zonal("zone", "wait", "keeps").stdout.strip() == b"0"
    lines = host.zonal("logs", "keeps").stdout.decode().splitlines()
    assert [line for line in lines if ":" in line] == ["consistent: refused", "cached: mapped", "delegated: mapped"]
    assert lines.count("before") == 4  # the delegated one's again, which the host has changed
    assert [line for line in lines if "by the host" in line] == ["by the host, cached", "by the host, consistent"]
    # And all of it has come when the zone is gone.
    until(folder / "delegated" / "mapped", b"by the zone---")
    assert (folder / "consistent" / "mapped").read_bytes() == b"-" * 4096


def test_users_and_watches_are_those_of_the_zone(host: Host, folder: Path) -> None:
    os.chown(folder, 1234, 5678)
    folder.chmod(0o700)
    (folder / "root-s").write_text("secret\n")
    (folder / "root-s").chmod(0o600)
    script = f"""
        mkdir /d/mine; : > /d/mine/file; cat /d/root-s 2>&1; chown 0 /d/mine/file 2>&1
        perl -e '{WATCH}
            open(my $own, ">", "/d/own"); print "own: ", events(), "\\n";
            open(my $ready, ">", "/d/ready"); print "own: ", events(), "\\n";
            sleep 1 until -e "/d/host-s"; print "of the host: ", events(), "\\n";
        '
    """
    options = ["-m", "128M", "-u", "1234:5678", "--name", "user", "-v", f"{folder}:/d"]
    done = host.zonal("run", "-d", *options, IMAGE, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    until_there(folder / "ready")
    (folder / "host-s").touch()
    assert host.zonal("zone", "wait", "user").stdout.strip() == b"0"
    out = host.zonal("logs", "user").stdout.decode()
    assert "cat: /d/root-s: Permission denied" in out
    assert "Operation not permitted" in out
    assert out.endswith("own: own\nown: ready\nof the host: none\n")
    for name in ("mine", "mine/file", "own"):
        status = (folder / name).stat()
        assert (status.st_uid, status.st_gid) == (1234, 5678)


def test_what_the_host_mounts_in_a_directory_is_seen(host: Host) -> None:
    place = "/var/lib/zonal/submounts"
    zone = f"zonal run --rm -m 128M -v {place}:/d {IMAGE} sh -c"
    look = "cat /d/early/file; stat -c %i /d/plain; ls /d/late; : > /d/early/looked"
    look += "; until [ -e /d/early/go ]; do sleep 0.2; done; cat /d/late/file; echo zone > /d/late/made"
    script = f"""
        set -e; mkdir -p {place}/early {place}/late {place}/plain
        trap 'umount -q {place}/* || true; rm -r {place}' EXIT
        mount -t tmpfs none {place}/early; echo early > {place}/early/file; stat -c %i {place}/plain
        {zone} '{look}' & zone=$!
        until [ -e {place}/early/looked ]; do kill -0 $zone; sleep 0.2; done
        mount -t tmpfs none {place}/late; echo late > {place}/late/file; touch {place}/early/go
        wait $zone; cat {place}/late/made
    """
    inode, *lines = host.shell(script).splitlines()
    assert lines == ["early", inode, "late", "zone"]


def until_there(path: Path) -> None:
    until(path, b"")


def until(path: Path, begin: bytes) -> None:
    """Until a file is there that begins so."""
    for _ in range(300):
        if path.exists() and path.read_bytes().startswith(begin):
            return
        time.sleep(0.2)
    raise AssertionError(f"{path} has not come: {path.exists() and path.read_bytes()[:100]}")


@pytest.mark.long
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
    assert [key for key in after.store_keys if f"/{domain}/" in key] == []
