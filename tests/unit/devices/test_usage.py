"""What the host cannot do without is found, with the reason in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.devices.sysfs_tree import HostTree
from zonal.xen.pci.address import parse_address
from zonal.xen.pci.functions import read_function

ROUTES = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\neth0 00000000 0202000A 0003 0 0 0 00000000 0\n"
MOUNTS = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


def used(tree: HostTree) -> str:
    return tree.usage.of(read_function(parse_address("00:03.0"), tree.sysfs))


def test_a_device_without_any_use(tree: HostTree) -> None:
    function = tree.add("0000:00:03.0")
    tree.interface(function, "eth1", up=False)
    tree.disk(function, "sdb", "8:16")
    assert used(tree) == ""


def test_the_interface_of_the_default_route(tree: HostTree) -> None:
    tree.interface(tree.add("0000:00:03.0"), "eth0")
    (tree.proc / "net/route").write_text(ROUTES)
    assert "eth0, over which the host's default route goes" in used(tree)


def test_the_default_route_of_ipv6_counts(tree: HostTree) -> None:
    tree.interface(tree.add("0000:00:03.0"), "eth0")
    none = "0" * 32
    line = f"{none} 00 {none} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"
    (tree.proc / "net/ipv6_route").write_text(line)
    assert "default route" in used(tree)


def test_an_interface_of_a_bridge_that_has_an_address(tree: HostTree) -> None:
    tree.interface(tree.add("0000:00:03.0"), "eth1", master="br0")
    assert used(tree) == ""
    tree.addresses["br0"] = "192.0.2.7"
    assert "eth1 (a part of br0) with the host's address 192.0.2.7" in used(tree)


def test_an_interface_with_an_address_of_ipv6_but_not_one_that_every_interface_has(tree: HostTree) -> None:
    tree.interface(tree.add("0000:00:03.0"), "eth1")
    local = "fe80000000000000505400fffe123456 02 40 20 80 eth1\n"
    (tree.proc / "net/if_inet6").write_text(local)
    assert used(tree) == ""
    (tree.proc / "net/if_inet6").write_text(local + "20010db8000000000000000000000007 02 40 00 80 eth1\n")
    assert "2001:db8::7" in used(tree)


def test_a_disk_with_a_partition_that_is_mounted(tree: HostTree) -> None:
    function = tree.add("0000:00:03.0", class_code=0x010601)
    tree.disk(function, "sda", "8:0")
    tree.disk(function, "sda1", "8:1")
    (tree.proc / "self/mountinfo").write_text(MOUNTS)
    assert used(tree) == "has the disk sda1, which is mounted on /"


def test_a_disk_that_the_host_swaps_to(tree: HostTree) -> None:
    tree.disk(tree.add("0000:00:03.0"), "sda", "8:0")
    (tree.proc / "swaps").write_text("Filename Type Size Used Priority\n/dev/sda partition 1 0 -2\n")
    assert "swaps to" in used(tree)


def test_a_disk_that_another_is_made_of(tree: HostTree) -> None:
    tree.disk(tree.add("0000:00:03.0"), "sda", "8:0", holder="md0")
    assert "md0 is made of" in used(tree)
