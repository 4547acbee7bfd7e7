"""Where a PCI function is: domain (segment), bus, device, function, such as ``0000:00:03.0``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from zonal.errors import InvalidInputError

_ADDRESS = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.ASCII)


@dataclass(frozen=True, order=True, slots=True)
class PciAddress:
    """See the module; shown as Linux shows it."""

    domain: int
    bus: int
    device: int
    function: int

    @property
    def sbdf(self) -> int:
        """As hypercalls have it: segment, bus, device, function from the highest bit down (``xen_domctl``)."""
        return self.domain << 16 | self.bus << 8 | self.device << 3 | self.function

    @property
    def slot(self) -> str:
        """Of all functions of the device."""
        return f"{self.domain:04x}:{self.bus:02x}:{self.device:02x}"

    def __str__(self) -> str:
        return f"{self.slot}.{self.function}"


def parse_address(text: str) -> PciAddress:
    """Of ``0000:00:03.0`` or ``00:03.0``. Raises ``InvalidInputError``."""
    match = _ADDRESS.fullmatch(text.lower())
    if match is None:
        raise InvalidInputError(
            f"{text[:40]!r} is not the address of a PCI device",
            hint="such as 0000:00:03.0 or 00:03.0; `zonal device ls` shows them",
        )
    return PciAddress(*(int(part or "0", 16) for part in match.groups()))
