"""What is written into the store for each device, and who may read and write it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.unit.xen.c_layout import c_values
from zonal.errors import InvalidInputError, NotFoundError
from zonal.xen.devices.console import plan_console
from zonal.xen.devices.vbd import Disk, disk_from_path, disk_number, plan_vbd, vbd
from zonal.xen.devices.vif import Interface, host_interface, plan_vif, random_mac, vif
from zonal.xen.devices.xenbus import XenbusState
from zonal.xen.store import Access, Entry, Permission


def values(entries: list[Entry], directory: str) -> dict[str, str | bytes]:
    prefix = f"{directory}/"
    return {entry.path.removeprefix(prefix): entry.value for entry in entries if entry.path.startswith(prefix)}


def test_states_are_those_of_the_header() -> None:
    names = {
        "UNKNOWN": "XenbusStateUnknown",
        "INITIALISING": "XenbusStateInitialising",
        "INIT_WAIT": "XenbusStateInitWait",
        "INITIALISED": "XenbusStateInitialised",
        "CONNECTED": "XenbusStateConnected",
        "CLOSING": "XenbusStateClosing",
        "CLOSED": "XenbusStateClosed",
        "RECONFIGURING": "XenbusStateReconfiguring",
        "RECONFIGURED": "XenbusStateReconfigured",
    }
    theirs = c_values(["xen/io/xenbus.h"], list(names.values()))
    assert {name: state.value for name, state in XenbusState.__members__.items()} == {
        ours: theirs[name] for ours, name in names.items()
    }


def test_a_disk_has_all_that_both_drivers_read() -> None:
    disk = Disk("xvdb", Path("/dev/loop17"), os.makedev(7, 17))
    device = vbd(5, disk)
    assert device.frontend == "/local/domain/5/device/vbd/51728"
    assert device.backend == "/local/domain/0/backend/vbd/5/51728"
    entries = plan_vbd(5, disk)
    assert values(entries, device.frontend) == {
        "backend": device.backend,
        "backend-id": "0",
        "state": "1",
        "virtual-device": "51728",
        "device-type": "disk",
    }
    backend = values(entries, device.backend)
    assert backend["frontend"] == device.frontend
    assert backend["frontend-id"] == "5"
    assert backend["physical-device"] == "7:11"
    assert (backend["mode"], backend["params"], backend["type"]) == ("r", "/dev/loop17", "phy")
    assert (backend["online"], backend["state"], backend["hotplug-status"]) == ("1", "1", "connected")


def test_a_writable_disk_says_so() -> None:
    disk = Disk("xvda", Path("/dev/sda"), os.makedev(259, 300), writable=True)
    backend = values(plan_vbd(5, disk), vbd(5, disk).backend)
    assert (backend["mode"], backend["physical-device"], backend["discard-enable"]) == ("w", "103:12c", "1")


def test_the_zone_owns_its_end_only() -> None:
    disk = Disk("xvda", Path("/dev/loop0"), os.makedev(7, 0))
    interface = Interface(0, "00:16:3e:00:00:01")
    for device, entries in (
        (vbd(5, disk), plan_vbd(5, disk)),
        (vif(5, interface), plan_vif(5, interface)),
    ):
        for entry in entries:
            if entry.path == device.frontend or entry.path.startswith(f"{device.frontend}/"):
                assert entry.permissions == (Permission(5), Permission(0, Access.READ))
            else:
                assert entry.permissions == (Permission(0), Permission(5, Access.READ))
        paths = [entry.path for entry in entries]
        assert len(paths) == len(set(paths))
        assert paths.index(f"{device.backend}/state") < paths.index(device.frontend)
        assert "/local/domain/5/device" in paths


def test_a_driver_domain_owns_its_end() -> None:
    disk = Disk("xvda", Path("/dev/loop0"), os.makedev(7, 0))
    device = vbd(5, disk, backend_id=3)
    assert device.backend == "/local/domain/3/backend/vbd/5/51712"
    for entry in plan_vbd(5, disk, backend_id=3):
        if entry.path.startswith(device.backend):
            assert entry.permissions == (Permission(3), Permission(5, Access.READ))
        elif entry.path.startswith(device.frontend):
            assert entry.permissions == (Permission(5), Permission(3, Access.READ))


def test_disk_numbers_are_those_that_linux_knows() -> None:
    assert [disk_number(name) for name in ("xvda", "xvdb", "xvdc", "xvdz")] == [51712, 51728, 51744, 1 << 28 | 25 << 8]
    assert [disk_number(name) for name in ("xvdaa", "xvdba", "xvdzz")] == [1 << 28 | n << 8 for n in (26, 52, 701)]
    for wrong in ("sda", "xvd", "xvdaaa", "xvdA", "xvdaA", "xvd1", ""):
        with pytest.raises(InvalidInputError, match="xvda to xvdzz"):
            disk_number(wrong)


def test_only_block_devices_are_disks(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        disk_from_path("xvda", tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="not a block device"):
        disk_from_path("xvda", tmp_path / "file")


def test_an_interface_waits_for_the_host() -> None:
    interface = Interface(1, "00:16:3e:00:00:01", mtu=9000, rate=(10_000, 50_000))
    device = vif(5, interface)
    entries = plan_vif(5, interface)
    backend = values(entries, device.backend)
    assert "hotplug-status" not in backend
    assert backend["script"] == "/bin/true"
    assert (backend["mac"], backend["handle"], backend["rate"]) == ("00:16:3e:00:00:01", "1", "10000,50000")
    frontend = values(entries, device.frontend)
    assert (frontend["mac"], frontend["handle"], frontend["mtu"]) == ("00:16:3e:00:00:01", "1", "9000")
    assert host_interface(5, interface) == "vif5.1"


def test_hardware_addresses_are_checked() -> None:
    plan_vif(5, Interface(0, random_mac()))
    for wrong in ("", "00:16:3e:00:00", "00:16:3E:00:00:01", "01:00:5e:00:00:01", "00:16:3e:00:00:01\n"):
        with pytest.raises(InvalidInputError, match="hardware address"):
            plan_vif(5, Interface(0, wrong))
    with pytest.raises(InvalidInputError, match="MTU of 67"):
        plan_vif(5, Interface(0, random_mac(), mtu=67))


def test_the_console_is_not_for_the_console_daemon() -> None:
    entries = plan_console(5, frame=0x12345, port=2)
    assert values(entries, "/local/domain/5/console") == {
        "ring-ref": str(0x12345),
        "port": "2",
        "type": "zonal",
        "limit": "1048576",
        "output": "pty",
    }
    assert {entry.permissions for entry in entries} == {(Permission(0), Permission(5, Access.READ))}
