"""QEMU's command line, and a QEMU that does not come up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from zonal.errors import WrongStateError
from zonal.lab import qemu
from zonal.lab.disk import BaseDisk
from zonal.lab.making import prune
from zonal.lab.paths import Cache, LabPaths, cache
from zonal.lab.running import kill
from zonal.lab.spec import ALL_SNAPSHOTABLE, Spec
from zonal.lab.state import LabState, save


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cache:
    monkeypatch.setenv("ZONAL_CACHE", str(tmp_path))
    return cache()


@pytest.fixture
def base(place: Cache) -> BaseDisk:
    made = BaseDisk(place.disks / "0123456789abcdef")
    made.folder.mkdir()
    (made.folder / "identity").write_text("first")
    return made


def test_the_accelerator_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZONAL_LAB_ACCEL", "tcg")
    assert qemu.accelerator() == "tcg"
    monkeypatch.setenv("ZONAL_LAB_ACCEL", "xen")
    with pytest.raises(WrongStateError, match="ZONAL_LAB_ACCEL"):
        qemu.accelerator()


def test_a_snapshot_fits_only_the_machine_that_it_was_taken_of(base: BaseDisk) -> None:
    specs = [
        Spec(),
        Spec(cpus=1),
        Spec(memory_bytes=3 << 30),
        Spec(devices=("e1000e",)),
        Spec(devices=("intel-iommu",)),
    ]
    digests = [qemu.machine(spec, base).digest for spec in specs]
    assert len(set(digests)) == len(specs)
    assert qemu.machine(Spec(), base).digest == digests[0]
    (base.folder / "identity").write_text("second")
    assert qemu.machine(Spec(), base).digest != digests[0]


def test_the_iommu_comes_before_the_devices_behind_it(base: BaseDisk) -> None:
    arguments = qemu.machine(Spec(devices=("e1000e", "intel-iommu")), base).arguments
    places = [n for n, argument in enumerate(arguments) if argument.startswith(("intel-iommu", "e1000e", "virtio-blk"))]
    assert arguments[places[0]].startswith("intel-iommu")
    assert "q35,sata=off,smbus=off,vmport=off,kernel-irqchip=split" in arguments


def test_a_lab_with_all_devices_can_be_saved(base: BaseDisk) -> None:
    spec = Spec(devices=ALL_SNAPSHOTABLE)
    assert spec.snapshotable
    arguments = qemu.machine(spec, base).arguments
    assert "e1000e,netdev=extra,romfile=" in arguments
    # QEMU saves nothing while a disk that can be written is in another format.
    assert any(argument.startswith("driver=qcow2,node-name=ahci") for argument in arguments)


def test_ports_are_different_and_free() -> None:
    ports = qemu.choose_ports()
    assert ports.ssh != ports.zonald


def test_a_lab_that_was_never_started_does_not_run(place: Cache) -> None:
    paths = place.lab("none")
    assert not qemu.is_running(paths)
    kill(paths)


def make_disks(paths: LabPaths) -> None:
    paths.folder.mkdir()
    for disk in (paths.root_disk, paths.data_disk):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)


@pytest.mark.parametrize("kernel", [b"no kernel at all", b""])
def test_a_qemu_that_ends_at_once_says_why(place: Cache, base: BaseDisk, kernel: bytes) -> None:
    paths = place.lab("broken")
    make_disks(paths)
    for path in (base.xen, base.kernel, paths.boot_files):
        path.write_bytes(kernel)
    process = qemu.start(paths, base, qemu.machine(Spec(cpus=1), base), qemu.choose_ports(), None)
    assert process.wait() != 0
    assert not qemu.is_running(paths)
    assert "kernel" in qemu.why_it_ended(paths).message


def test_a_port_that_is_taken_is_told_apart(place: Cache, base: BaseDisk) -> None:
    paths = place.lab("taken")
    make_disks(paths)
    paths.qemu_log.write_text("qemu-system-x86_64: -netdev user: Could not set up host forwarding rule 'tcp::1-:2'\n")
    assert isinstance(qemu.why_it_ended(paths), qemu.PortTakenError)


def test_only_disks_that_no_lab_uses_are_pruned(place: Cache, base: BaseDisk) -> None:
    unused = place.disks / "fedcba9876543210"
    unused.mkdir()
    (unused / "base.qcow2").write_bytes(bytes(8192))
    place.lab("user").folder.mkdir()
    save(place.lab("user"), LabState(Spec(), base.folder.name, "first"))
    prune(place)
    assert [folder.name for folder in place.disks.iterdir()] == [base.folder.name]


def test_a_panic_of_the_host_is_told_apart_from_other_ends(place: Cache) -> None:
    paths = place.lab("ended")
    paths.folder.mkdir()
    paths.console.write_text(
        "[    3.1] Kernel panic - not syncing: Fatal exception\n[    3.2] Kernel Offset: disabled\n"
    )
    error = qemu.why_it_ended(paths)
    assert isinstance(error, qemu.HostCrashedError)
    assert "Fatal exception" in error.message
    paths.console.write_text("[   36.4] reboot: Power down\n")
    assert not isinstance(qemu.why_it_ended(paths), qemu.HostCrashedError)
