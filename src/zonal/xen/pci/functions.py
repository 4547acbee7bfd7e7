"""The PCI functions that the host's kernel knows, as sysfs shows them (Linux, Documentation/PCI/sysfs-pci.rst)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zonal.errors import InvalidInputError, NotFoundError
from zonal.xen.pci.address import PciAddress, parse_address
from zonal.xen.pci.config_space import Abilities, read_abilities

SYSFS = Path("/sys")
PCIBACK = "pciback"
"""The driver of xen-pciback, whatever its module is called."""
IORESOURCE_IO, IORESOURCE_MEM = 0x100, 0x200
"""Flags of a line of ``resource`` (Linux, linux/ioport.h)."""
BAR_COUNT = 7
"""Six base addresses and the ROM; lines after those are windows of bridges and virtual functions."""
_ID_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Region:
    """A range of addresses that a function answers to; ``ports``: of I/O ports, else of memory, in bytes."""

    first: int
    size: int
    ports: bool


@dataclass(frozen=True)
class PciFunction:
    """One function."""

    address: PciAddress
    vendor: int
    device: int
    class_code: int
    """24 bits: class, subclass, programming interface."""
    subsystem: tuple[int, int]
    """Vendor and device."""
    driver: str
    """Empty for none."""
    interrupt: int
    """The legacy line's number; 0 for none."""
    regions: tuple[Region, ...]
    abilities: Abilities
    resets: tuple[str, ...]
    """How it can be reset: "flr", "pm", "bus" and the like; empty when it cannot."""
    modalias: str
    path: Path
    """Its folder below /sys/devices."""
    iommu_group: str
    """By the kernel's own driver of the IOMMU, which there is none of under Xen; then empty."""

    @property
    def is_bridge(self) -> bool:
        """Class 06: what others are behind, or the machine's own."""
        return self.class_code >> 16 == 0x06


def list_functions(sysfs: Path = SYSFS) -> list[PciFunction]:
    """All of them, in order of their addresses; one that is unplugged meanwhile is left out."""
    found: list[PciFunction] = []
    folder = sysfs / "bus/pci/devices"
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            found.append(_read(path.resolve(), parse_address(path.name)))
        except (OSError, ValueError, InvalidInputError):
            continue
    return sorted(found, key=lambda function: function.address)


def read_function(address: PciAddress, sysfs: Path = SYSFS) -> PciFunction:
    """One of them. Raises ``NotFoundError``."""
    path = sysfs / "bus/pci/devices" / str(address)
    try:
        return _read(path.resolve(strict=True), address)
    except (OSError, ValueError):
        raise NotFoundError(
            f"there is no PCI device {address}", hint="it was unplugged, or never there: `zonal device ls` shows all"
        ) from None


def _read(path: Path, address: PciAddress) -> PciFunction:
    driver, group = path / "driver", path / "iommu_group"
    return PciFunction(
        address=address,
        vendor=_number(path / "vendor"),
        device=_number(path / "device"),
        class_code=_number(path / "class", 1 << 24),
        subsystem=(_number(path / "subsystem_vendor"), _number(path / "subsystem_device")),
        driver=driver.resolve().name if driver.exists() else "",
        interrupt=int(_text(path / "irq") or "0"),
        regions=_regions(_text(path / "resource")),
        abilities=read_abilities(_bytes(path / "config")),
        resets=_resets(path),
        modalias=_text(path / "modalias"),
        path=path,
        iommu_group=group.resolve().name if group.exists() else "",
    )


def _regions(text: str) -> tuple[Region, ...]:
    regions: list[Region] = []
    for line in text.splitlines()[:BAR_COUNT]:
        first, last, flags = (int(word, 16) for word in line.split())
        if flags & (IORESOURCE_IO | IORESOURCE_MEM) and last >= first > 0:
            regions.append(Region(first, last - first + 1, bool(flags & IORESOURCE_IO)))
    return tuple(regions)


def _resets(path: Path) -> tuple[str, ...]:
    if not (path / "reset").exists():
        return ()
    return tuple(_text(path / "reset_method").split()) or ("yes",)


def _number(path: Path, limit: int = _ID_MAX) -> int:
    value = int(_text(path) or "0", 16)
    if not 0 <= value < limit:
        raise ValueError(f"{path}: {value:#x}")
    return value


def _text(path: Path) -> str:
    return _bytes(path).decode("ascii", "replace").strip()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
