"""Workloads in a zone that they share: one zone for all tests, and what is left of each when it has gone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab

pytestmark = pytest.mark.lab
SERVE = "trap 'exit 3' TERM; echo up; while :; do sleep 0.2; done"


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    text(host, "zone", "create", "-m", "256M", "-h", "shared", "--network", "zonal", "house")
    yield host
    host.remove_all()


def text(host: Host, *arguments: str) -> str:
    done = host.zonal(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def status(host: Host, name: str) -> str:
    return text(host, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name).strip()


def in_house(host: Host, *arguments: str) -> str:
    return text(host, "run", "--zone", "house", *arguments)


def disks(host: Host) -> set[str]:
    return set(in_house(host, "--rm", IMAGE, "sh", "-c", "ls /sys/block").split())


def test_workloads_share_network_and_name_and_nothing_else(host: Host) -> None:
    assert in_house(host, "--rm", IMAGE, "hostname").strip() == "shared"
    in_house(host, "-d", "--name", "one", IMAGE, "sh", "-c", f"echo 1 > /mine; echo shm > /dev/shm/ours; {SERVE}")
    seen = "hostname; cat /mine; cat /dev/shm/ours; ls /proc | grep -c '^[0-9]*$'"
    done = host.zonal("run", "--zone", "house", "--rm", IMAGE, "sh", "-c", seen)
    assert done.stdout.decode().split() == ["shared", "shm", "3"], done
    addresses = {in_house(host, "--rm", IMAGE, "cat", "/proc/net/fib_trie") for _ in range(2)}
    assert len(addresses) == 1
    assert "10." in next(iter(addresses))
    with_one = in_house(host, "--rm", "--pid", "container:one", IMAGE, "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline")
    assert "trap" in with_one
    private = in_house(host, "--rm", "--ipc", "private", "-h", "alone", IMAGE, "sh", "-c", "hostname; ls /dev/shm")
    assert private.split() == ["alone"]


def test_verbs_know_workloads(host: Host) -> None:
    in_house(host, "-d", "--name", "two", "-m", "32M", IMAGE, "sh", "-c", f"cat /proc/self/cgroup; {SERVE}")
    assert text(host, "exec", "two", "sh", "-c", "cat /sys/fs/cgroup/memory.max").strip() == str(32 << 20)
    text(host, "update", "-m", "48M", "--cpus", "1", "two")
    limits = text(host, "exec", "two", "sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max")
    assert limits.split() == [str(48 << 20), "100000", "100000"]
    listed = [
        json.loads(line) for line in text(host, "workload", "ls", "--filter", "zone=house", "--json").splitlines()
    ]
    assert {"one", "two"} <= {each["name"] for each in listed}
    assert {each["zone"] for each in listed} == {"house"}
    assert "up" in text(host, "logs", "two")
    text(host, "pause", "two")
    assert status(host, "two").startswith("paused")
    assert host.zonal("exec", "two", "true").returncode != 0
    text(host, "unpause", "two")
    used = json.loads(text(host, "stats", "--no-stream", "--json", "two"))
    assert used["processes"] >= 1
    assert 0 < used["memory_bytes"] <= used["memory_limit_bytes"] == 48 << 20
    assert "sh" in text(host, "top", "two")
    text(host, "workload", "stop", "two")
    assert status(host, "two") == "exited 3"
    text(host, "start", "two")
    assert status(host, "two") == "running 0"
    assert text(host, "exec", "two", "cat", "/proc/1/comm").strip() == "sh"
    text(host, "kill", "two")
    assert text(host, "wait", "two").strip() == "137"
    text(host, "rm", "two")
    assert host.zonal("inspect", "two").returncode != 0


def test_what_it_wrote_is_there_at_its_next_start_and_in_an_image(host: Host) -> None:
    text(host, "workload", "create", "--zone", "house", "--name", "keeps", IMAGE, "sh", "-c", "echo x >> /n; cat /n")
    assert status(host, "keeps") == "created 0"
    assert text(host, "start", "-a", "keeps") == "x\n"
    assert text(host, "start", "-a", "keeps") == "x\nx\n"
    assert "A /n" in text(host, "diff", "keeps")
    text(host, "rm", "keeps")


def test_volumes_tmpfs_and_directories_come_and_go(host: Host, tmp_path: Path) -> None:
    before = disks(host)
    host.zonal("volume", "rm", "between")  # of a test that was stopped
    text(host, "volume", "create", "--size", "64M", "between")
    in_house(host, "--rm", "-v", "between:/data", IMAGE, "sh", "-c", "echo kept > /data/file")
    (tmp_path / "file").write_text("host\n")
    read = in_house(
        host,
        *("--rm", "-v", "between:/data:ro", "-v", f"{tmp_path}:/shared", "--tmpfs", "/t", IMAGE),
        *("sh", "-c", "cat /data/file /shared/file; grep -c ' /t tmpfs' /proc/mounts"),
    )
    assert read.split() == ["kept", "host", "1"]
    assert disks(host) == before
    text(host, "volume", "rm", "between")


def test_it_goes_on_when_zonald_is_killed(host: Host) -> None:
    count = "i=0; while [ $i -lt 60 ]; do echo $i; i=$((i+1)); sleep 0.2; done; exit 5"
    in_house(host, "-d", "--name", "counts", IMAGE, "sh", "-c", count)
    in_house(host, "-d", "--name", "ends", IMAGE, "sh", "-c", "sleep 2; exit 6")
    host.shell("systemctl kill -s KILL zonald; sleep 4")
    host.until_zonald_answers()
    assert text(host, "wait", "ends").strip() == "6"
    assert text(host, "wait", "counts").strip() == "5"
    assert text(host, "logs", "counts").split() == [str(number) for number in range(60)]
    assert status(host, "one") == "running 0"
    assert text(host, "exec", "one", "cat", "/mine").strip() == "1"
    text(host, "rm", "counts", "ends")


def test_what_cannot_be_is_refused(host: Host) -> None:
    for arguments, what in (
        (("run", "--zone", "nobody", IMAGE, "true"), "no zone"),
        (("run", "--zone", "one", IMAGE, "true"), "no zone to be shared"),
        (("run", "--zone", "house", "-p", "80:80", IMAGE, "true"), "as a whole"),
        (("run", "--zone", "house", "--memory-max", "1G", IMAGE, "true"), "as a whole"),
        (("run", "--zone", "house", "--sysctl", "net.ipv4.ip_forward=1", IMAGE, "true"), "belongs to the zone"),
        (("run", "--zone", "house", "--pid", "container:nobody", IMAGE, "true"), "no zone"),
        (("run", "--zone", "house", IMAGE, "/no-such"), "no-such"),
        (("exec", "house", "true"), "no workload of its own"),
        (("zone", "create", "house"), "in use"),
        (("rm", "house"), "is running"),
        (("run", "--name", "one", "--zone", "house", IMAGE, "true"), "in use"),
    ):
        done = host.zonal(*arguments)
        assert done.returncode != 0, arguments
        assert what in done.stderr.decode(), (arguments, done.stderr)
        assert b"Traceback" not in done.stderr


def test_a_workload_ends_with_its_zone_and_comes_back_by_its_policy(host: Host) -> None:
    text(host, "zone", "create", "-m", "128M", "frail")
    always = ("--restart", "always")
    text(host, "run", "-d", "--zone", "frail", "--name", "again", *always, IMAGE, "sh", "-c", SERVE)
    text(host, "run", "-d", "--zone", "frail", "--name", "once", IMAGE, "sh", "-c", SERVE)
    text(host, "restart", "frail")
    deadline = time.monotonic() + 120
    text(host, "start", "again")
    while status(host, "again") != "running 0" and time.monotonic() < deadline:
        time.sleep(1)
    assert status(host, "once").split()[0] == "exited"
    crash = "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"
    host.zonal("run", "--rm", "--privileged", "--zone", "frail", IMAGE, "sh", "-c", crash)
    assert "crashed" in text(host, "ps", "-a", "--filter", "name=frail")
    text(host, "start", "frail")
    while status(host, "again") != "running 0" and time.monotonic() < deadline:
        time.sleep(1)
    assert status(host, "again") == "running 0"
    text(host, "rm", "-f", "frail")
    assert not text(host, "ps", "-aq", "--filter", "zone=frail")


def test_a_zone_takes_all_that_was_in_it_along(host: Host) -> None:
    before = host.snapshot()
    text(host, "zone", "create", "-m", "128M", "brief")
    for name in ("first", "second"):
        text(host, "run", "-d", "--zone", "brief", "--name", name, "-v", "/scratch", IMAGE, "sh", "-c", SERVE)
    text(host, "stop", "brief")
    assert (status(host, "brief"), status(host, "first")) == ("exited 0", "exited 3")
    text(host, "rm", "-v", "brief")
    after = host.snapshot()
    for what in ("domains", "store_keys", "loops", "zone_folders", "spool"):
        assert getattr(after, what) == getattr(before, what), what
