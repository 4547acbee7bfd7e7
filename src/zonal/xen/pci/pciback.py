"""Functions in the hands of xen-pciback: taken from their drivers and given back, by sysfs (Linux, drivers/xen).

A function that is "seized" has no driver that would use it, and answers to what a domain asks for through pciback's
half of the PCI device in the store.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from zonal.errors import UnavailableError, WrongStateError
from zonal.xen.pci.address import PciAddress
from zonal.xen.pci.functions import PCIBACK, SYSFS, read_function

MODULE = "xen-pciback"


def load_pciback(sysfs: Path = SYSFS) -> None:
    """Raises ``UnavailableError`` when the host's kernel has no xen-pciback."""
    if (sysfs / "bus/pci/drivers" / PCIBACK).is_dir():
        return
    done = subprocess.run(["modprobe", MODULE], capture_output=True, text=True, check=False)
    if done.returncode or not (sysfs / "bus/pci/drivers" / PCIBACK).is_dir():
        raise UnavailableError(
            f"the host's kernel has no {MODULE}: {done.stderr.strip()[:200]}",
            hint="it needs CONFIG_XEN_PCIDEV_BACKEND, as Debian's kernel has it",
        )


def seize(address: PciAddress, sysfs: Path = SYSFS) -> str:
    """Has pciback take a function; its driver until now, empty for none. Raises ``WrongStateError``, ``ZonalError``."""
    before = read_function(address, sysfs)
    if before.driver == PCIBACK:
        return ""
    load_pciback(sysfs)
    driver = sysfs / "bus/pci/drivers" / PCIBACK
    try:
        # The override keeps its driver from taking it again when it is looked for anew.
        _write(before.path / "driver_override", PCIBACK)
        if before.driver:
            _write(before.path / "driver/unbind", str(address))
        _write(driver / "new_slot", str(address))
        _write(driver / "bind", str(address))
    except OSError as error:
        give_back(address, before.driver, sysfs)
        raise WrongStateError(
            f"PCI device {address} cannot be taken from {before.driver or 'the host'}: {error.strerror}",
            hint="see dmesg in the host",
        ) from error
    return before.driver


def give_back(address: PciAddress, driver: str, sysfs: Path = SYSFS) -> None:
    """Has the host's own driver take it again, if there is one; one that is not there any more is fine."""
    path = sysfs / "bus/pci/devices" / str(address)
    pciback = sysfs / "bus/pci/drivers" / PCIBACK
    held = path / "driver"
    if held.exists() and held.resolve().name == PCIBACK:
        _try_write(held / "unbind", str(address))
    if pciback.is_dir():
        _try_write(pciback / "remove_slot", str(address))
    if path.exists():
        _try_write(path / "driver_override", "\n")
        if not driver or not _try_write(sysfs / "bus/pci/drivers" / driver / "bind", str(address)):
            _try_write(sysfs / "bus/pci/drivers_probe", str(address))


def reset(address: PciAddress, sysfs: Path = SYSFS) -> bool:
    """Puts it into the state of a cold start; whether it can be."""
    path = sysfs / "bus/pci/devices" / str(address) / "reset"
    return path.exists() and _try_write(path, "1")


def allow_all_registers(address: PciAddress, sysfs: Path = SYSFS) -> None:
    """Lets the domain write to all of its configuration space, not only what pciback knows to be harmless."""
    _write(sysfs / "bus/pci/drivers" / PCIBACK / "permissive", str(address))


def _write(path: Path, text: str) -> None:
    # One write, unbuffered: each is an order.
    with path.open("wb", buffering=0) as file:
        file.write(text.encode())


def _try_write(path: Path, text: str) -> bool:
    try:
        _write(path, text)
    except OSError:
        return False
    return True
