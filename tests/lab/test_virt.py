"""Zones that the hardware helps: the same from outside, another kind of domain underneath."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.driver import IMAGE, Host, NamedLab

pytestmark = pytest.mark.lab


@pytest.fixture(name="host")
def the_host(lab: NamedLab) -> Iterator[Host]:
    host = Host(lab)
    yield host
    host.remove_all()


def run(host: Host, *arguments: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Once more, if the emulator has put the hypervisor's registers in place of the zone's: see docs/lab.md."""
    done = host.zonal("run", *arguments, stdin=stdin)
    for _ in range(4):
        if done.returncode != 125 or not done.stderr.strip().endswith(b"its kernel crashed"):
            break
        done = host.zonal("run", *arguments, stdin=stdin)
    return done


@pytest.mark.parametrize("virt", ["pv", "pvh"])
def test_a_zone_is_what_was_asked_for(host: Host, virt: str) -> None:
    script = "cat /sys/hypervisor/guest_type; nproc; cat > /x; cat /x; exit 7"
    done = run(
        host,
        *("-i", "--name", "kind", "--virt", virt, "-m", "256M", "--cpus", "2", "--network", "zonal"),
        *(IMAGE, "sh", "-c", script),
        stdin=b"to and fro\n",
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.decode().splitlines() == [virt.upper(), "2", "to and fro"]
    (zone,) = host.zones()
    assert zone["virt"] == virt


def test_memory_of_a_pvh_zone_grows_and_comes_back(host: Host) -> None:
    done = run(
        host,
        *("-d", "--name", "elastic", "--virt", "pvh", "-m", "128M", "--memory-max", "512M"),
        *(IMAGE, "sleep", "1000"),
    )
    assert done.returncode == 0, done.stderr
    held = "xl list -l elastic >/dev/null 2>&1; xl list | awk '$1 == \"elastic\" {print $3}'"
    assert 100 < int(host.shell(held)) <= 140
    assert host.zonal("update", "-m", "384M", "elastic").returncode == 0
    grown = host.zonal("exec", "elastic", "sh", "-c", "head -c 250M /dev/zero | tail -c 250M | wc -c")
    assert grown.stdout.strip() == b"262144000", grown.stderr
    assert int(host.shell(held)) > 300
    document = json.loads(host.zonal("inspect", "elastic").stdout)[0]
    assert document["Zone"]["virt"] == "pvh"


def test_a_panic_of_a_pvh_zone_is_told_of(host: Host) -> None:
    done = run(host, "-d", "--name", "panics", "--virt", "pvh", "--privileged", IMAGE, "sleep", "1000")
    assert done.returncode == 0, done.stderr
    host.zonal("exec", "panics", "sh", "-c", "echo c > /proc/sysrq-trigger")
    assert host.zonal("wait", "panics").returncode == 0
    (zone,) = host.zones()
    assert zone["state"] == "crashed"
    assert "sysrq triggered crash" in zone["reason"]


def test_what_is_no_kind_is_refused(host: Host) -> None:
    assert host.zonal("run", "--virt", "hvm", IMAGE, "true").returncode != 0
    host.zonal("zone", "create", "shared")
    host.refused("run", "--zone", "shared", "--virt", "pvh", IMAGE, "true")
