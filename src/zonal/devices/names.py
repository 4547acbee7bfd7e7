"""What PCI devices are called: the list of pci.ids(5), which Debian has in its package of that name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

PCI_IDS = Path("/usr/share/misc/pci.ids")
_CLASSES = {
    0x01: "storage controller",
    0x02: "network controller",
    0x03: "display controller",
    0x04: "multimedia controller",
    0x05: "memory controller",
    0x06: "bridge",
    0x07: "communication controller",
    0x08: "system peripheral",
    0x09: "input device controller",
    0x0C: "serial bus controller",
    0x0D: "wireless controller",
    0x12: "processing accelerator",
}
"""Base classes of the PCI Code and ID Assignment Specification, for hosts without the list."""


@dataclass(frozen=True)
class PciNames:
    """Names by number; class names by the first two bytes of the class."""

    vendors: dict[int, str] = field(default_factory=dict[int, str])
    devices: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    classes: dict[int, str] = field(default_factory=dict[int, str])

    def device(self, vendor: int, device: int) -> str:
        """Vendor and device in words, as far as they are known; else their numbers."""
        maker = self.vendors.get(vendor)
        if maker is None:
            return f"{vendor:04x}:{device:04x}"
        return f"{maker} {self.devices.get((vendor, device), f'device {device:04x}')}"

    def kind(self, class_code: int) -> str:
        """What a class (24 bits) is."""
        known = self.classes.get(class_code >> 8) or _CLASSES.get(class_code >> 16)
        return known or f"class {class_code >> 8:04x}"


def read_names(wanted: set[tuple[int, int]], path: Path = PCI_IDS) -> PciNames:
    """Of these vendors and devices, and of all classes; the list is long. Without the list, nothing is known."""
    names = PciNames()
    vendors = {vendor for vendor, _ in wanted}
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            _read(names, lines, vendors, wanted)
    except OSError:
        return names
    return names


def _read(names: PciNames, lines: Iterable[str], vendors: set[int], wanted: set[tuple[int, int]]) -> None:
    vendor, base = -1, -1
    for line in lines:
        text = line.rstrip("\n")
        if not text.strip() or text.startswith(("#", "\t\t")):
            continue
        number, _, name = text.strip().partition("  ")
        try:
            if text.startswith("C "):
                vendor, base = -1, int(number[2:], 16)
            elif not text.startswith("\t"):
                vendor, base = int(number, 16), -1
                if vendor in vendors:
                    names.vendors[vendor] = name
            elif base >= 0:
                names.classes[base << 8 | int(number, 16)] = name
            elif (vendor, int(number, 16)) in wanted:
                names.devices[vendor, int(number, 16)] = name
        except ValueError:
            continue
