"""PCI functions as sysfs shows them, and which of them an IOMMU can tell apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.devices.sysfs_tree import MULTIFUNCTION, HostTree, config_space
from zonal.errors import InvalidInputError, NotFoundError
from zonal.xen.pci.address import PciAddress, parse_address
from zonal.xen.pci.config_space import PORT_ROOT, read_abilities
from zonal.xen.pci.functions import Region, list_functions, read_function
from zonal.xen.pci.groups import companions, group_names

ALL_ACS = 0x1D


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


@pytest.mark.parametrize("text", ["0000:00:03.0", "00:03.0"])
def test_an_address_with_its_domain_or_without(text: str) -> None:
    address = parse_address(text)
    assert address == PciAddress(0, 0, 3, 0)
    assert str(address) == "0000:00:03.0"


def test_an_address_as_hypercalls_have_it() -> None:
    assert parse_address("0001:82:1f.7").sbdf == 0x0001_82FF


@pytest.mark.parametrize("text", ["", "3.0", "00:03", "00:20.0", "00:03.8", "0:0:03.0", "00:03.0\n", "../00:03.0"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="not the address of a PCI device"):
        parse_address(text)


def test_a_function_is_read_with_its_ranges_and_abilities(tree: HostTree) -> None:
    resource = (
        "0x00000000fe840000 0x00000000fe85ffff 0x0000000000040200\n"
        "0x0000000000000000 0x0000000000000000 0x0000000000000000\n"
        "0x000000000000c040 0x000000000000c05f 0x0000000000040101\n"
    )
    config = config_space(express=0, msi=True, msix=True)
    tree.add("0000:00:03.0", driver="e1000e", resource=resource, config=config, reset="flr pm")
    function = read_function(parse_address("00:03.0"), tree.sysfs)
    assert (function.driver, function.interrupt, function.resets) == ("e1000e", 11, ("flr", "pm"))
    assert function.regions == (Region(0xFE840000, 0x20000, False), Region(0xC040, 0x20, True))
    assert (function.abilities.msi, function.abilities.msix) == (True, True)


def test_one_that_is_not_there(tree: HostTree) -> None:
    with pytest.raises(NotFoundError, match=r"no PCI device 0000:00:09\.0"):
        read_function(parse_address("00:09.0"), tree.sysfs)


def test_one_that_is_unplugged_while_it_is_read_is_left_out(tree: HostTree) -> None:
    tree.add("0000:00:03.0")
    (tree.add("0000:00:04.0") / "class").write_text("nonsense")
    assert [str(each.address) for each in list_functions(tree.sysfs)] == ["0000:00:03.0"]


def test_a_ring_of_capabilities_ends() -> None:
    config = bytearray(config_space(msi=True))
    config[0x41] = 0x40
    assert read_abilities(bytes(config)).msi
    # Unplugged, all of it reads as ones.
    assert not read_abilities(b"\xff" * 4096).msi


def test_single_functions_are_groups_of_their_own(tree: HostTree) -> None:
    for address in ("0000:00:02.0", "0000:00:03.0"):
        tree.add(address)
    names = group_names(list_functions(tree.sysfs))
    assert len(set(names.values())) == 2


def test_functions_of_one_device_go_together_unless_they_are_kept_apart(tree: HostTree) -> None:
    for function in range(2):
        tree.add(f"0000:00:1f.{function}", config=config_space(header=MULTIFUNCTION))
        tree.add(f"0000:00:1d.{function}", config=config_space(header=MULTIFUNCTION, express=0, acs=ALL_ACS))
    functions = list_functions(tree.sysfs)
    assert [str(each.address) for each in companions(parse_address("00:1f.0"), functions)] == ["0000:00:1f.1"]
    assert companions(parse_address("00:1d.0"), functions) == []


def test_what_is_behind_a_conventional_bridge_goes_together_and_the_bridge_itself_stays(tree: HostTree) -> None:
    tree.add("0000:00:1e.0", class_code=0x060401)
    for device in ("0000:01:01.0", "0000:01:02.0"):
        tree.add(device, below="0000:00:1e.0")
    functions = list_functions(tree.sysfs)
    assert [str(each.address) for each in companions(parse_address("01:01.0"), functions)] == ["0000:01:02.0"]


@pytest.mark.parametrize(("control", "apart"), [(ALL_ACS, True), (0x01, False), (None, False)])
def test_a_port_keeps_apart_what_is_behind_it_only_with_access_control(
    tree: HostTree, control: int | None, apart: bool
) -> None:
    tree.add("0000:00:1c.0", class_code=0x060400, config=config_space(express=PORT_ROOT, acs=control))
    for device in ("0000:01:00.0", "0000:01:01.0"):
        tree.add(device, below="0000:00:1c.0", config=config_space(express=0))
    names = group_names(list_functions(tree.sysfs))
    assert (names[parse_address("01:00.0")] != names[parse_address("01:01.0")]) is apart
