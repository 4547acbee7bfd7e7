"""Which devices zones may have: refusals, before anything of the host is touched, and what is written down.

There is no Xen here: machines without an IOMMU are asked nothing by a hypercall.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tests.unit.devices.sysfs_tree import MULTIFUNCTION, HostTree, config_space
from tests.unit.devices.test_usage import ROUTES
from zonal.devices.host_devices import HostDevices, WantedDevice, check_distinct
from zonal.devices.names import read_names
from zonal.devices.records import DeviceRecords, SetAside
from zonal.errors import InvalidInputError, NotFoundError, UnavailableError, WrongStateError
from zonal.xen.hypercall import Hypervisor
from zonal.xen.pci.address import parse_address

NIC = "0000:00:03.0"
NO_HYPERVISOR = cast("Hypervisor", None)


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    tree = HostTree(tmp_path)
    (tree.sysfs / "bus/pci/drivers/pciback").mkdir()
    return tree


def devices_of(tree: HostTree) -> HostDevices:
    return HostDevices(NO_HYPERVISOR, tree.proc.parent, sysfs=tree.sysfs, usage=tree.usage, has_iommu=lambda _: False)


def seized(tree: HostTree, address: str = NIC, *, insecure: bool = True) -> None:
    """As pciback and an earlier daemon have left it."""
    tree.add(address, driver="pciback")
    DeviceRecords(tree.proc.parent / "devices.json").put(SetAside(address, 0x8086, 0x10D3, "e1000e", insecure))


def test_without_an_iommu_it_says_what_that_means_and_touches_nothing(tree: HostTree) -> None:
    function = tree.add(NIC, driver="e1000e")
    with pytest.raises(UnavailableError, match="could read and write all of the machine's memory") as refusal:
        devices_of(tree).assign([WantedDevice(NIC)])
    assert "--insecure-no-iommu" in str(refusal.value.hint)
    assert not (function / "driver_override").exists()
    assert DeviceRecords(tree.proc.parent / "devices.json").all() == []


def test_the_orders_to_the_kernel_and_what_is_written_down(tree: HostTree) -> None:
    function = tree.add(NIC, driver="e1000e")
    devices_of(tree).assign([WantedDevice(NIC, insecure=True)])
    pciback = tree.sysfs / "bus/pci/drivers/pciback"
    assert (function / "driver_override").read_text() == "pciback"
    assert (tree.sysfs / "bus/pci/drivers/e1000e/unbind").read_text() == NIC
    assert ((pciback / "new_slot").read_text(), (pciback / "bind").read_text()) == (NIC, NIC)
    assert DeviceRecords(tree.proc.parent / "devices.json").all() == [
        SetAside(NIC, 0x8086, 0x10D3, "e1000e", insecure=True)
    ]


@pytest.mark.parametrize(("class_code", "reason"), [(0x060400, "is a bridge"), (0x020000, "default route")])
def test_what_the_host_cannot_do_without_is_refused(tree: HostTree, class_code: int, reason: str) -> None:
    tree.interface(tree.add(NIC, class_code=class_code, driver="e1000e"), "eth0")
    (tree.proc / "net/route").write_text(ROUTES)
    with pytest.raises(WrongStateError, match=reason):
        devices_of(tree).assign([WantedDevice(NIC, insecure=True)])


def test_a_group_goes_together_or_not_at_all(tree: HostTree) -> None:
    for function in range(2):
        tree.add(f"0000:00:1f.{function}", config=config_space(header=MULTIFUNCTION))
    both = [WantedDevice(f"0000:00:1f.{function}", insecure=True) for function in range(2)]
    with pytest.raises(WrongStateError, match=r"shares its IOMMU group with 0000:00:1f\.1"):
        devices_of(tree).assign(both[:1])
    devices_of(tree).assign(both)


def test_one_that_somebody_else_gave_to_pciback_is_left_alone(tree: HostTree) -> None:
    tree.add(NIC, driver="pciback")
    with pytest.raises(WrongStateError, match="not by Zonal's doing"):
        devices_of(tree).assign([WantedDevice(NIC, insecure=True)])


def test_one_that_a_zone_has_goes_to_nobody_else_until_it_ends(tree: HostTree) -> None:
    seized(tree)
    devices = devices_of(tree)
    with devices.borrow([WantedDevice(NIC)], "first") as (given,):
        assert not given.confined
        assert devices.list()[0].owner == "zone first"
        with pytest.raises(WrongStateError, match=rf"zone first has PCI device {NIC} already"):
            devices.check([WantedDevice(NIC)])
        with pytest.raises(WrongStateError, match="zone first has"):
            devices.release(NIC)
    assert devices.list()[0].owner == "free"


def test_a_zone_that_was_taken_over_has_its_devices(tree: HostTree) -> None:
    seized(tree)
    devices = devices_of(tree)
    with devices.adopt([WantedDevice(NIC)], "old"), pytest.raises(WrongStateError, match="zone old has"):
        devices.check([WantedDevice(NIC)])
    devices.check([WantedDevice(NIC)])


def test_what_was_set_aside_for_confinement_is_not_given_without_it(tree: HostTree) -> None:
    seized(tree, insecure=False)
    with pytest.raises(UnavailableError, match="no IOMMU"):
        devices_of(tree).check([WantedDevice(NIC)])


def test_one_that_was_unplugged(tree: HostTree) -> None:
    DeviceRecords(tree.proc.parent / "devices.json").put(SetAside(NIC, 0x8086, 0x10D3, "e1000e"))
    devices = devices_of(tree)
    devices.recover()
    (info,) = devices.list()
    assert (info.owner, info.obstacle) == ("absent", "was set aside, and is not there")
    with pytest.raises(NotFoundError, match="it was unplugged, or never there"):
        devices.check([WantedDevice(NIC)])


def test_another_device_at_the_address_stays_the_hosts(tree: HostTree) -> None:
    function = tree.add(NIC, driver="ahci")
    DeviceRecords(tree.proc.parent / "devices.json").put(SetAside(NIC, 0x8086, 0xFFFF, "e1000e", insecure=True))
    devices_of(tree).recover()
    assert not (function / "driver_override").exists()


def test_what_is_set_aside_is_so_again_after_the_hosts_restart(tree: HostTree) -> None:
    function = tree.add(NIC, driver="e1000e")
    DeviceRecords(tree.proc.parent / "devices.json").put(SetAside(NIC, 0x8086, 0x10D3, "e1000e", insecure=True))
    devices_of(tree).recover()
    assert (function / "driver_override").read_text() == "pciback"


def test_what_was_lent_to_a_zone_that_is_gone_goes_back(tree: HostTree) -> None:
    tree.add(NIC, driver="pciback")
    records = DeviceRecords(tree.proc.parent / "devices.json")
    records.put(SetAside(NIC, 0x8086, 0x10D3, "e1000e", insecure=True, lent=True))
    (tree.sysfs / "bus/pci/drivers/e1000e").mkdir()
    devices = devices_of(tree)
    devices.recover()
    devices.return_unheld()
    assert (tree.sysfs / "bus/pci/drivers/e1000e/bind").read_text() == NIC
    assert DeviceRecords(tree.proc.parent / "devices.json").get(parse_address(NIC)) is None


@pytest.mark.parametrize(
    "text",
    [
        '[{"address": "../x", "vendor": 1, "device": 2}]',
        '[{"address": "0000:00:03.0", "vendor": 1, "device": 2, "of_a_newer_version": true}]',
        '[{"address": "0000:00',
    ],
)
def test_a_file_that_makes_no_sense_is_refused_and_never_overwritten(
    tree: HostTree, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    path = tree.proc.parent / "devices.json"
    path.write_text(text)
    function = tree.add(NIC, driver="e1000e")
    devices = devices_of(tree)
    devices.recover()
    assert "cannot be read" in caplog.text
    assert [each.owner for each in devices.list()] == ["host"]
    with pytest.raises(UnavailableError, match=r"devices\.json cannot be read") as refusal:
        devices.assign([WantedDevice(NIC, insecure=True)])
    assert "remove it" in str(refusal.value.hint)
    assert not (function / "driver_override").exists()
    assert path.read_text() == text


def test_one_device_twice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="named twice"):
        check_distinct([WantedDevice("00:03.0"), WantedDevice(NIC)])


def test_names_of_the_list_and_without_it(tmp_path: Path) -> None:
    text = "8086  Intel Corporation\n\t10d3  82574L\n\t\t8086 0000  A board\nC 02  Network controller\n\t00  Ethernet\n"
    (tmp_path / "pci.ids").write_text(text)
    names = read_names({(0x8086, 0x10D3)}, tmp_path / "pci.ids")
    assert names.device(0x8086, 0x10D3) == "Intel Corporation 82574L"
    assert names.device(0x8086, 0x1234) == "Intel Corporation device 1234"
    assert names.kind(0x020000) == "Ethernet"
    nothing = read_names({(0x8086, 0x10D3)}, tmp_path / "missing")
    assert (nothing.device(0x8086, 0x10D3), nothing.kind(0x020000)) == ("8086:10d3", "network controller")
