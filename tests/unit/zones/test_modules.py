"""Which modules a kernel has, by its own lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from zonal.zones.modules import has_modules, modules_for

LISTED = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz\nkernel/net/9p/9pnet.ko.xz:\n"
BUILT_IN = "kernel/net/9p/9pnet-xen.ko\n"


@pytest.fixture(name="modules")
def some_modules(tmp_path: Path) -> Path:
    (tmp_path / "modules.dep").write_text(LISTED)
    (tmp_path / "modules.builtin").write_text(BUILT_IN)
    return tmp_path


def test_those_that_are_listed_or_built_in_are_there(modules: Path) -> None:
    assert has_modules(modules, ("9p", "9pnet_xen", "9pnet"))
    assert has_modules(modules, ())
    # A part of a name is another name.
    assert not has_modules(modules, ("9pne",))
    assert not has_modules(modules, ("9p", "xen-blkfront"))


def test_lists_that_change_are_read_again(modules: Path) -> None:
    assert not has_modules(modules, ("erofs",))
    (modules / "modules.dep").write_text(LISTED + "kernel/fs/erofs/erofs.ko.xz:\n")
    assert has_modules(modules, ("erofs",))
    replaced = modules / "new"
    replaced.write_text(BUILT_IN.replace("xen", "zen"))
    replaced.replace(modules / "modules.builtin")
    assert not has_modules(modules, ("9pnet_xen",))


def test_a_kernel_without_lists_has_none(tmp_path: Path) -> None:
    assert not has_modules(tmp_path, ("9p",))


def test_the_drivers_of_a_device_are_those_that_say_so(modules: Path) -> None:
    (modules / "modules.alias").write_text(
        "# Aliases extracted from modules themselves.\n"
        "alias pci:v00008086d000010D3sv*sd*bc*sc*i* e1000e\n"
        "alias pci:v*d*sv*sd*bc01sc06i01* ahci\n"
        "alias usb:v8086p10D3d*dc* e1000e-usb\n"
    )
    assert modules_for(modules, "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00") == ["e1000e"]
    assert modules_for(modules, "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01") == ["ahci"]
    assert modules_for(modules, "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00") == []
    assert modules_for(modules, "") == []
    assert modules_for(modules / "missing", "pci:v00008086d000010D3sv0sd0bc02sc00i00") == []
