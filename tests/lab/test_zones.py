"""Zones that outlive the command that made them, and a zonald that dies."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.driver import IMAGE, TIMEOUT, Host, NamedLab, assert_nothing_left

pytestmark = pytest.mark.lab
LOOP = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()


def detached(host: Host, name: str, *command: str) -> None:
    done = host.zonal("run", "-d", "-m", "128M", "--name", name, IMAGE, *command)
    assert done.returncode == 0, done.stderr


def numbers(host: Host, name: str) -> list[int]:
    return [int(line) for line in host.zonal("logs", name).stdout.split()]


def test_a_detached_zone_is_listed_logged_stopped_and_removed(host: Host) -> None:
    detached(host, "behind", "sh", "-c", f"trap 'echo bye; exit 3' TERM; {LOOP}")
    assert [zone["state"] for zone in host.zones()] == ["running"]
    assert "behind" in host.shell("xl list")
    # The kernel is told to be quiet, but what it warns of is kept.
    assert host.zonal("zone", "console", "behind").returncode == 0
    assert host.zonal("zone", "stop", "behind").returncode == 0
    assert host.zonal("zone", "logs", "--tail", "1", "behind").stdout == b"bye\n"
    zone = host.zones()[0]
    assert (zone["state"], zone["exit_status"], zone["domain_id"]) == ("exited", 3, None)
    assert "behind" not in host.shell("xl list")
    assert host.zonal("zone", "rm", "behind").returncode == 0
    assert host.zones() == []


def test_what_does_not_stop_is_killed(host: Host) -> None:
    detached(host, "deaf", "sh", "-c", f"trap '' TERM; {LOOP}")
    assert host.zonal("zone", "stop", "-t", "1", "deaf").returncode == 0
    assert host.zonal("zone", "wait", "deaf").stdout == b"137\n"


def test_logs_follow_to_the_end(host: Host) -> None:
    detached(host, "counting", "sh", "-c", "for i in 1 2 3 4 5; do echo $i; sleep 0.3; done")
    assert host.zonal("zone", "logs", "-f", "counting").stdout == b"1\n2\n3\n4\n5\n"


def test_a_client_that_is_killed_leaves_the_zone_running(host: Host) -> None:
    with host.start(
        *["run", "-m", "128M", "--name", "left", IMAGE, "sh", "-c", "echo on; sleep 3; echo after; exit 6"],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"on\n"
        process.kill()
    assert host.zonal("zone", "wait", "left").stdout == b"6\n"
    assert host.zonal("zone", "logs", "left").stdout == b"on\nafter\n"


def test_a_restart_of_zonald_disturbs_no_workload(host: Host) -> None:
    for kind in ("systemctl restart zonald", "kill -9 $(systemctl show --property MainPID --value zonald)"):
        detached(host, "steady", "sh", "-c", LOOP)
        before = host.zonald()
        host.shell(kind)
        host.until_zonald_answers()
        assert host.zonald() != before
        zone = host.zones()[0]
        assert zone["state"] == "running"
        reached = len(numbers(host, "steady"))
        while len(numbers(host, "steady")) <= reached:
            pass
        assert host.zonal("zone", "stop", "-t", "1", "steady").returncode == 0
        seen = numbers(host, "steady")
        assert seen == list(range(len(seen))), "a line was lost or came twice"
        host.remove_all()


def test_the_end_of_a_workload_while_zonald_is_dead_is_known(host: Host) -> None:
    detached(host, "ending", "sh", "-c", "sleep 4; echo last; exit 7")
    host.shell("systemctl stop zonald; sleep 6; systemctl start zonald")
    host.until_zonald_answers()
    assert host.zonal("zone", "wait", "ending").stdout == b"7\n"
    assert host.zonal("zone", "logs", "ending").stdout == b"last\n"


@pytest.mark.parametrize("delay", [0.2, pytest.param(2.0, marks=pytest.mark.long), 4.0])
def test_zonald_killed_during_a_launch_leaves_nothing(host: Host, delay: float) -> None:
    host.run(IMAGE, "true")
    before = host.snapshot()
    with host.start(
        *["run", "-m", "128M", "--name", "half", IMAGE, "sleep", "1000"], stderr=subprocess.PIPE
    ) as process:
        host.shell(
            'for i in $(seq 600); do [ -n "$(ls /var/lib/zonal/zones)" ] && break; sleep 0.05; done; '
            f"sleep {delay}; kill -9 $(systemctl show --property MainPID --value zonald)"
        )
        assert process.wait(TIMEOUT) == 125
    host.until_zonald_answers()
    # Killed before the workload was started, the zone is undone; afterwards it is taken back.
    host.remove_all()
    after = host.snapshot()
    assert_nothing_left(before, after, growth_kib=32768)
    host.run(IMAGE, "true")


@pytest.mark.long
def test_a_zone_destroyed_with_200_mb_in_flight(host: Host) -> None:
    host.run(IMAGE, "true")
    before = host.snapshot()
    with host.start(
        *["run", "--rm", "-m", "128M", "--name", "flood", IMAGE, "sh", "-c", "yes | head -c 200000000; sleep 1000"],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.read(4096)
        assert host.zonal("zone", "rm", "-f", "flood").returncode == 0
        rest = process.stdout.read()
        assert len(rest) < 200_000_000
        assert set(rest) <= set(b"y\n")
        assert process.wait(TIMEOUT) != 0
    assert host.zones() == []
    assert_nothing_left(before, host.snapshot())


def test_a_reader_that_is_stuck_blocks_only_itself(host: Host) -> None:
    with host.start("run", "--rm", "-m", "128M", "--name", "stuck", IMAGE, "yes", stdout=subprocess.PIPE) as stuck:
        assert stuck.stdout
        assert stuck.stdout.readline() == b"y\n"
        assert host.run(IMAGE, "echo", "other").stdout == b"other\n"
        assert host.zonal("zone", "kill", "stuck").returncode == 0
        stuck.stdout.read()
        assert stuck.wait(TIMEOUT) == 137
