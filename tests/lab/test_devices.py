"""PCI devices in zones, in a lab that has an IOMMU and devices behind it; its name is that of the tests' lab with
``-devices`` behind it."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from typing import Any

import pytest

from tests.lab.conftest import Lab

pytestmark = pytest.mark.long

_IMAGE = """\
set -e
root=$(mktemp -d)
mkdir -p $root/bin $root/etc $root/proc $root/sys $root/dev $root/tmp
cp /usr/bin/busybox $root/bin/
for name in $(busybox --list); do [ $name = busybox ] || ln -s busybox $root/bin/$name; done
printf '#!/bin/sh\\n[ "$1" = bound ] && ip addr add $ip/$mask dev $interface && echo bound $ip\\nexit 0\\n' \
    > $root/etc/udhcpc.sh
chmod +x $root/etc/udhcpc.sh
tar -C $root -cf $root.tar .
zonal image import $root.tar small:1
rm -r $root $root.tar
"""
_LEASE = "ip link set {0} up && udhcpc -i {0} -n -q -s /etc/udhcpc.sh"


@pytest.fixture(scope="module")
def machine() -> Generator[Lab]:
    made = Lab(f"{os.environ.get('ZONAL_TEST_LAB', 'test')}-devices")
    made.up("--devices", "--memory", "4G")
    made.shell(_IMAGE).check()
    yield made
    made.down()


def listed(machine: Lab) -> dict[str, dict[str, Any]]:
    lines = machine.zonal("device", "ls", "--json").check().out.splitlines()
    return {item["address"]: item for item in map(json.loads, lines)}


def find(machine: Lab, class_code: str, vendor: str) -> str:
    return next(
        item["address"]
        for item in listed(machine).values()
        if item["class"].startswith(class_code) and item["vendor"] == vendor
    )


@pytest.fixture(scope="module")
def nic(machine: Lab) -> str:
    """The e1000e's address."""
    return find(machine, "0200", "8086")


def test_the_list_says_what_can_be_given_and_why_not(machine: Lab, nic: str) -> None:
    found = listed(machine)
    assert (found[nic]["owner"], found[nic]["obstacle"]) == ("host", "")
    assert found[nic]["resets"]
    assert {"msi", "msi-x"} <= set(found[nic]["interrupts"])
    host_nic, bridge = found[find(machine, "0200", "1af4")], found[find(machine, "0601", "8086")]
    assert "default route" in host_nic["obstacle"]
    assert "bridge" in bridge["obstacle"]
    assert any("mounted on" in item["obstacle"] for item in found.values())


def test_a_zone_has_a_network_interface_of_the_machine(machine: Lab, nic: str) -> None:
    run = ("run", "--rm", "--network", "none", "--privileged", "--pci", nic, "small:1")
    done = machine.zonal(*run, "sh", "-c", _LEASE.format("eth0") + "; grep eth0 /proc/interrupts").check()
    assert "bound 10.0.2." in done.out
    assert "msi" in done.out.lower()
    # What was taken for the zone has gone back.
    assert listed(machine)[nic]["owner"] == "host"


@pytest.mark.parametrize(
    ("address", "reason"),
    [("00:19.0", "there is no PCI device 0000:00:19.0"), ("nonsense", "not the address of a PCI device")],
)
def test_what_is_not_there_is_refused_in_one_line(machine: Lab, address: str, reason: str) -> None:
    done = machine.zonal("run", "--rm", "--pci", address, "small:1", "true")
    assert done.status == 125
    assert reason in done.err
    assert "Traceback" not in done.err


def test_what_the_host_needs_is_refused(machine: Lab) -> None:
    done = machine.zonal("device", "assign", find(machine, "0200", "1af4"))
    assert done.status == 125
    assert "over which the host's default route goes" in done.err
    assert machine.shell("ip route").check().out.startswith("default")


def test_one_zone_has_it_and_keeps_it_over_a_restart_of_zonald(machine: Lab, nic: str) -> None:
    machine.zonal("device", "assign", nic).check()
    try:
        assert listed(machine)[nic]["owner"] == "free"
        machine.zonal("run", "-d", "--name", "owner", "--privileged", "--pci", nic, "small:1", "sleep", "9999").check()
        for _ in range(2):
            second = machine.zonal("run", "--rm", "--pci", nic, "small:1", "true")
            assert second.status == 125
            assert "zone owner has PCI device" in second.err
            assert machine.zonal("device", "release", nic).status == 125
            machine.shell("systemctl restart zonald; until zonal ps > /dev/null 2>&1; do sleep 1; done").check()
        # Its network is eth0.
        assert "bound 10.0.2." in machine.zonal("exec", "owner", "sh", "-c", _LEASE.format("eth1")).check().out
        machine.zonal("rm", "-f", "owner").check()
        assert listed(machine)[nic]["owner"] == "free"
    finally:
        machine.zonal("rm", "-f", "owner")
        machine.zonal("device", "release", nic).check()
    assert listed(machine)[nic]["owner"] == "host"


def test_a_crash_leaves_the_device_to_the_next_zone(machine: Lab, nic: str) -> None:
    crash = ("run", "--rm", "--privileged", "--network", "none", "--pci", nic, "small:1")
    assert machine.zonal(*crash, "sh", "-c", "echo c > /proc/sysrq-trigger").status != 0
    assert "bound 10.0.2." in machine.zonal(*crash, "sh", "-c", _LEASE.format("eth0")).check().out


def test_a_disk_and_a_display(machine: Lab) -> None:
    disk, display = find(machine, "0106", "8086"), find(machine, "0380", "1234")
    look = "cat /sys/block/sda/size; ls /sys/class/drm"
    run = ("run", "--rm", "--network", "none", "--pci", disk, "--pci", display, "small:1", "sh", "-c", look)
    lines = machine.zonal(*run).check().out.split()
    assert lines[0] == "2097152"
    assert "card0" in lines
