"""Zones that are booted ahead of time, on real ones: taken once, made to fit, never used again, and gone at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab

pytestmark = pytest.mark.lab
BOOT = "cat /proc/sys/kernel/random/boot_id"


@pytest.fixture(name="host", scope="module")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    host.run(IMAGE, "true")
    yield host
    assert host.zonal("pool", "set").returncode == 0
    host.remove_all()


def pool(host: Host) -> dict[str, Any]:
    done = host.zonal("pool", "ls", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def until_full(host: Host) -> None:
    deadline = time.monotonic() + 240
    while any(size["ready"] < size["count"] for size in pool(host)["sizes"]):
        assert time.monotonic() < deadline, pool(host)
        time.sleep(1)


def phases(host: Host, name: str) -> set[str]:
    found = next(zone for zone in host.zones() if zone["name"] == name)
    return {phase["name"] for phase in found["phases"]}


def test_runs_take_zones_that_have_booted_each_of_them_once(host: Host) -> None:
    assert host.zonal("pool", "set", "128M=1").returncode == 0
    until_full(host)
    boots: set[str] = set()
    for number in range(2):
        until_full(host)
        name = f"warm{number}"
        done = host.zonal("run", "--name", name, "-m", "128M", "-h", name, IMAGE, "sh", "-c", f"hostname; {BOOT}")
        assert done.returncode == 0, done.stderr
        hostname, boot = done.stdout.decode().split()
        assert hostname == name
        boots.add(boot)
        assert "kernel" not in phases(host, name)
    assert len(boots) == 2
    assert pool(host)["taken"] == 2
    done = host.zonal("run", "--rm", "-m", "256M", IMAGE, "true")
    assert (done.returncode, pool(host)["taken"]) == (0, 2)
    restarted = host.zonal("start", "-a", "warm0")
    assert restarted.returncode == 0, restarted.stderr
    assert restarted.stdout.decode().split()[1] not in boots
    host.remove_all()


def test_one_is_made_to_fit_with_disks_and_a_network(host: Host) -> None:
    assert host.zonal("pool", "set", "128M-512M/2=1").returncode == 0
    until_full(host)
    script = "echo x > /vol/x; nproc; sed -n 's/MemTotal: *//p' /proc/meminfo; cat /etc/hosts"
    done = host.zonal(
        *("run", "--name", "fit", "--network", "zonal", "-m", "256M", "--cpus", "1", "-v", "/vol"),
        *(IMAGE, "sh", "-c", script),
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "1"
    assert 150_000 < int(lines[1].split()[0]) < 262_144
    assert any(line.startswith("10.") for line in lines[2:]), lines
    assert "kernel" not in phases(host, "fit")
    host.zonal("rm", "-v", "fit")


def test_a_zone_for_workloads_takes_one_and_may_have_directories_of_the_host(host: Host) -> None:
    assert host.zonal("pool", "set", "128M=1").returncode == 0
    until_full(host)
    before = pool(host)["taken"]
    done = host.zonal("zone", "create", "-m", "128M", "housing")
    assert done.returncode == 0, done.stderr
    assert pool(host)["taken"] == before + 1
    assert "kernel" not in phases(host, "housing")
    inside = (
        "run",
        "--rm",
        "--zone",
        "housing",
        "-v",
        "/usr/lib:/host:ro",
        IMAGE,
        "test",
        "-e",
        "/host/os-release",
    )
    done = host.zonal(*inside)
    assert done.returncode == 0, done.stderr
    assert host.zonal("pool", "set").returncode == 0
    host.remove_all()


def test_a_killed_zonald_leaves_none_and_fills_it_anew(host: Host) -> None:
    assert host.zonal("pool", "set", "128M=1").returncode == 0
    until_full(host)
    before = host.snapshot()
    host.shell("systemctl kill -s KILL zonald; sleep 4")
    host.until_zonald_answers()
    until_full(host)
    after = host.snapshot()
    assert len(after.domains) == len(before.domains)
    assert after.domains != before.domains
    assert host.zonal("run", "--rm", "-m", "128M", IMAGE, "true").returncode == 0
    assert pool(host)["taken"] == 1


def test_one_that_is_lost_is_replaced_and_an_emptied_pool_leaves_nothing(host: Host) -> None:
    until_full(host)
    before = pool(host)["lost"]
    host.shell("xl destroy $(xl list | awk '/warm-/ {print $2; exit}')")
    deadline = time.monotonic() + 60
    while pool(host)["lost"] == before and time.monotonic() < deadline:
        time.sleep(0.5)
    until_full(host)
    assert host.zonal("pool", "set").returncode == 0
    assert pool(host)["sizes"] == []
    left = host.snapshot()
    assert left.domains == ("0",)
    assert left.zone_folders == ()


@pytest.mark.parametrize("size", ["128M", "128M=0", "x=1", "1M=1", "128M-4T=1", "128M/99=1", "128M=999"])
def test_a_pool_that_cannot_be_is_refused(host: Host, size: str) -> None:
    host.refused("pool", "set", size)
